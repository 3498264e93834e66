"""Defences of assistants: each does what its paper says, and its own view is the one through which it falls."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

pytestmark = pytest.mark.frameworks
pytest.importorskip("transformers")

from tiny import CASE, WORDS, merged, model  # noqa: E402

from sparring.domains.chat.audit import audit  # noqa: E402
from sparring.domains.chat.cases import Case  # noqa: E402
from sparring.domains.chat.defended import DEFENCES, defend, worth  # noqa: E402
from sparring.domains.chat.function import Answering  # noqa: E402
from sparring.domains.chat.gcg import GCG  # noqa: E402
from sparring.domains.chat.goals import Says  # noqa: E402
from sparring.domains.chat.perplexity import (  # noqa: E402
    REFUSED,
    Watched,
    calibrated,
    surprise,
    surprised,
    windows,
    worst,
)
from sparring.domains.chat.random_search import RandomSearch  # noqa: E402
from sparring.domains.chat.smooth_llm import LETTERS, Smoothed, written  # noqa: E402
from sparring.domains.chat.spotlighting import DATAMARKING, DELIMITING, Spotlighted  # noqa: E402
from sparring.domains.chat.threats import suffix  # noqa: E402
from sparring.errors import BadInput  # noqa: E402
from sparring.streams import Streams  # noqa: E402

RNG = Streams.of(0, [0])
PAGE = Case(message="abc {document} de", document="ab de {attack}", wanted="op", name="page")


def clean(count: int) -> list[str]:
    """Documents of random words."""
    draws = Streams.of(1, range(count)).integers(len(WORDS), 8)
    return [" ".join(WORDS[i] for i in row) for row in draws.tolist()]


def test_surprise_is_the_log_probability_of_each_token_after_those_before() -> None:
    bot = model()
    ids = bot.ids("read this page now")
    with torch.no_grad():
        logits = bot.network(torch.tensor([ids])).logits[0].log_softmax(1)
    expected = [-float(logits[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    assert surprise(bot, "read this page now").tolist() == pytest.approx(expected, abs=1e-4)
    assert windows(torch.arange(5.0), 2).tolist() == [0.5, 1.5, 2.5, 3.5]
    assert worst(torch.arange(3.0), 10) == 1
    assert worst(surprise(bot, "now"), 10) == 0


def test_the_threshold_lets_as_many_clean_documents_through_as_it_says() -> None:
    bot = model()
    threshold = calibrated(bot, clean(99), alarms=0.1, window=3)
    fresh = Streams.of(2, range(200)).integers(len(WORDS), 8)
    texts = [" ".join(WORDS[i] for i in row) for row in fresh.tolist()]
    alarms = sum(worst(surprise(bot, text), 3) > threshold for text in texts) / len(texts)
    assert 0.03 < alarms < 0.18
    lone = Watched(bot, reader=bot, threshold=threshold).slot(Case(message="{attack}", wanted="now"), "now")
    assert torch.equal(lone.slope(torch.tensor([1])), lone.inner.slope(torch.tensor([1])))
    with pytest.raises(BadInput, match="19 at least"):
        calibrated(bot, clean(18))
    assert calibrated(bot, clean(19)) == max(worst(surprise(bot, text), 10) for text in clean(19))


def test_what_surprises_is_refused_and_who_knows_that_does_not_write_it() -> None:
    bot, goal = model(0, scale=8), Says(CASE.wanted, lambda answer, wanted: False)
    gcg = GCG(threat=suffix("suffix:4"), steps=10, candidates=24, top=8)
    plain = gcg(bot, CASE, goal, RNG)
    seen = worst(surprise(bot, plain), 3)
    watched = Watched(bot, reader=bot, threshold=0.8 * seen, window=3)
    assert watched.answers(CASE, [plain]) == [REFUSED]
    knowing = gcg(watched, CASE, goal, RNG)
    assert watched.answers(CASE, [knowing]) == bot.answers(CASE, [knowing])
    assert float(watched.excess(CASE, [knowing])) <= 0
    slot = watched.slot(CASE, CASE.wanted)
    loss, reached = slot.scores([plain])
    assert float(loss) == pytest.approx(float(slot.inner.scores([plain])[0]) + 0.2 * seen, abs=1e-3)
    assert not reached.any()


def test_the_slope_of_the_filter_is_that_of_its_excess() -> None:
    bot = model(1, scale=8)
    case = Case(message="{document}", document="read this {attack} page", wanted="open")
    watched = Watched(bot, reader=bot, threshold=0.0, window=2)
    slot = watched.slot(case, "open")
    ids = torch.tensor(bot.ids("now the door"))
    own = slot.slope(ids) - slot.inner.slope(ids)
    first, last = (one_hot(torch.tensor(bot.ids(part)), len(bot.embedding)).float() for part in ("read this", "page"))

    def excess(hot: torch.Tensor) -> float:
        with torch.no_grad():
            return float(windows(surprised(bot, torch.cat([first, hot, last])), 2).max())

    hot = one_hot(ids, len(bot.embedding)).float()
    assert excess(hot) == pytest.approx(float(watched.excess(case, ["now the door"])), abs=1e-4)
    for direction in torch.randn(6, *hot.shape, generator=torch.Generator().manual_seed(0)):
        numerical = (excess(hot + 2e-4 * direction) - excess(hot - 2e-4 * direction)) / 4e-4
        assert float((own * direction).sum()) == pytest.approx(numerical, rel=0.05, abs=0.05)


@pytest.mark.parametrize("marking", [DELIMITING, DATAMARKING], ids=lambda marking: marking.name)
def test_documents_are_marked_and_what_gcg_searches_is_what_is_read(marking) -> None:
    bot = model(tokenizer=merged())
    spotted = Spotlighted(bot, marking=marking)
    asked = spotted.marked(PAGE).conversation(marking.mark("a b"))
    assert asked[0] == {"role": "system", "content": marking.note}
    assert asked[1]["content"] == ("abc <<ab de a b>> de" if marking is DELIMITING else "abc ab^de^a^b de")
    goal = Says("op", lambda answer, wanted: False)
    text = GCG(threat=suffix("suffix:6"), steps=4, candidates=32, top=12)(spotted, PAGE, goal, RNG)
    assert suffix("suffix:6").contains(text, bot)
    slot = spotted.slot(PAGE, "op")
    assert slot.text(slot.tokens("a b c")) == "a b c"
    marked = bot.tokens(marking.mark(text))
    assert marked is not None
    assert float(slot.loss(torch.tensor([marked]))[0]) == pytest.approx(float(slot.scores([text])[0]), abs=1e-3)


def test_a_text_that_is_all_that_comes_from_outside_is_marked_too() -> None:
    spotted = Spotlighted(model(), marking=DELIMITING)
    case = Case(message="sum up {attack} now", wanted="x", system="Be brief.")
    turns = spotted.marked(case).conversation("this")
    assert turns[0]["content"] == f"Be brief.\n{DELIMITING.note}"
    assert turns[1]["content"] == "sum up <<this>> now"


def test_copies_have_as_many_letters_drawn_anew_as_they_should_and_the_usual_answer_counts() -> None:
    message = "read this page now, please, it is short"
    smooth = Smoothed(Answering(lambda some: [""] * len(some), "mute"), share=0.2, copies=6)
    copies = smooth.perturbed(message, "deployed", 6)
    assert len({*copies}) == 6
    assert all(len(copy) == len(message) for copy in copies)
    assert max(sum(a != b for a, b in zip(copy, message, strict=True)) for copy in copies) <= round(0.2 * len(message))
    assert copies == smooth.perturbed(message, "deployed", 6)
    assert copies != smooth.perturbed(message, "attacker", 6)
    assert set("".join(copies)) <= {*LETTERS}
    said = iter(["no", "yes", "yes", "well", "yes", "no"])
    voting = Smoothed(Answering(lambda some: [next(said)], "moody"), copies=6)
    assert voting.answers(CASE, ["now"]) == ["yes"]
    assert written(CASE, "a {attack} b").conversation("") == [{"role": "user", "content": "a  b"}]


def test_who_knows_that_letters_change_takes_the_mean_over_copies() -> None:
    bot = model(2, scale=8)
    smooth = Smoothed(bot, share=0.05, draws=4)
    assert smooth.access == "scores"
    loss, reached = smooth.slot(CASE, CASE.wanted).scores(["now", "the door"])
    copies = smooth.perturbed(CASE.written("the door"), "attacker", 4)
    alone = [bot.slot(Case(message="{attack}", wanted="x"), CASE.wanted).scores([copy])[0] for copy in copies]
    assert float(loss[1]) == pytest.approx(float(torch.cat(alone).mean()), abs=1e-4)
    assert reached.tolist() == [False, False]
    search = RandomSearch(threat=suffix("suffix:3"), steps=4)
    assert suffix("suffix:3").contains(search(smooth, CASE, Says(CASE.wanted), RNG), bot)
    with pytest.raises(BadInput, match="choose random-search"):
        smooth.slot(CASE, "open").slope(torch.tensor([1]))


@pytest.mark.parametrize("name", DEFENCES)
def test_a_defence_is_worth_three_numbers(name: str) -> None:
    bot, threat = model(0, scale=8), suffix("suffix:4")
    cases = [Case(message=f"{word} {{attack}}", wanted="the", name=word) for word in WORDS[:2]]
    attacks = {"search": lambda threat: RandomSearch(threat=threat, steps=3)}
    bare = audit(bot, cases, threat, attacks=attacks)
    found, audited = worth(defend(name, bot, clean(19)), bare, cases, threat, attacks=attacks)
    assert found.assistant == audited.assistant == f"tiny behind {name}"
    assert found.unaware.estimate <= min(found.bare.estimate, found.adaptive.estimate)
    assert found.adaptive.estimate >= audited.taken.estimate


def test_what_is_no_defence_is_refused() -> None:
    with pytest.raises(BadInput, match="did you mean 'datamarking'"):
        defend("datamark", model())
    with pytest.raises(BadInput, match="a language model to read with"):
        defend("perplexity", Answering(lambda some: [""] * len(some), "mute"))
