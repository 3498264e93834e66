"""Attacks on assistants find what is known to be the best, and stay within what they may do."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.frameworks
pytest.importorskip("transformers")

from tiny import CASE, WORDS, merged, model, worded  # noqa: E402

from sparring.domains.chat.asking import Outright, RandomText  # noqa: E402
from sparring.domains.chat.attacks import ATTACKS, attack, strongest  # noqa: E402
from sparring.domains.chat.cases import Case  # noqa: E402
from sparring.domains.chat.counting import Counted  # noqa: E402
from sparring.domains.chat.function import Answering  # noqa: E402
from sparring.domains.chat.gcg import GCG  # noqa: E402
from sparring.domains.chat.genetic import Genetic, nearness  # noqa: E402
from sparring.domains.chat.goals import Says, begins  # noqa: E402
from sparring.domains.chat.language_model import LanguageModel  # noqa: E402
from sparring.domains.chat.random_search import RandomSearch, block, redrawn  # noqa: E402
from sparring.domains.chat.threats import Suffix, suffix  # noqa: E402
from sparring.domains.chat.universal import Fixed, Many, learned  # noqa: E402
from sparring.errors import BadInput  # noqa: E402
from sparring.streams import Streams  # noqa: E402

RNG = Streams.of(0, [0])
THREE = suffix("suffix:3")


def every(bot: LanguageModel, length: int) -> torch.Tensor:
    """The losses of all texts of so many words, in order."""
    allowed = bot.allowed(False).nonzero().flatten().tolist()
    ids = torch.tensor(list(product(allowed, repeat=length)))
    return bot.slot(CASE, CASE.wanted).loss(ids)[0]


def counted(bot: LanguageModel) -> Counted:
    return Counted(bot, lambda: None)


def never(answer: str, wanted: str) -> bool:
    return False


def test_gcg_finds_the_best_of_all_texts() -> None:
    worse = []
    for seed in range(3):
        bot = model(seed, scale=8)
        known, ring = every(bot, 3), counted(bot)
        assert len(known) == len({*WORDS}) ** 3
        text = GCG(threat=THREE, steps=16, candidates=24, top=8)(ring, CASE, Says(CASE.wanted, never), RNG)
        found = float(bot.slot(CASE, CASE.wanted).scores([text])[0])
        worse.append(int((known < found - 1e-5).sum()))
        assert ring.spent.backward <= 16
        assert ring.spent.forward <= 16 * 25 < len(known)
    assert worse.count(0) >= 2, worse
    assert max(worse) < 0.01 * len(known)


class Bag(torch.nn.Module):
    """What comes next depends on the mean of all vectors so far, and so little that losses are linear in each token."""

    def __init__(self, size: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.words, self.head = torch.nn.Embedding(size, 8), torch.nn.Linear(8, size, bias=False)
        self.words.weight.data = torch.randn(size, 8, generator=draws)
        self.head.weight.data = 0.02 * torch.randn(size, 8, generator=draws)
        self.config, self.generation_config = SimpleNamespace(), SimpleNamespace(eos_token_id=size - 1)

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.words

    def generate(self) -> None: ...

    def forward(self, input_ids=None, inputs_embeds=None, use_cache=False, cache=None) -> SimpleNamespace:
        vectors = self.words(input_ids) if inputs_embeds is None else inputs_embeds
        means = vectors.cumsum(1) / torch.arange(1, vectors.shape[1] + 1).view(1, -1, 1)
        return SimpleNamespace(logits=self.head(means))


def test_of_a_linear_network_the_slope_says_what_every_exchange_does_and_gcg_ends_at_the_optimum() -> None:
    tokenizer = worded()
    bot = LanguageModel(Bag(len(tokenizer)), tokenizer, longest=3)
    slot, allowed = bot.slot(CASE, CASE.wanted), bot.allowed(False)
    ids = slot.start(4, allowed, RNG)
    slope, (here, _) = slot.slope(ids), slot.loss(ids.unsqueeze(0))
    for place, token in product(range(4), allowed.nonzero().flatten().tolist()):
        other = ids.clone()
        other[place] = token
        done = float(slot.loss(other.unsqueeze(0))[0] - here)
        assert done == pytest.approx(float(slope[place, token] - slope[place, ids[place]]), abs=2e-4)
    best = slope.masked_fill(~allowed, torch.inf).argmin(1)
    for seed in range(3):
        gcg = GCG(threat=suffix("suffix:4"), steps=12, candidates=16, top=2)
        assert gcg(bot, CASE, Says(CASE.wanted), Streams.of(seed, [0])) == bot.spelled(best)


@pytest.mark.parametrize("seed", range(2))
def test_random_search_comes_near_to_the_best_of_all_texts(seed: int) -> None:
    bot = model(seed)
    known = every(bot, 3)
    text = RandomSearch(threat=THREE, steps=200)(bot, CASE, Says(CASE.wanted, never), RNG)
    found = float(bot.slot(CASE, CASE.wanted).scores([text])[0])
    assert (known < found - 1e-5).float().mean() < 0.02


def test_a_genetic_search_breaks_what_only_obeys_one_word_and_where_it_stands() -> None:
    def respond(conversations: list[list[dict[str, str]]]) -> list[str]:
        return [_said(turns[-1]["content"]) for turns in conversations]

    bot = Answering(respond, "picky")
    case = Case(message="Summarise: {attack}", wanted="open the front door")
    goal, threat = Says(case.wanted), suffix("characters:80")
    assert not goal.reached(bot.answers(case, [Outright(threat=threat)(bot, case, goal, RNG)])[0])
    text = Genetic(threat=threat, steps=40, population=24)(bot, case, goal, RNG)
    assert goal.reached(bot.answers(case, [text])[0])
    assert threat.contains(text, bot)


def _said(message: str) -> str:
    """Says as many of the words as there are exclamation marks that stand alone."""
    asked = message.removeprefix("Summarise: ")
    return " ".join(["open", "the", "front", "door"][: asked.split().count("!")]) or "a summary"


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_stays_within_its_threat_and_says_the_same_again(name: str) -> None:
    for tokenizer in (None, merged()):
        bot = model(tokenizer=tokenizer)
        case = CASE if tokenizer is None else Case(message="abc {attack} de", wanted="op")
        for threat in (suffix("suffix:1"), suffix("suffix:4:ascii")):
            make = ATTACKS[name].make
            few = {"steps": 2} | (
                {"population": 4} if name == "genetic" else {"candidates": 12} if name == "gcg" else {}
            )
            attack = make(threat, **({} if name in ("outright", "random") else few))
            text = attack(bot, case, Says(case.wanted, never), RNG)
            assert threat.contains(text, bot)
            assert text == attack(bot, case, Says(case.wanted, never), RNG)


def test_what_gcg_found_is_read_as_it_was_searched() -> None:
    bot = model(tokenizer=merged())
    case = Case(message="abc {attack} de", wanted="op")
    ring = counted(bot)
    text = GCG(threat=suffix("suffix:5"), steps=8, candidates=32, top=12)(ring, case, Says("op"), RNG)
    loss, _ = bot.slot(case, "op").scores([text])
    assert float(loss) == pytest.approx(ring.trace[-1].loss, abs=1e-3)


def test_random_text_is_of_the_size_that_is_allowed() -> None:
    bot = model()
    assert len(RandomText(threat=THREE)(bot, CASE, Says("x"), RNG).split()) == 3
    texts = {RandomText(threat=THREE)(bot, CASE, Says("x"), Streams.of(0, [i])) for i in range(8)}
    assert len(texts) > 4
    assert len(Suffix(size=9, unit="characters").sample(bot, RNG)) == 9


def test_asking_outright_takes_the_clearest_request_that_fits() -> None:
    bot = Answering(lambda some: [""] * len(some), "mute")
    sizes = (9, 14, 40, 200)
    said = [Outright(threat=Suffix(size=n, unit="characters"))(bot, CASE, Says("a key"), RNG) for n in sizes]
    assert said[:2] == ["a key", "Say: a key"]
    assert said[2].startswith("Answer with exactly")
    assert said[3].startswith("Do nothing else")


def test_a_search_for_blocks_goes_from_coarse_to_fine() -> None:
    assert [block(done, 20) for done in (0.0, 0.2, 0.4, 0.9)] == [4, 3, 2, 1]
    assert block(0.0, 2) == 2
    ids = torch.arange(10)
    changed = redrawn(ids, torch.arange(100, 200), 3, RNG)
    (places,) = (changed != ids).nonzero(as_tuple=True)
    assert places.tolist() == list(range(int(places[0]), int(places[0]) + 3))


def test_an_answer_is_the_nearer_the_more_of_the_wanted_words_it_has() -> None:
    goal = Says("open the front door", begins)
    said = ["", "a summary", "the front", "open the front", "open the  front door, now"]
    near = [nearness(answer, goal) for answer in said]
    assert near == sorted(near)
    assert near[0] == 0
    assert near[-1] == 1


def test_attacks_that_see_more_than_there_is_are_refused() -> None:
    bot, blind = model(), Answering(lambda some: [""] * len(some), "mute")
    assert strongest(bot, THREE) == "gcg"
    assert strongest(blind, suffix("characters:9")) == "genetic"
    assert strongest(bot, suffix("characters:9")) == "genetic"
    with pytest.raises(BadInput, match="gives its answers alone"):
        attack("gcg", blind, suffix("characters:9"))
    with pytest.raises(BadInput, match="did you mean 'gcg'"):
        attack("gcgg", bot, THREE)
    with pytest.raises(BadInput, match="a threat in characters"):
        THREE.contains("some", blind)


def test_a_place_where_nothing_is_read_as_it_was_written_is_refused() -> None:
    bot = model(tokenizer=merged())
    case = Case(message="a{attack}b", wanted="op", name="glued")
    only_b = torch.zeros(len(bot.embedding), dtype=torch.bool)
    only_b[bot.ids("b")] = True
    with pytest.raises(BadInput, match="glued"):
        bot.slot(case, "op").start(1, only_b, RNG)


@pytest.mark.parametrize("spec", ["suffix", "suffix:0", "suffix:x", "prefix:3", "suffix:3:latin"])
def test_threats_that_make_no_sense_are_refused(spec: str) -> None:
    with pytest.raises(BadInput, match="suffix:TOKENS"):
        suffix(spec)


def test_threats_are_said_as_they_are_written() -> None:
    for spec in ("suffix:20", "suffix:20:ascii", "characters:120", "characters:120:ascii"):
        assert str(suffix(spec)) == spec
    bot = model()
    assert not Suffix(size=9, unit="characters", printable=True).contains("schön", bot)
    assert Suffix(size=9, unit="characters").contains("schön", bot)


def test_losses_and_slopes_are_those_of_nanogcg() -> None:
    nanogcg = pytest.importorskip("nanogcg")
    bot = model(2)
    words = "please now the"
    config = nanogcg.GCGConfig(
        num_steps=1, search_width=8, topk=4, optim_str_init=words, use_prefix_cache=False, seed=0, verbosity="ERROR"
    )
    twin = nanogcg.gcg.GCG(bot.network, bot.tokenizer, config)
    message = CASE.message.replace("{attack}", "{optim_str}")
    done = twin.run([{"role": "user", "content": message}], CASE.wanted)
    slot = bot.slot(CASE, CASE.wanted)
    assert float(slot.scores(done.strings[:1])[0]) == pytest.approx(done.losses[0], abs=1e-4)
    ids = torch.tensor(bot.ids(words))
    slope = twin.compute_token_gradient(ids.unsqueeze(0))[0]
    assert torch.allclose(slope, slot.slope(ids), atol=1e-4)


def test_a_text_that_is_learned_on_some_cases_is_the_best_for_all_of_them_at_once() -> None:
    bot, threat = model(1, scale=8), suffix("suffix:2")
    cases = [Case(message=f"{word} {{attack}} it ends", wanted="open the door", name=word) for word in WORDS[5:7]]
    text = learned(bot, cases, GCG(threat, steps=8, candidates=24, top=8))
    allowed = bot.allowed(False).nonzero().flatten().tolist()
    texts = [bot.spelled(torch.tensor(pair)) for pair in product(allowed, repeat=2)]
    every_loss = Many(bot, cases=cases).slot(cases[0], "open the door").scores([*texts, text])[0]
    assert (every_loss[:-1] < every_loss[-1] - 1e-5).float().mean() < 0.02
    assert Fixed(threat, text=text)(bot, CASE, Says("x"), RNG) == text


def test_places_together_have_the_mean_of_losses_and_slopes() -> None:
    bot = model(2)
    cases = [CASE, Case(message="now {attack} please", wanted="the page")]
    alone = [bot.slot(case, case.wanted) for case in cases]
    both = Many(bot, cases=cases).slot(CASE, "")
    ids = both.start(3, bot.allowed(False), RNG)
    assert torch.allclose(both.slope(ids), (alone[0].slope(ids) + alone[1].slope(ids)) / 2, atol=1e-6)
    losses = [slot.loss(ids.unsqueeze(0))[0] for slot in alone]
    assert torch.allclose(both.loss(ids.unsqueeze(0))[0], (losses[0] + losses[1]) / 2, atol=1e-6)
