"""Networks of whole words, and of pieces of words: what they say, and which words their slopes name."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

import sparring
from sparring.attacks import every_wording, hotflip, textfooler, word_beam
from sparring.attacks.hotflip import gains
from sparring.cli import main
from sparring.data.lexicon import Lexicon
from sparring.data.texts import Texts
from sparring.domains.text.networks import bag, convolution
from sparring.domains.text.opened import SubWords, Words
from sparring.domains.text.reader import reading
from sparring.domains.text.rewritings import typing_errors
from sparring.domains.text.threats import Rewrites
from sparring.domains.text.vocabulary import Vocabulary
from sparring.errors import BadInput
from sparring.goals import Untargeted
from sparring.losses import margin
from sparring.streams import Streams
from sparring.views import Counted, logarithms

NOUNS = ["film", "story", "plot", "cast", "scene", "music", "ending", "script", "camera", "voice"]
KINDS = ["good", "fine", "great", "bad", "poor", "dull", "warm", "cold", "quick", "slow", "bright", "dark"]
TEXTS = [
    f"a {KINDS[i % 12]} {NOUNS[i % 10]} with {KINDS[j % 12]} {NOUNS[j % 10]}, and {KINDS[i // 4]} fun"
    for i, j in ((i, 5 * i + 3) for i in range(48))
]
KNOWN = Vocabulary.of(TEXTS)


def drawn(make, seed=3):
    """A network that nobody trained, whose words differ more than those of a fresh one."""
    network = make(len(KNOWN), width=8, seed=seed).eval()
    with torch.no_grad():
        network.embedding.weight.mul_(10)
        network.last.bias.zero_()
    return network


def other_kinds(word):
    """Any kind may stand for any other."""
    return KINDS if word in KINDS else []


def judged(network, count=40):
    """Texts with the labels that a network gives them."""
    read = Words(network, KNOWN, Lexicon.of(TEXTS))
    x = Texts("all", TEXTS, [0] * len(TEXTS)).take(range(count))[0]
    with torch.no_grad():
        return Texts("reviews", TEXTS[:count], read(x).argmax(1).tolist())


@pytest.mark.parametrize("make", [bag, convolution])
def test_slopes_of_opened_texts_are_those_of_mixed_embeddings(make):
    network = drawn(make)
    data, threat = Rewrites("kinds", 2, other_kinds).over(judged(network))
    network.double()
    x = data.take([0, 1, 2])[0].double()
    read, goal = Words(network, KNOWN, data.words), Untargeted(torch.tensor([0, 1, 1]))
    choices = threat.norm.choices(x)
    found = gains(read, x, choices, goal)
    assert found.shape == choices.shape

    def mixed(row, place, word, share):
        """The margin where one word is a mixture of itself and of another."""
        e = network.embedding(read.ids[x[row : row + 1].long()])
        e[0, place] += share * (network.embedding(read.ids[word]) - e[0, place])
        handle = network.embedding.register_forward_hook(lambda *_: e)
        with torch.no_grad():
            said = margin(network(read.ids[x[row : row + 1].long()]), goal[torch.tensor([row])])
        handle.remove()
        return float(said)

    for row, place, k in [(0, 1, 0), (1, 1, 3), (2, 4, 2), (2, 7, 1)]:
        word = choices[row, place, k]
        if word != x[row, place]:
            slope = (mixed(row, place, word, 1e-6) - mixed(row, place, word, -1e-6)) / 2e-6
            assert float(found[row, place, k]) == pytest.approx(slope, abs=1e-6)


def test_a_network_of_words_reads_what_its_vocabulary_says():
    words = Vocabulary({"good": 5, "film": 3}, unknown=1, padding=0)
    lexicon = Lexicon.of(["Good film!", "good"])
    asked = []

    class Ids(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(6, 2)

        def forward(self, ids):
            asked.append(ids.tolist())
            return self.embedding(ids).sum(1)

    read = Words(Ids(), words, lexicon)
    read(lexicon.encode(["Good film!", "good"], 3))
    assert asked[-1] == [[5, 3, 1], [5, 0, 0]]
    assert Vocabulary({"good": 5}, 1, 0, cased=True).number(" Good") == 1
    assert len(words) == 6
    assert words.counted(["good film", "a film"]).tolist() == [0, 1, 0, 2, 0, 1]


def test_vocabularies_come_from_files(tmp_path):
    (tmp_path / "words.txt").write_text("<pad>\n<unk>\nthe\nfilm\n", encoding="utf-8")
    (tmp_path / "words.json").write_text(json.dumps({"[PAD]": 0, "[UNK]": 3, "Film": 1}), encoding="utf-8")
    one = Vocabulary.read(tmp_path / "words.txt")
    other = Vocabulary.read(tmp_path / "words.json", unknown="[UNK]", padding="[PAD]")
    assert [one.number(word) for word in ("The", "film", "else", "")] == [2, 3, 1, 0]
    assert [other.number(word) for word in ("film", "Film")] == [3, 1]
    for name, said in (("none.txt", "cannot read"), ("words.json", "without '<unk>'")):
        with pytest.raises(BadInput, match=said):
            Vocabulary.read(tmp_path / name)


class Pooled(nn.Module):
    def forward(self, ids):
        return torch.stack([ids.sum(1), ids.prod(1)], 1).float()


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Pooled(), "hands ids to no embedding"),
        (nn.Linear(3, 2), "raised RuntimeError"),
        (bag(3), "an embedding of 3 words for a vocabulary of"),
        ("bag", "a str with a vocabulary"),
    ],
)
def test_networks_that_are_none_of_words_are_refused_in_a_line(network, said):
    with pytest.raises(BadInput, match=said) as refused:
        reading((network, KNOWN), Lexicon.of(TEXTS), 2)
    assert "\n" not in str(refused.value)


def test_padding_behind_a_text_changes_nothing_and_a_network_comes_back_as_it_was():
    for make in (bag, convolution):
        network = make(len(KNOWN), width=8).train()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        lexicon = Lexicon.of(TEXTS)
        read = Words(network, KNOWN, lexicon)
        assert network.training
        assert read.training
        network.eval()
        short, long = (read(lexicon.encode(TEXTS[:5], length)) for length in (11, 40))
        assert torch.allclose(short, long, atol=1e-6)
        x = torch.stack([lexicon.encode(TEXTS[:5], 11)] * 2, 2).requires_grad_()
        assert torch.equal(read(x), short)
        torch.autograd.grad(read(x).sum(), x)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())
        assert not network.embedding._forward_hooks


def test_slopes_find_the_worst_texts_with_a_part_of_the_passes():
    network = drawn(convolution)
    data, threat = Rewrites("kinds", 2, other_kinds).over(judged(network))
    x, y = data.take(range(len(data)))
    read, goal, rng = Words(network, KNOWN, data.words), Untargeted(y), Streams.of(0, range(len(x)))
    fell, passes = {}, {}
    attacks = {"all": every_wording(threat), "beam": word_beam(threat), "slopes": hotflip(threat)}
    for name, attack in {**attacks, "ranks": textfooler(threat), "few": hotflip(threat, width=1, tries=5)}.items():
        model = Counted(read)
        with torch.no_grad():
            fell[name] = int(goal.reached(read(attack(model, x, goal, rng))).sum())
        passes[name] = model.forward + model.backward
    assert fell["ranks"] < fell["few"] <= fell["slopes"] <= fell["all"]
    assert fell["slopes"] >= 0.95 * fell["all"] > 0
    assert passes["slopes"] < passes["beam"]
    assert passes["few"] < passes["ranks"]


def test_slopes_go_through_views_and_are_counted():
    network = drawn(bag)
    data, threat = Rewrites("kinds", 1, other_kinds).over(judged(network))
    x, y = data.take(range(4))
    read = Words(network, KNOWN, data.words)
    model = Counted(logarithms(lambda z: read(z).softmax(1)))
    found = gains(model, x, threat.norm.choices(x), Untargeted(y))
    assert (model.forward, model.backward) == (4, 4)
    bare = gains(read, x, threat.norm.choices(x), Untargeted(y))
    assert torch.allclose(found, bare, atol=1e-5)  # of two classes the margin of logarithms is that of logits
    with pytest.raises(BadInput, match="without gradients"):
        gains(lambda z: torch.zeros(len(z), 2), x, threat.norm.choices(x), Untargeted(y))


def test_an_audit_with_slopes_says_what_one_without_says():
    network = drawn(convolution)
    data = judged(network)
    read = Words(network, KNOWN, Lexicon.of(TEXTS))

    def scores(texts):
        rows = [[KNOWN.number(piece) for piece in sparring.data.lexicon.pieces(text)] for text in texts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for place, row in zip(ids, rows, strict=True):
            place[: len(row)] = torch.tensor(row)
        return network(ids).detach().numpy().astype(np.float32)

    assert read.ids.max() < len(KNOWN)
    threat = Rewrites("kinds", 1, other_kinds)
    with_slopes, without = (sparring.audit(model, data, threat, suite="quick") for model in ((network, KNOWN), scores))
    assert with_slopes.settings["access"] == "gradients"
    assert with_slopes.verdict == without.verdict == "trusted"
    assert with_slopes.robust_accuracy == without.robust_accuracy
    assert with_slopes.certified_accuracy == without.certified_accuracy
    first = next(one for one in with_slopes.attacks if one.name == "hotflip")
    later = ("textfooler", "every-wording", "word-genetic", "word-beam", "wider-beam")
    assert first.broke > 5 * sum(one.broke for one in with_slopes.attacks if one.name in later)
    assert first.backward > 0


FILE = """
from sparring.domains.text.networks import bag
from sparring.domains.text.vocabulary import Vocabulary

