"""Audits of models that read texts: exact where the worst text is known, doubted where scores say little."""

import hashlib
import json
import re
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import sparring
from sparring.cli import main
from sparring.data.texts import Texts
from sparring.domains.text.rewritings import typing_errors
from sparring.domains.text.threats import Rewrites, rewriting
from sparring.errors import BadInput
from sparring.report.gallery import load

from .test_reproducible import timeless

VOCABULARY = """
    gripping thriller wonderful leading actress tedious pointless badly acted start finish story never quite comes
    together although pictures splendid charming funny over soon script director camera music laughter boredom
    scenery dialogue ending beginning characters audience evening masterpiece disaster pleasure torture
"""
WORDS = tuple(VOCABULARY.split())


def weight(word):
    """A number between -1 and 1 for a word that is known, the same everywhere; 0 for any other."""
    return (
        0.0 if word not in WORDS else int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest()) / 2**31 - 1
    )


def lead(text):
    return sum(map(weight, text.split()))


def critic(texts):
    """Two scores, apart by twice the sum of the weights of the words."""
    leads = np.array([lead(text) for text in texts], dtype=np.float32)
    return np.stack([-leads, leads], 1)


def sentences(count, seed=0):
    """Some words each, and what the critic says of them; one in ten is told otherwise."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(5, 12), replace=False)) for _ in range(count)]
    return Texts("reviews", texts, [int(lead(text) > 0) ^ (i % 10 == 9) for i, text in enumerate(texts)])


def standing(data, eps):
    """The share that is right, and stays so whichever `eps` words are mistyped: a sum of the largest gains."""
    count = 0
    for text, label in zip(data.texts, data.y, strict=True):
        side = 1 if label else -1
        gains = [
            max([side * (weight(word) - weight(error)) for error in typing_errors(word)] + [0.0])
            for word in text.split()
        ]
        count += side * lead(text) - sum(sorted(gains)[-eps:]) > 0
    return count / len(data)


@pytest.mark.parametrize("eps", [1, 3])
def test_an_audit_leaves_just_what_no_wording_breaks(eps):
    data = sentences(80)
    found = sparring.audit(critic, data, f"typos:{eps}", suite="quick")
    assert found.verdict == "trusted", found.reasons
    assert found.clean_accuracy.estimate == 0.9
    assert found.robust_accuracy.estimate == standing(data, eps)
    assert 0 < standing(data, eps) < 0.9
    assert found.threat == {"norm": "typos", "eps": eps}
    for point in found.curve[1:]:
        assert point.robust_accuracy == standing(data, int(point.eps))
    assert found.curve[1].eps == 1
    assert found.curve[1].certified_accuracy == found.curve[1].robust_accuracy
    if eps == 1:
        assert found.certified_accuracy == found.robust_accuracy
    assert "100% still do" in next(check.evidence for check in found.checks if check.name == "storage")


def test_what_all_wordings_leave_is_proved_though_only_decisions_are_told():
    data = sentences(60)
    found = sparring.audit(lambda texts: critic(texts).argmax(1), data, "typos:1", suite="quick")
    assert found.robust_accuracy.estimate == standing(data, 1) == found.certified_accuracy.estimate
    assert found.verdict == "trusted"
    assert {check.name: check.outcome for check in found.checks}["access"] == "warn"


@pytest.mark.parametrize(
    ("model", "check"),
    [
        (lambda texts: critic(texts).argmax(1), "access"),
        (lambda texts: np.eye(2, dtype=np.float32)[critic(texts).argmax(1)], "coarse-scores"),
    ],
)
def test_a_model_that_tells_its_decision_alone_is_not_trusted(model, check):
    found = sparring.audit(model, sentences(60), "typos:3", suite="quick")
    assert found.verdict == "suspect"
    assert check in {one.name for one in found.checks if one.outcome == "fail"}


def test_a_model_that_corrects_what_is_typed_is_not_taken_for_a_coarse_one():
    meant = {error: word for word in WORDS for error in typing_errors(word)}

    def corrected(texts):
        return critic([" ".join(meant.get(word, word) for word in text.split()) for text in texts])

    found = sparring.audit(corrected, sentences(60), "typos:2", suite="quick")
    assert found.verdict == "trusted", found.reasons
    assert found.robust_accuracy.estimate > 0.8


def test_a_model_that_guesses_at_every_call_is_noticed():
    rng = np.random.default_rng(0)
    noisy = sparring.audit(
        lambda texts: critic(texts) + 0.05 * rng.normal(size=(len(texts), 2)).astype(np.float32),
        sentences(30),
        "typos:1",
    )
    assert noisy.verdict == "suspect"
    assert noisy.certified_accuracy is None


def nameless(text):
    """Whether a text has a word that is misspelt in one way."""
    return any(word not in WORDS and word.endswith("ng") for word in text.split())


@pytest.mark.parametrize("eps", [1, 2])
def test_of_texts_that_may_get_no_number_nothing_is_proved(eps):
    data = sentences(40)

    def odd(texts):
        scores = critic(texts)
        scores[[nameless(text) for text in texts]] = np.nan
        return scores

    found = sparring.audit(odd, data, f"typos:{eps}", suite="quick")
    near = [any(nameless(error) for word in text.split() for error in typing_errors(word)) for text in data.texts]
    proved = [bool(row.proved) for row in found.per_example]
    assert any(near)
    assert any(proved)
    assert not any(one and other for one, other in zip(near, proved, strict=True))


def test_a_tie_that_the_judge_does_not_confirm_proves_nothing():
    """Scores whose last digit changes with the batch: the first error is a success for many texts at once alone."""
    words = ("wonderful", "charming", "splendid", "masterpiece")
    ties = {next(iter(typing_errors(word))) for word in words}
    falls = {list(typing_errors(word))[9] for word in words}

    def model(texts):
        hair = 1e-7 if len(texts) <= len(words) else -1e-7
        leads = [hair if ties & {text} else -1.0 if falls & {text} else 1.0 for text in texts]
        return np.stack([-np.array(leads), np.array(leads)], 1)

    found = sparring.audit(model, (list(words), [1] * len(words)), "typos:1", suite="quick")
    assert found.clean_accuracy.estimate == 1
    assert not any(row.proved for row in found.per_example)


@dataclass(frozen=True)
class Sent:
    """A model that travels to another process."""

    def __call__(self, texts):
        return critic(texts)


def test_batches_and_workers_change_nothing(tmp_path):
    runs = [
        sparring.audit(Sent(), sentences(24), "typos:2", suite="quick", name="critic", out=tmp_path / str(i), **how)
        for i, how in enumerate(({"batch_size": 5}, {"workers": 2, "batch_size": 8}))
    ]
    assert timeless(runs[0]) == timeless(runs[1])


def test_another_table_of_rewritings_does_not_go_on_with_a_run(tmp_path):
    data, out = sentences(12), tmp_path / "run"

    def stop(stage, done, total):
        if stage == "word-genetic":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sparring.audit(Sent(), data, "typos:3", suite="quick", out=out, watch=stop)
    with pytest.raises(BadInput, match="settings"):
        sparring.audit(
            Sent(), data, Rewrites("typos", 3, lambda word: [word[::-1]]), suite="quick", out=out, resume=True
        )
    resumed = sparring.audit(Sent(), data, "typos:3", suite="quick", out=out, resume=True)
    assert timeless(resumed) == timeless(sparring.audit(Sent(), data, "typos:3", suite="quick", out=tmp_path / "anew"))


def test_texts_come_as_a_pair_of_lists_too_and_pictures_keep_their_words(tmp_path):
    data = sentences(40)
    found = sparring.audit(critic, (list(data.texts), list(data.y)), "typos:1", suite="quick", out=tmp_path)
    assert found.robust_accuracy.estimate == standing(data, 1)
    picture = load(tmp_path / "gallery.npz")[0]
    before, after = picture.words
    assert picture.kind == "text"
    assert "".join(before) == data.texts[picture.index]
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1
    assert lead("".join(after)) * lead("".join(before)) < 0


@pytest.mark.parametrize(
    ("model", "data", "threat", "said"),
    [
        (critic, "texts", "linf:0.1", "which are texts"),
        (critic, "digits", "typos:1", "need texts"),
        (3, "texts", "typos:1", "a int as a model of texts"),
        (lambda texts: 1 / 0, "texts", "typos:1", "raised ZeroDivisionError"),
        (lambda texts: np.zeros((1, 2, 3)), "texts", "typos:1", "array of shape"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(model, data, threat, said):
    with pytest.raises(BadInput, match=said):
        sparring.audit(model, sentences(10) if data == "texts" else data, threat)


def test_rewriting_no_word_is_invalid():
    assert (
        sparring.audit(critic, sentences(20), rewriting("typos:1").__class__("typos", 0, typing_errors)).verdict
        == "invalid"
    )


FILE = f"""
import hashlib
import numpy as np

