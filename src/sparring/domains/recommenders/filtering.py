"""A defence: train without the users who look fake."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.domains.recommenders.detectors import Detector, pca
from sparring.domains.recommenders.interactions import Interactions
from sparring.domains.recommenders.recommender import Recommender
from sparring.streams import Streams


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """Leave the ratings of a share of all users out, those most suspect, and train on the others.

    A recommender like any other, so that it is audited like any other: by attacks too that evade the detector. Real
    users who are left out are served as if they had rated nothing, which is what it costs.
    """

    recommender: Recommender
    detector: Detector = pca
    share: float = 0.05

    def __call__(self, data: Interactions, rng: Streams) -> Tensor:
        """The scores of all users for all items, `(users, items)`."""
        out = self.detector(data).topk(round(self.share * data.shape[0])).indices
        return self.recommender(data.kept(~torch.isin(data.users, out)), rng)
