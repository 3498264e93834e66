"""The recommenders against those of LensKit and of implicit, where these are installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from sparring.domains.recommenders.alternating import WRMF
from sparring.domains.recommenders.ease import EASE
from sparring.domains.recommenders.interactions import Interactions, as_implicit
from sparring.domains.recommenders.neighbours import ItemKNN, UserKNN
from sparring.domains.recommenders.synthetic import synthetic
from sparring.streams import Streams

RNG = Streams.of(0, [0])
pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore"),  # of theirs
]


def lenskit(scorer: Any, data: Interactions) -> Tensor:
    """What a scorer of LensKit says of all items for all users."""
    pandas = pytest.importorskip("pandas")
    from lenskit.data import ItemList, RecQuery, from_interactions_df
    from lenskit.training import TrainingOptions

    frame = pandas.DataFrame({"user_id": data.users, "item_id": data.items, "rating": data.ratings.numpy()})
    known = from_interactions_df(frame)
    scorer.train(known, TrainingOptions(rng=0))
    items, rows = ItemList(item_ids=np.arange(data.shape[1])), []
    for user in range(data.shape[0]):
        query = RecQuery(user_id=user, user_items=known.user_row(user))
        rows.append(scorer(query=query, items=items).scores())
    return torch.from_numpy(np.stack(rows)).float()


def agree(ours: Tensor, theirs: Tensor) -> float:
    """The share of what they score at all that is the same."""
    some = theirs.isfinite()
    assert some.float().mean() > 0.5
    return float(((ours - theirs)[some].abs() < 1e-3).float().mean())


def test_user_knn_predicts_what_lenskit_predicts() -> None:
    knn = pytest.importorskip("lenskit.knn", reason="LensKit is not installed: pip install lenskit")
    data = synthetic(80, 100, length=30)
    scorer = knn.UserKNNScorer(max_nbrs=10, min_nbrs=1, min_sim=1e-6)
    assert agree(UserKNN(neighbours=10)(data, RNG), lenskit(scorer, data)) > 0.99


def test_item_knn_predicts_what_lenskit_predicts() -> None:
    knn = pytest.importorskip("lenskit.knn", reason="LensKit is not installed: pip install lenskit")
    data = synthetic(80, 100, length=30)
    scorer = knn.ItemKNNScorer(max_nbrs=10, min_nbrs=1, min_sim=1e-6)
    assert agree(ItemKNN(neighbours=10)(data, RNG), lenskit(scorer, data)) > 0.99


def test_ease_scores_as_lenskit_does() -> None:
    knn = pytest.importorskip("lenskit.knn", reason="LensKit is not installed: pip install lenskit")
    data = as_implicit(synthetic(80, 100, length=30))
    assert agree(EASE(penalty=50)(data, RNG), lenskit(knn.EASEScorer(regularization=50), data)) > 0.999


def test_weighted_factors_reach_the_loss_that_implicit_reaches() -> None:
    als = pytest.importorskip("implicit.als", reason="implicit is not installed: pip install implicit")
    data = as_implicit(synthetic(150, 200, length=30))
    theirs = als.AlternatingLeastSquares(
        factors=8, regularization=5, alpha=11, iterations=60, use_cg=False, random_state=0, num_threads=1
    )  # its alpha is the confidence of what is there, ours is what that has above 1
    theirs.fit(sparse.csr_matrix(data.rated.numpy()), show_progress=False)
    scores = torch.from_numpy(theirs.user_factors @ theirs.item_factors.T)
    ours, confidence = WRMF(factors=8, penalty=5, alpha=10, steps=60)(data, RNG), 1 + 10 * data.rated
    losses = [float((confidence * (data.rated - found).square()).sum()) for found in (ours, scores)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert np.corrcoef(ours.flatten(), scores.flatten())[0, 1] > 0.99
