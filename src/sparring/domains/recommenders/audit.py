"""The audit of a recommender: how far fake users push an item, whether that is noticed, and whether to believe it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sparring.domains.recommenders.attacks import Bystanders, fitting
from sparring.domains.recommenders.budget import fewest
from sparring.domains.recommenders.checks import checks
from sparring.domains.recommenders.detectors import DETECTORS, noticed, threshold
from sparring.domains.recommenders.goals import Placement
from sparring.domains.recommenders.interactions import Interactions, leave_last_out
from sparring.domains.recommenders.measures import (
    change,
    clipped,
    discounted,
    eligible,
    fresh,
    percentile,
    share,
    utility,
)
from sparring.domains.recommenders.recommender import Attack, Recommender
from sparring.domains.recommenders.result import Needed, Promotion, Service, Tried
from sparring.domains.recommenders.shilling import item_means, random
from sparring.domains.recommenders.threats import FakeUsers
from sparring.errors import BadInput, named
from sparring.evaluate.judging import judge
from sparring.evaluate.result import environment
from sparring.evaluate.run import Watch, one_thread, own_draws, silent
from sparring.streams import Streams

Attacks = Mapping[str, Callable[[FakeUsers], Attack]]
CONTROL = "control"
STRATA = (0.1, 0.5, 0.9)
"""Where in the order of popularity items are taken from, unless one says which."""


def audit(
    model: Recommender,
    data: Interactions,
    threat: FakeUsers,
    *,
    items: Sequence[int] | None = None,
    attacks: Attacks | None = None,
    top: int = 10,
    sign: int = 1,
    reach: float | None = None,
    seeds: int = 3,
    seed: int = 0,
    name: str | None = None,
    command: str = "",
    watch: Watch = silent,
) -> Promotion:
    """Find out how many users fake users push an item at, up (`sign` 1) or away (-1), and whether it is noticed.

    The last rating of each user is held out, to measure what the recommendations are worth. The model is trained anew
    on the data with the fake users of each attack, `seeds` times: each time with other random numbers for training and
    attack, the same with and without fake users. Without `items` there are three: of little, middle and great
    popularity, or, to be pushed away, those that most users are shown; without `attacks` all that fit.

    With `reach` the fewest fake users are sought with which the strongest attack on the first item puts it among the
    `top` ones of that share of the users (or keeps it from them): by bisection over the first training, and then one
    by one until all trainings together reach it.

    Costs `seeds * (1 + items * (attacks + 1)) + 1` trainings, and those of the search.

    Raises:
        BadInput: no attack fits, fewer items than `top`, an item that is not there or that all rated, nobody who rates
            twice, scores of another shape or NaN, whatever the code of a recommender or of an attack raises.
    """
    started = time.perf_counter()
    if not 1 <= top < data.shape[1]:
        raise BadInput(f"the top {top} of {data.shape[1]} items", "fewer than there are, 1 at least", "lower it")
    train, held = leave_last_out(data)
    if not len(held.users):
        raise BadInput(f"{len(data.users)} ratings", "users who rate more than one item", "hand over more of them")
    chosen = {key: entry.make for key, entry in fitting(data, sign).items()} if attacks is None else dict(attacks)
    if not chosen:
        do = "hand over ratings, and a recommender that learns from them"
        raise BadInput("an item to be pushed down, and implicit feedback", "an attack that fits", do)
    if items is not None and not (items and all(0 <= item < data.shape[1] for item in items)):
        raise BadInput(f"items {list(items)}", f"positions from 0 to {data.shape[1] - 1}", "see data.item(name)")
    if seeds < 1:
        raise BadInput(f"seeds={seeds}", "1 or more", "three let chance be seen")
    name = name or repr(model)
    bout, control = Bout(model, name, train, held, [Streams.of(seed, [i]) for i in range(seeds)]), random(threat)
    tried: list[Tried] = []
    idle: list[Tried] = []
    outside: list[str] = []
    with one_thread():
        repeats = torch.equal(bout.clean[0], bout.fitted(train, 0))
        if items is None:
            items = strata(train) if sign > 0 else seen_most(bout.clean[0], train, top)
        goals = [Placement(item, top, sign) for item in items]
        done, steps = seeds, seeds * (1 + len(goals) * (len(chosen) + 1))
        watch("training", done, steps)
        for goal in goals:
            for key, attack in (
                (CONTROL, Bystanders(of=control)),
                *((key, make(threat)) for key, make in chosen.items()),
            ):
                found = bout.met(key, attack, goal, threat)
                watch("training", done := done + seeds, steps)
                if found is None:
                    outside.append(key)
                elif key == CONTROL:
                    idle.append(found)
                else:
                    tried.append(found)
        result = Promotion(
            verdict="invalid",
            reasons=[],
            recommender=name,
            data={
                "users": train.shape[0],
                "items": train.shape[1],
                "ratings": len(data.users),
                "implicit": data.implicit,
            },
            threat={"users": threat.users, "share": threat.users / train.shape[0], "ratings": threat.ratings},
            top=top,
            sign=sign,
            clean=bout.service(bout.clean[0]),
            tried=tried,
            control=idle,
            needed=None,
            checks=[],
            seeds=seeds,
            seed=seed,
            seconds=0.0,
            environment=environment(),
            command=command,
        )
        if reach is not None and tried:
            best = result.strongest(result.items[0])
            needed = search(
                bout, make=chosen[best.attack], best=best, goal=goals[0], threat=threat, reach=reach, watch=watch
            )
            result = result.model_copy(update={"needed": needed})
    asked = checks(result, bout.baseline(), moved=bout.moved, repeats=repeats, outside=sorted(set(outside)))
    verdict, reasons = judge(asked)
    seconds = round(time.perf_counter() - started, 1)
    return result.model_copy(update={"verdict": verdict, "reasons": list(reasons), "checks": asked, "seconds": seconds})


def strata(data: Interactions) -> list[int]:
    """An item of little, of middle and of great popularity, among those that anybody rated."""
    order = data.popularity.argsort(stable=True)[int((data.popularity == 0).sum()) :]
    return list(dict.fromkeys(int(order[round(share * (len(order) - 1))]) for share in STRATA))


def seen_most(scores: Tensor, data: Interactions, top: int) -> list[int]:
    """The items that are among the `top` ones of most users, as many as there are strata."""
    shown = fresh(scores, data).topk(top, 1).indices.flatten().bincount(minlength=data.shape[1])
    return shown.topk(len(STRATA)).indices.tolist()


@dataclass
class Bout:
    """A recommender and its data: what it says after training on them, and after training on others."""

    model: Recommender
    name: str
    train: Interactions
    held: Interactions
    streams: list[Streams]
    moved: bool = False
    """Whether a score of a real user was ever another one than without fake users."""

    @cached_property
    def clean(self) -> list[Tensor]:
        """The scores without fake users, one matrix a seed."""
        return [self.fitted(self.train, i) for i in range(len(self.streams))]

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """Beyond which suspicion each detector raises an alarm, as the real data alone say."""
        return {name: threshold(name, self.train) for name in DETECTORS}

    def fitted(self, data: Interactions, i: int) -> Tensor:
        """The scores of the real users after training on these data, `(users, items)`."""
        with torch.no_grad(), own_draws("training", int(self.streams[i].keys)), _blaming(self.name):
            scores: object = self.model(replace(data), self.streams[i].at("training"))  # a copy: it may write to it
        if not isinstance(scores, Tensor) or scores.shape != data.shape:
            what = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise BadInput(
                f"{self.name} returns {what}", f"scores of shape {data.shape}", "score all items for all users"
            )
        if bool(scores.isnan().any()):
            raise BadInput(
                f"{self.name} returns scores that are NaN", "numbers", "let what has no score have the least"
            )
        return scores[: self.train.shape[0]].float()

    def service(self, scores: Tensor) -> Service:
        """How good the recommendations are, to the top ten."""
        return utility(scores, self.train, self.held, 10)

    def baseline(self) -> Service:
        """What the mean rating of every item gives, or its popularity."""
        data = self.train
        scores = data.popularity.float() if data.implicit else item_means(data)
        return self.service(scores.expand(data.shape))

    def poisoned(self, key: str, attack: Attack, goal: Placement, i: int) -> Interactions:
        """The data with the fake users of an attack."""
        rng = self.streams[i].at("attack").at(key).at(goal.item)
        with own_draws("attack", int(self.streams[i].keys)), _blaming(key):
            z: object = attack(self.model, self.train, goal, rng)
        if not isinstance(z, Interactions):
            raise BadInput(f"{key} returns a {type(z).__name__}", "Interactions", "return x.joined(profiles)")
        return z

    def met(self, key: str, attack: Attack, goal: Placement, threat: FakeUsers) -> Tried | None:
        """What an attack does; None where it leaves the threat."""
        data, item = self.train, goal.item
        some = eligible(data, self.held, item)
        if not bool(some.any()):
            raise BadInput(f"item {data.names[item]}", "users who have not rated it", "take another item")
        poisoned = [self.poisoned(key, attack, goal, i) for i in range(len(self.streams))]
        if not all(threat.contains(z, data) for z in poisoned):
            return None
        whole = [self.fitted(z, i) for i, z in enumerate(poisoned)]
        self.moved |= any(not torch.equal(a, b) for a, b in zip(self.clean, whole, strict=True))
        before, after = (torch.stack([fresh(scores, data)[some] for scores in every]) for every in (self.clean, whole))
        seen, now = (torch.stack([goal.rank(scores) for scores in every]) for every in (before, after))
        stars = [torch.stack([clipped(scores, data)[some, item] for scores in every]) for every in (self.clean, whole)]
        rng, hits = self.streams[0], (now <= goal.top).double()
        had = (seen <= goal.top).double()
        return Tried(
            attack=key,
            item=data.names[item],
            ratings=int(data.popularity[item]),
            eligible=int(some.sum()),
            clean=share(had.mean(0)),
            attacked=share(hits.mean(0)),
            by_seed=hits.mean(1).tolist(),
            uplift=change((hits - had).mean(0), rng),
            shift=None if data.implicit else change((stars[1] - stars[0]).mean(0), rng),
            clean_percentile=_middle(before, goal),
            percentile=_middle(after, goal),
            ndcg=float(discounted(now, goal.top).mean()),
            service=self.service(whole[0]),
            suspicion=[noticed(one, poisoned[0], data.shape[0], above) for one, above in self.thresholds.items()],
        )

    def reached(self, key: str, attack: Attack, goal: Placement, seeds: Sequence[int]) -> float:
        """For what share of the users an attack has what it wants, over some of the seeds."""
        some, shares = eligible(self.train, self.held, goal.item), []
        for i in seeds:
            scores = self.fitted(self.poisoned(key, attack, goal, i), i)
            shares.append(float(goal.reached(fresh(scores, self.train)[some]).double().mean()))
        return sum(shares) / len(shares)


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Say in one line what the code of a recommender or of an attack raised."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{name} raised {named(error)[:300]}", "code that takes these data", "mend it") from error


def _middle(every: Tensor, goal: Placement) -> float:
    """Where the item stands for the median user, over all seeds."""
    return float(torch.stack([percentile(scores, goal) for scores in every]).median())


def search(
    bout: Bout,
    *,
    make: Callable[[FakeUsers], Attack],
    best: Tried,
    goal: Placement,
    threat: FakeUsers,
    reach: float,
    watch: Watch,
) -> Needed:
    """The fewest fake users with which the attack reaches that share of the users, within the threat."""
    steps = 2 * threat.users.bit_length()
    tried: list[int] = []

    def reached(count: int) -> float:
        tried.append(count)
        watch("fewest fake users", min(len(tried), steps - 1), steps)
        return bout.reached(best.attack, make(replace(threat, users=count)), goal, [0])

    count, tries = fewest(reached, reach, threat.users)
    users, every = count or threat.users, range(len(bout.streams))
    while (total := bout.reached(best.attack, make(replace(threat, users=users)), goal, every)) < reach:
        if users == threat.users:
            break
        users += 1
    watch("fewest fake users", steps, steps)
    return Needed(
        item=best.item,
        attack=best.attack,
        wanted=reach,
        users=users if total >= reach else None,
        share=users / bout.train.shape[0] if total >= reach else None,
        reached=total,
        tries=sorted(tries),
    )
