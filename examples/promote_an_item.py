"""A recommender of one's own, and fake users: how many of them put an item before everybody, and would one notice?

python examples/promote_an_item.py [RATINGS]

RATINGS is a file such as MovieLens' u.data; without it ratings are made up.
"""

import sys

import torch

from sparring.domains.recommenders.attacks import ATTACKS
from sparring.domains.recommenders.audit import audit
from sparring.domains.recommenders.reading import load
from sparring.domains.recommenders.synthetic import synthetic
from sparring.domains.recommenders.threats import fake_users

TRIED = ("random", "average", "segment", "popular")


def damped_means(data, rng):
    """Everybody is told the same: the mean rating of an item, as if five more users had found it average."""
    return ((data.matrix.sum(0) + 5 * data.ratings.mean()) / (data.popularity + 5)).expand(data.shape)


def taste(data, rng):
    """And one's own taste: eight singular vectors of what the ratings are beyond that, learned from scratch."""
    means = damped_means(data, rng)
    u, s, v = torch.linalg.svd(data.rated * (data.matrix - means), full_matrices=False)
    return means + u[:, :8] * s[:8] @ v[:8]


if __name__ == "__main__":
    torch.set_num_threads(1)
    data = load(sys.argv[1]) if len(sys.argv) > 1 else synthetic()
    threat = fake_users("5%", data)
    print(f"{threat.users} fake users beside {data.shape[0]} real ones, with {threat.ratings} ratings each")
    for recommender in (damped_means, taste):
        attacks = {name: ATTACKS[name].make for name in TRIED}
        found = audit(recommender, data, threat, attacks=attacks, name=recommender.__name__)
        print(f"{found.recommender}: {found.verdict}: {'; '.join(found.reasons)}")
        for item in found.items:
            best = found.strongest(item)
            caught = max(best.suspicion, key=lambda one: one.caught)
            print(
                f"  item {item}, {best.ratings} ratings: in the top ten of {best.clean.estimate:.1%}, then of "
                f"{best.attacked.estimate:.1%} ({best.attack}); {caught.detector} catches {caught.caught:.0%} of them"
            )
