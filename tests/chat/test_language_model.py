"""Language models as assistants: what transformers itself says, prefixes that are kept, gradients that are true."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import one_hot

pytestmark = pytest.mark.frameworks
transformers = pytest.importorskip("transformers")

from tiny import CASE, SPECIAL, llama, merged, model, worded  # noqa: E402

from sparring.cli import main  # noqa: E402
from sparring.domains.chat.attacks import ATTACKS  # noqa: E402
from sparring.domains.chat.cases import Case  # noqa: E402
from sparring.domains.chat.language_model import LanguageModel, saying  # noqa: E402
from sparring.domains.chat.loading import adopt, load  # noqa: E402
from sparring.domains.chat.threats import suffix  # noqa: E402
from sparring.errors import BadInput  # noqa: E402
from sparring.streams import Streams  # noqa: E402

RNG = Streams.of(0, [0])
LETTERS = Case(message="abc {attack} de", wanted="op")


def test_answers_are_those_of_greedy_generation() -> None:
    bot = model()
    for text in ("", "please now", "open the front door"):
        (ids,) = bot.read([CASE.conversation(text)])
        with torch.no_grad():
            out = bot.network.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert bot.answers(CASE, [text]) == [bot.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)]
    assert len({*bot.answers(CASE, ["", "please now", "open open open", "door"])}) > 1


def by_hand(bot: LanguageModel, case: Case, text: str) -> float:
    """The mean of `-log p` over the wanted tokens, from the whole row of tokens."""
    (ids,), wanted = bot.read([case.conversation(text)]), bot.ids(case.wanted)
    with torch.no_grad():
        logits = bot.network(torch.tensor([[*ids, *wanted]])).logits[0].log_softmax(1)
    return -sum(float(logits[len(ids) + i - 1, token]) for i, token in enumerate(wanted)) / len(wanted)


@pytest.mark.parametrize(("tokenizer", "case"), [(worded, CASE), (merged, LETTERS)])
def test_losses_are_those_of_the_whole_conversation_with_and_without_what_is_kept(tokenizer, case) -> None:
    bot = model(tokenizer=tokenizer())
    slot = bot.slot(case, case.wanted)
    assert slot.gap.kept is not None
    ids = torch.stack([slot.start(4, bot.allowed(False), RNG.at(i)) for i in range(40)])
    losses, _ = slot.loss(ids)
    expected = torch.tensor([by_hand(bot, case, slot.text(row)) for row in ids])
    assert torch.allclose(losses, expected, atol=1e-4)
    assert torch.allclose(slot.scores([slot.text(row) for row in ids])[0], expected, atol=1e-4)
    slot.gap.kept = None
    assert torch.allclose(slot.loss(ids)[0], expected, atol=1e-4)


def test_texts_of_any_length_and_fit_are_scored_as_they_are_deployed() -> None:
    bot = model(tokenizer=merged())
    texts = ["", "ab", "c", " c", "abcabc", "e", "opopop", "d"]
    losses, reached = bot.slot(LETTERS, "op").scores(texts)
    assert torch.allclose(losses, torch.tensor([by_hand(bot, LETTERS, text) for text in texts]), atol=1e-4)
    assert reached.tolist() == [bot.answers(LETTERS, [text])[0].startswith("op") for text in texts]


def test_a_network_that_keeps_something_else_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    bot = model()
    right = bot.slot(CASE, CASE.wanted).scores(["please"])[0]

    def forgetful(self: LanguageModel, kept: object) -> dict[str, object]:
        return {"use_cache": True}

    monkeypatch.setattr(LanguageModel, "keeping", forgetful)
    slot = bot.slot(CASE, CASE.wanted)
    assert slot.gap.kept is None
    assert torch.allclose(slot.scores(["please"])[0], right, atol=1e-4)


def test_the_slope_is_that_of_the_loss_in_one_hot_tokens() -> None:
    bot = model()
    slot = bot.slot(CASE, CASE.wanted)
    ids = slot.start(3, bot.allowed(False), RNG)
    slope, table = slot.slope(ids).double(), bot.embedding.detach()
    hot = one_hot(ids, len(table)).float()

    def loss(change: torch.Tensor) -> float:
        with torch.no_grad():
            logits = slot.gap.logits(((hot + change) @ table).unsqueeze(0), len(slot.wanted) + 1)
            return float(saying(logits, slot.wanted)[0])

    directions = torch.randn(12, *hot.shape, generator=torch.Generator().manual_seed(0))
    for direction in directions:
        small = 1e-3 * direction
        numerical = (loss(small) - loss(-small)) / 2e-3
        assert float((slope * direction).sum()) == pytest.approx(numerical, rel=0.03, abs=0.02)


def test_tokens_that_grow_together_do_not_fit() -> None:
    bot = model(tokenizer=merged())
    slot, numbers = bot.slot(LETTERS, "op"), bot.tokenizer.get_vocab()
    rows = [["a", "c"], ["a", "b"], ["ab", "c"], ["c", "ab"], ["d", "e"]]
    fits = slot.fits(torch.tensor([[numbers[piece] for piece in row] for row in rows]))
    assert fits.tolist() == [True, False, False, True, False]


def test_tokens_of_the_template_are_no_text() -> None:
    bot = model()
    threat = suffix("suffix:3")
    assert not bot.allowed(False)[[bot.tokenizer.convert_tokens_to_ids(one) for one in SPECIAL]].any()
    assert not threat.contains("now <|end|>", bot)
    assert threat.contains("now the door", bot)
    assert not threat.contains("now the front door", bot)
    assert threat.contains(threat.sample(bot, RNG), bot)


def test_the_network_comes_back_as_it_was_given() -> None:
    tokenizer = worded()
    network = llama(len(tokenizer)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    bot = LanguageModel(network, tokenizer, longest=3)
    slot = bot.slot(CASE, CASE.wanted)
    slot.slope(slot.start(2, bot.allowed(False), RNG))
    slot.scores(["now"])
    bot.answers(CASE, ["now"])
    assert all(part.training for part in network.modules())
    assert all(one.requires_grad and one.grad is None for one in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("family", ["GPT2", "Mamba"])
def test_networks_of_other_makes_give_the_losses_of_their_own_forward_pass(family: str) -> None:
    tokenizer = worded()
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer),
        **(
            {"n_embd": 16, "n_layer": 2, "n_head": 2}
            if family == "GPT2"
            else {"hidden_size": 16, "num_hidden_layers": 2}
        ),
    )
    network = getattr(transformers, f"{family}{'LMHeadModel' if family == 'GPT2' else 'ForCausalLM'}")(config).eval()
    bot = LanguageModel(network, tokenizer, longest=4)
    slot = bot.slot(CASE, CASE.wanted)
    ids = slot.start(3, bot.allowed(False), RNG)
    assert float(slot.loss(ids.unsqueeze(0))[0]) == pytest.approx(by_hand(bot, CASE, slot.text(ids)), abs=1e-3)
    assert bool(slot.slope(ids).any())
    assert len(bot.answers(CASE, ["now"])) == 1


def test_what_is_no_assistant_is_refused() -> None:
    tokenizer = worded()
    with pytest.raises(BadInput, match="causal language model"):
        LanguageModel(torch.nn.Linear(2, 2), tokenizer)
    with pytest.raises(BadInput, match="as an assistant"):
        adopt(3)
    bare = worded()
    bare.chat_template = None
    with pytest.raises(BadInput, match="chat template"):
        LanguageModel(llama(len(bare)), bare)
    double = worded()
    double.chat_template = "{{ messages[0]['content'] }} {{ messages[0]['content'] }}"
    with pytest.raises(BadInput, match="2 times"):
        LanguageModel(llama(len(double)), double).slot(CASE, "open")
    strict = worded()
    strict.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(BadInput, match="no system here"):
        LanguageModel(llama(len(strict)), strict).answers(CASE, [""])


def test_a_folder_a_pair_and_a_pipeline_are_one_assistant(tmp_path) -> None:
    bot = model()
    bot.network.save_pretrained(tmp_path / "bot")
    bot.tokenizer.save_pretrained(tmp_path / "bot")
    line = transformers.pipeline("text-generation", model=bot.network, tokenizer=bot.tokenizer)
    said = {tuple(one.answers(CASE, ["", "now"])) for one in (adopt((bot.network, bot.tokenizer), longest=6),
            adopt(line, longest=6), load(str(tmp_path / "bot"), longest=6))}  # fmt: skip
    assert said == {tuple(bot.answers(CASE, ["", "now"]))}
    with pytest.raises(BadInput, match="without config"):
        load(str(tmp_path))
    with pytest.raises(BadInput, match="no file"):
        load(str(tmp_path / "no.gguf"))


def test_attacks_say_in_a_line_what_they_are() -> None:
    assert all(entry.summary.endswith(").") or entry.summary.endswith(".") for entry in ATTACKS.values())


def test_a_conversation_that_is_too_long_to_be_read_is_refused() -> None:
    with pytest.raises(BadInput, match="256 at most"):
        model().answers(CASE, ["now " * 250])


def test_the_command_attacks_a_folder_learns_a_text_for_all_cases_and_measures_a_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bot = model(1, scale=8)
    bot.network.save_pretrained(tmp_path / "bot")
    bot.tokenizer.save_pretrained(tmp_path / "bot")
    rows = [{"message": f"{word} {{attack}} ends", "wanted": "the"} for word in ("read", "open", "now", "page")]
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, rows[:2])), encoding="utf-8")
    (tmp_path / "others.jsonl").write_text("\n".join(map(json.dumps, rows[2:])), encoding="utf-8")
    (tmp_path / "clean.txt").write_text("read this page now\n" * 19, encoding="utf-8")
    words = ["cases.jsonl", "--model", "bot", "--threat", "suffix:3", "--steps", "3", "--candidates", "8"]
    defended = ["--defence", "perplexity", "--clean", "clean.txt", "--out", "found"]
    monkeypatch.chdir(tmp_path)
    for more, status in ((["--learn", "others.jsonl", *defended], 0), (["--learn", "cases.jsonl"], 2)):
        monkeypatch.setattr(sys, "argv", ["sparring", "inject", *words, *more])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == status
    out, err = capsys.readouterr()
    assert "universal" in out
    assert "with it, against one that does: " in out
    assert "which has some of the cases" in err
    kept = json.loads((tmp_path / "found" / "result.json").read_text(encoding="utf-8"))
    gcg = [bout for bout in kept["bouts"] if bout["attack"] == "gcg"]
    assert all(bout["spent"]["backward"] and bout["trace"] for bout in gcg)
    assert len({bout["text"] for bout in kept["bouts"] if bout["attack"] == "universal"}) == 1
    assert (tmp_path / "found" / "inject.png").read_bytes().startswith(b"\x89PNG")
