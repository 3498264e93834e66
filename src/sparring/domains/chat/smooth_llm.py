"""Several answers to a message with random letters changed, of which the most usual one counts (SmoothLLM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

import torch
from torch import Tensor

from sparring.domains.chat.assistant import Around
from sparring.domains.chat.cases import ATTACK, DOCUMENT, Case
from sparring.domains.chat.goals import plain
from sparring.domains.chat.language_model import LanguageModel, scored
from sparring.domains.chat.threats import PRINTABLE
from sparring.errors import BadInput
from sparring.streams import Streams
from sparring.types import Access

LETTERS = sorted(PRINTABLE)


@dataclass
class Smoothed(Around):
    """An assistant that answers `copies` of a message, in each of which a share of the letters is drawn anew.

    Robey et al. (2023), with their random swaps. They let the copies vote on whether an answer is a refusal; what an
    assistant should say instead is not known here, so that the answer counts which is most like all others. The draws
    belong to the message and to `secret`: the same message gets the same answer.

    Its slot is the view of an attacker who knows it (expectation over transformation; Athalye et al., 2018): the mean
    loss over `draws` copies with draws of the attacker's own. Letters have no gradient, so that only scores are left;
    reached is what comes out of more than half of the copies.
    """

    copies: int = field(kw_only=True, default=10)
    share: float = field(kw_only=True, default=0.1)
    draws: int = field(kw_only=True, default=5)
    secret: int = field(kw_only=True, default=0)

    @property
    def name(self) -> str:
        """The assistant, and how it is defended."""
        return f"{self.model.name} behind smooth-llm"

    @property
    def access(self) -> Access:
        """Scores at most."""
        return "scores" if isinstance(self.model, LanguageModel) else "labels"

    def answers(self, x: Case, texts: Sequence[str]) -> list[str]:
        """For each text the answer that is most like those to the other copies."""
        return [self._answer(x, text) for text in texts]

    def _answer(self, x: Case, text: str) -> str:
        copies = self.perturbed(x.written(text), "deployed", self.copies)
        answers = [self.model.answers(written(x, copy), [""])[0] for copy in copies]
        likeness = [sum(alike(one, other) for other in answers) for one in answers]
        return answers[max(range(len(answers)), key=likeness.__getitem__)]

    def perturbed(self, message: str, whose: str, count: int) -> list[str]:
        """Copies of a message, in each of which `share` of the letters are drawn anew."""
        rng = Streams.of(self.secret, [0]).at(whose).at(message)
        changed = max(1, round(self.share * len(message))) if message else 0
        copies = []
        for i in range(count):
            draws = rng.at(i)
            places = draws.at("places").uniform(max(len(message), 1))[0].argsort()[:changed].tolist()
            fresh = draws.at("letters").integers(len(LETTERS), max(changed, 1))[0].tolist()
            new = dict(zip(places, fresh, strict=False))
            copies.append("".join(LETTERS[new[j]] if j in new else letter for j, letter in enumerate(message)))
        return copies

    def slot(self, x: Case, wanted: str) -> SmoothedSlot:
        """The place, by scores alone.

        Raises:
            BadInput: a model whose scores nobody knows.
        """
        if not isinstance(self.model, LanguageModel):
            raise BadInput(
                f"the scores of {self.name}", "a language model", "choose genetic, which needs answers alone"
            )
        return SmoothedSlot(self, self.model, x, torch.tensor(self.model.ids(wanted)))


@dataclass
class SmoothedSlot:
    """A place in a message of which changed copies are answered."""

    by: Smoothed
    model: LanguageModel
    x: Case
    wanted: Tensor

    def scores(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The mean loss over the attacker's own copies, and whether more than half of them say it."""
        begun, draws = self.model.gap([], []), self.by.draws
        copies = [copy for text in texts for copy in self.by.perturbed(self.x.written(text), "attacker", draws)]
        conversations = [written(self.x, copy).conversation("") for copy in copies]
        losses, reached = scored(begun, conversations, self.wanted)
        return losses.view(-1, draws).mean(1), reached.view(-1, draws).float().mean(1) > 0.5

    def start(self, length: int, allowed: Tensor, rng: Streams) -> Tensor:
        """Some tokens."""
        some = allowed.nonzero().flatten()
        return some[rng.at("start").integers(len(some), length)[0]]

    def text(self, ids: Tensor) -> str:
        """The model's."""
        return self.model.spelled(ids)

    def tokens(self, text: str) -> Tensor:
        """The model's, where nothing is changed."""
        return torch.tensor(self.model.ids(text)).long()

    def fits(self, ids: Tensor) -> Tensor:
        """Whatever is written is changed before it is read."""
        return torch.ones(len(ids), dtype=torch.bool)

    def loss(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the tokens as text."""
        return self.scores([self.text(row) for row in ids])

    def slope(self, ids: Tensor) -> Tensor:
        """There is none.

        Raises:
            BadInput: always.
        """
        raise BadInput(f"the gradient of {self.by.name}", "an attack that needs scores alone", "choose random-search")


def written(x: Case, message: str) -> Case:
    """A case with a message that is already filled in; the attacker's place is empty and stands at its end."""
    return replace(x, message=f"{message.replace(ATTACK, '').replace(DOCUMENT, '')}{ATTACK}", document=None)


def alike(one: str, other: str) -> float:
    """How like two answers are, from 0 to 1."""
    return SequenceMatcher(None, plain(one), plain(other), autojunk=False).ratio()
