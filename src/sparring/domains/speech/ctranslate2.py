"""Whisper weights in the format of CTranslate2 (`model.bin`, that of faster-whisper), for Hugging Face's Whisper."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from sparring.errors import BadInput, line

FORMAT, SPEC = 6, "WhisperSpec"
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
PARTS = {
    # what CTranslate2 calls a layer's part, and what Hugging Face calls the pieces that are stacked in it
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
ENDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def load_ctranslate2(folder: Path) -> tuple[Any, Any]:
    """Hugging Face's Whisper and its tokenizer, from a folder with `model.bin`, `config.json` and `tokenizer.json`.

    Needs transformers (pip install 'sparring[transformers]'). Weights in float16 and float32; those in 8 bits are
    refused.

    Raises:
        BadInput: no such files, another format or model, weights that do not fill the network exactly.
    """
    from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration

    variables = read(folder / "model.bin")
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"'{folder}' is not whole ({line(error)})", "config.json and tokenizer.json", "copy it"
        ) from error
    state = renamed(variables)
    layers = {side: 1 + max(int(name.split(".")[3]) for name in state if f"{side}.layers." in name) for side in SIDES}
    heads = {side: int(variables[f"{side}/num_heads"]) for side in SIDES}
    vocabulary, width = state["model.decoder.embed_tokens.weight"].shape
    end, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
    config = WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        num_mel_bins=state["model.encoder.conv1.weight"].shape[1],
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=heads["encoder"],
        decoder_attention_heads=heads["decoder"],
        encoder_ffn_dim=len(state["model.encoder.layers.0.fc1.weight"]),
        decoder_ffn_dim=len(state["model.decoder.layers.0.fc1.weight"]),
        max_source_positions=len(state["model.encoder.embed_positions.weight"]),
        max_target_positions=len(state["model.decoder.embed_positions.weight"]),
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if name != "proj_out.weight"]  # which is that of the embeddings
    if missing or unexpected:
        raise BadInput(
            f"'{folder}' lacks {missing[:3]}, and has {unexpected[:3]}", "the weights of a Whisper", "check it"
        )
    model.tie_weights()
    model.generation_config.suppress_tokens = said.get("suppress_ids", [])
    model.generation_config.begin_suppress_tokens = said.get("suppress_ids_begin", [])
    return model.eval(), tokenizer


SIDES = ("encoder", "decoder")


def renamed(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The variables under the names of Hugging Face's state dict; what is stacked is taken apart."""
    state: dict[str, Tensor] = {}
    for name, value in variables.items():
        side, _, rest = name.partition("/")
        path, _, end = rest.rpartition("/")
        if name == "decoder/embeddings/weight":
            state["model.decoder.embed_tokens.weight"] = value
        elif path == "position_encodings":
            state[f"model.{side}.embed_positions.weight"] = value
        elif path in ("layer_norm", "conv1", "conv2"):
            state[f"model.{side}.{path}.{ENDS[end]}"] = value
        elif path.startswith("layer_"):
            layer, _, part = path.partition("/")
            pieces = PARTS[part]
            for piece, rows in zip(pieces, value.chunk(len(pieces)), strict=True):
                if not (piece.endswith("k_proj") and end == "bias"):  # always zero: Whisper's keys have none
                    state[f"model.{side}.layers.{layer[len('layer_') :]}.{piece}.{ENDS[end]}"] = rows
    return state


def read(file: Path) -> dict[str, Tensor]:
    """All variables of a `model.bin`, floats as float32.

    Raises:
        BadInput: no such file, another format, another model than Whisper, 8-bit weights, a truncated file.
    """
    try:
        with file.open("rb") as stream:
            version, spec, _ = _number(stream, "I"), _text(stream), _number(stream, "I")
            if (version, spec) != (FORMAT, SPEC):
                raise ValueError(f"{spec} in format {version}, not {SPEC} in {FORMAT}")
            return dict(_variable(stream) for _ in range(_number(stream, "I")))
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise BadInput(
            f"'{file}' cannot be read ({line(error)})", "a Whisper of CTranslate2 in float16 or float32", "convert it"
        ) from error


def _variable(stream: BinaryIO) -> tuple[str, Tensor]:
    """Name, rank, sizes, type, length in bytes, values."""
    name = _text(stream)
    shape = [_number(stream, "I") for _ in range(_number(stream, "B"))]
    kind, length = TYPES[_number(stream, "B")], _number(stream, "I")
    content = stream.read(length)
    if len(content) != length:
        raise ValueError("it is truncated")
    if shape and not issubclass(kind, np.floating):
        if name.endswith(("weight", "weight_scale")):
            raise ValueError(f"{name} in 8 bits")
        return name, torch.from_numpy(np.frombuffer(content, kind).astype(np.int64).reshape(shape))
    return name, torch.from_numpy(np.frombuffer(content, kind).astype(np.float32).reshape(shape))


def _number(stream: BinaryIO, kind: str) -> int:
    """An unsigned little-endian number."""
    value: int = struct.unpack(f"<{kind}", stream.read(struct.calcsize(kind)))[0]
    return value


def _text(stream: BinaryIO) -> str:
    """A text with its length before it, and a zero after."""
    return stream.read(_number(stream, "H"))[:-1].decode()