WORDS = {WORDS}


def weight(word):
    number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())
    return number / 2**31 - 1 if word in WORDS else 0.0


def make():
    def critic(texts):
        leads = np.array([sum(map(weight, text.split())) for text in texts], dtype=np.float32)
        return np.stack([-leads, leads], 1)

    return critic
"""


@pytest.fixture
def place(tmp_path):
    data = sentences(80)
    (tmp_path / "critic.py").write_text(FILE, encoding="utf-8")
    rows = zip(data.texts, data.y, strict=True)
    (tmp_path / "reviews.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    return tmp_path


@pytest.fixture
def command(place, monkeypatch, capsys):
    """The command line, in the folder of the fixture `place`: the status, and what it wrote."""

    def run(*words):
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["sparring", *words])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code, *capsys.readouterr()

    return run


def test_the_command_line_audits_texts_and_shows_what_was_replaced(place, command):
    status, out, _ = command(
        "audit", "critic.py:make", "--data", "reviews.tsv", "--threat", "typos:1", "--budget", "quick"
    )
    assert status == 0
    assert "TRUSTED" in out
    result = json.loads((place / "sparring-audit" / "result.json").read_text(encoding="utf-8"))
    assert result["robust_accuracy"]["estimate"] == standing(sentences(80), 1)
    page = (place / "sparring-audit" / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<del>\w+</del> <ins>\w+</ins>", page)
    assert "The same texts before and under attack" in page


def test_the_command_line_attacks_texts_and_writes_them(place, command):
    words = ("critic.py:make", "--data", "reviews.tsv", "--threat", "typos:1")
    status, said, _ = command("attack", *words, "--attack", "word-greedy", "-o", "out")
    assert status == 0
    assert "8 bits" not in said
    rows = (place / "out" / "adversarial.tsv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == round(80 * (0.9 - standing(sentences(80), 1)))
    for row in rows:
        text, label = row.split("\t")
        assert (lead(text) > 0) != bool(int(label))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("attack", "--threat", "typos:1", "--attack", "pgd", "-o", "out"), "pgd on typos:1"),
        (("audit", "--threat", "linf:0.1"), "which are texts; need words to replace"),
        (("audit", "--threat", "typos:x"), "a whole number of words"),
        (("audit", "--threat", "typos:1", "--device", "cuda"), "let the factory place the model"),
        (("audit", "--threat", "typos:1", "--defence", "jpeg"), "put a cleaner before the model"),
        (("audit", "--threat", "typos:1", "--certify", "crown"), "bounds of critic.py:make within words replaced"),
        (("certify", "--threat", "typos:1"), "bounds of critic.py:make within words replaced"),
        (("explain", "--threat", "typos:1", "-o", "out"), "to explain"),
    ],
)
def test_the_command_line_refuses_what_does_not_fit_texts_in_a_line(command, words, said):
    status, _, error = command(words[0], "critic.py:make", "--data", "reviews.tsv", *words[1:])
    assert status == 2
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.frameworks
def test_pipelines_of_scikit_learn_are_read(place, command):
    feature = pytest.importorskip("sklearn.feature_extraction.text")
    linear, pipeline = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.pipeline")
    bayes, svm = pytest.importorskip("sklearn.naive_bayes"), pytest.importorskip("sklearn.svm")
    skops = pytest.importorskip("skops.io")
    train, test = sentences(1500, seed=1), sentences(60)
    for kind in (linear.LogisticRegression(C=100), bayes.MultinomialNB(), svm.LinearSVC()):
        model = pipeline.make_pipeline(feature.CountVectorizer(), kind).fit(list(train.texts), train.y)
        found = sparring.audit(model, test, "typos:1", suite="quick")
        assert found.clean_accuracy.estimate == pytest.approx(model.score(list(test.texts), test.y))
        assert found.verdict == "trusted"
    skops.dump(model, place / "model.skops")
    status, out, _ = command("audit", "model.skops", "--data", "reviews.tsv", "--threat", "typos:1", "--trust")
    assert status == 0
    assert "TRUSTED" in out


@pytest.mark.frameworks
def test_a_network_of_transformers_behind_its_tokenizer_is_read_and_left_as_it_was(tmp_path, place, command):
    transformers = pytest.importorskip("transformers")
    data = sentences(30)
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(WORDS)), *"abcdefghijklmnopqrstuvwxyz"]
    known += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "vocab.txt").write_text("\n".join(known), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(known),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=2,
    )
    network = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        said = network(**tokenizer(list(data.texts), return_tensors="pt", padding=True)).logits.argmax(1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    labelled = Texts("reviews", data.texts, said.tolist())
    found = sparring.audit((network, tokenizer), labelled, "typos:1", suite="quick")
    assert found.clean_accuracy.estimate == 1
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
    assert found.settings["framework"] == "text"
    pipeline = transformers.pipeline("text-classification", model=network, tokenizer=tokenizer)
    assert sparring.audit(pipeline, labelled, "typos:1", suite="quick").robust_accuracy == found.robust_accuracy
    for part in (network, tokenizer):
        part.save_pretrained(place / "folder")
    rows = zip(data.texts, said.tolist(), strict=True)
    (place / "said.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    status, _, _ = command("audit", "folder", "--data", "said.tsv", "--threat", "typos:1", "--budget", "quick")
    assert status == 0
    read = json.loads((place / "sparring-audit" / "result.json").read_text(encoding="utf-8"))
    assert read["robust_accuracy"] == json.loads(found.robust_accuracy.model_dump_json())