def make():
    return bag(len(WORDS), width=8), WORDS

WORDS = Vocabulary({words}, unknown=1, padding=0)
"""


def test_the_command_line_takes_a_network_and_its_vocabulary(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained = drawn(bag)
    torch.save(trained.state_dict(), tmp_path / "bag.pt")
    (tmp_path / "critic.py").write_text(FILE.format(words=dict(KNOWN.words)), encoding="utf-8")
    (tmp_path / "table.json").write_text(json.dumps(dict.fromkeys(KINDS, KINDS)), encoding="utf-8")
    data = judged(trained)
    rows = zip(data.texts, data.y, strict=True)
    (tmp_path / "reviews.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    words = ["critic.py:make", "--weights", "bag.pt", "--data", "reviews.tsv", "--threat", "synonyms:2:table.json"]
    monkeypatch.setattr(sys, "argv", ["sparring", "attack", *words, "--attack", "hotflip", "-o", "out"])
    with pytest.raises(SystemExit) as done:
        main()
    said = capsys.readouterr()
    assert done.value.code == 0, said.err
    assert (tmp_path / "out" / "adversarial.tsv").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["sparring", "certify", *words, "--method", "crown", "-o", "proofs"])
    with pytest.raises(SystemExit) as done:
        main()
    said = capsys.readouterr()
    assert done.value.code == 0, said.err
    assert "cannot be changed within synonyms:2: crown" in said.out
    proofs = json.loads((tmp_path / "proofs" / "proofs.json").read_text(encoding="utf-8"))
    assert proofs["certified"] <= proofs["right"] == len(data)


@pytest.mark.frameworks
def test_slopes_of_pieces_of_words_are_exact_where_a_word_is_a_piece_and_rank_where_not(tmp_path):
    transformers = pytest.importorskip("transformers")
    letters = [f"{mark}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "##")]
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *KINDS, *NOUNS, *letters]
    (tmp_path / "vocab.txt").write_text("\n".join(known), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=len(known), initializer_range=0.5, num_labels=2, **sizes)
    ).eval()
    network.bert.embeddings.LayerNorm = nn.Identity()
    texts = [text.replace("with ", "").replace("a ", "") for text in TEXTS[:20]]
    with torch.no_grad():
        said = network(**tokenizer(texts, return_tensors="pt", padding=True)).logits.argmax(1)
    labelled = Texts("reviews", texts, said.tolist())
    data, threat = Rewrites("kinds", 2, other_kinds).over(labelled)
    x, y = data.take(range(len(data)))
    read, goal = SubWords(network, tokenizer, data.words), Untargeted(y)
    choices = threat.norm.choices(x)
    found = gains(read, x, choices, goal)
    embedding = network.get_input_embeddings()
    tokens = tokenizer([texts[0]], return_tensors="pt", padding=True)
    old, new = tokenizer.convert_tokens_to_ids([KINDS[0], KINDS[5]])
    where = int((tokens["input_ids"][0] == old).nonzero()[0])

    def mixed(share):
        e = embedding.weight[tokens["input_ids"]].clone()
        e[0, where] += share * (embedding.weight[new] - embedding.weight[old])
        with torch.no_grad():
            out = network(inputs_embeds=e, attention_mask=tokens["attention_mask"]).logits
        return float(margin(out, goal[torch.tensor([0])]))

    k = int((choices[0, 0] == data.words.numbers[KINDS[5]]).nonzero()[0])
    assert float(found[0, 0, k]) == pytest.approx((mixed(1e-3) - mixed(-1e-3)) / 2e-3, rel=1e-2, abs=1e-4)
    errors, typed = Rewrites("typos", 2, typing_errors).over(labelled)
    x, _ = errors.take(range(len(errors)))
    read, rng = SubWords(network, tokenizer, errors.words), Streams.of(0, range(len(x)))
    fell = {}
    for name, attack in {"slopes": hotflip(typed), "beam": word_beam(typed)}.items():
        with torch.no_grad():
            fell[name] = int(goal.reached(read(attack(read, x, goal, rng))).sum())
    assert 0.8 * fell["beam"] <= fell["slopes"]
    result = sparring.audit((network, tokenizer), labelled, Rewrites("kinds", 2, other_kinds), suite="quick")
    assert result.settings["access"] == "gradients"
    assert next(one for one in result.attacks if one.name == "hotflip").backward > 0
