"""BPR: factors that rank what a user has before what the user has not (Rendle et al., 2009)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sparring.domains.recommenders.interactions import Interactions
from sparring.streams import Streams


@dataclass(frozen=True, kw_only=True)
class BPR:
    """Climb `log sigmoid(s_ui - s_uj) - penalty |factors|^2` for `i` that `u` has and a `j` drawn from the others.

    Scores are `p_u . q_i + b_i`, the climber is Adam. What is drawn as `j` and yet had is left out.
    """

    factors: int = 32
    epochs: int = 30
    batch: int = 2048
    rate: float = 0.01
    penalty: float = 1e-4

    def __call__(self, data: Interactions, rng: Streams) -> Tensor:
        """The scores of all users for all items, `(users, items)`."""
        users = 0.1 * rng.at("users").normal(data.shape[0], self.factors)[0]
        items = 0.1 * rng.at("items").normal(data.shape[1], self.factors)[0]
        parameters = [users.requires_grad_(), items.requires_grad_(), torch.zeros(data.shape[1], requires_grad=True)]
        adam = torch.optim.Adam(parameters, self.rate)
        with torch.enable_grad():
            for epoch in range(self.epochs):
                draws = rng.at("epoch").at(epoch)
                others = draws.at("others").integers(data.shape[1], len(data.users))[0]
                fair = data.rated[data.users, others] == 0
                order = draws.at("order").bits(len(data.users))[0].argsort()
                for rows in torch.split(order[fair[order]], self.batch):
                    adam.zero_grad()
                    triples = torch.stack([data.users[rows], data.items[rows], others[rows]])
                    torch.autograd.backward(self.loss(parameters, triples))
                    adam.step()
        users, items, bias = (parameter.detach() for parameter in parameters)
        return users @ items.T + bias

    def loss(self, parameters: list[Tensor], triples: Tensor) -> Tensor:
        """What is minimised on triples `(3, n)` of user, item and other item (section 4.1)."""
        (users, items, bias), (u, i, j) = parameters, triples
        p, q, o = users[u], items[i], items[j]
        apart = (p * (q - o)).sum(1) + bias[i] - bias[j]
        size = p.square().sum(1) + q.square().sum(1) + o.square().sum(1)
        return -logsigmoid(apart).mean() + self.penalty * size.mean()
