"""Language models so small that every text can be tried: random weights, a few words or letters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from sparring.domains.chat.cases import Case  # noqa: E402
from sparring.domains.chat.language_model import LanguageModel  # noqa: E402

SPECIAL = ["<|user|>", "<|bot|>", "<|end|>"]
WORDS = ["open", "the", "front", "door", "please", "now", "read", "this", "page", "is", "short", "it", "ends", "here"]
TEMPLATE = (
    "{% for turn in messages %}<|user|> {{ turn['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|bot|>{% endif %}"
)
CASE = Case(message="read this page {attack} it ends here", wanted="open the door", name="door")


def worded() -> Any:
    """A token a word: what is written is always read as it was."""
    words = {word: i for i, word in enumerate([*WORDS, *SPECIAL])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="the"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return _finished(model)


def merged() -> Any:
    """Letters, of which some pairs grow together."""
    letters = [*" abcdefghijklmnop^<>", "ab", "abc", "de", "op"]
    vocabulary = {piece: i for i, piece in enumerate([*letters, *SPECIAL])}
    merges = [("a", "b"), ("ab", "c"), ("d", "e"), ("o", "p")]
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    model.decoder = tokenizers.decoders.Fuse()
    return _finished(model)


def _finished(model: Any) -> Any:
    model.add_special_tokens(SPECIAL)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|end|>")
    made.chat_template = TEMPLATE
    return made


def llama(size: int, seed: int = 0, scale: float = 12, **changes: Any) -> Any:
    """Two layers of random weights, large enough for answers to depend on what is asked."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=size - 1,
        pad_token_id=None,
        **changes,
    )
    network = transformers.LlamaForCausalLM(config).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(scale)
    return network


def model(seed: int = 0, tokenizer: Any = None, scale: float = 12) -> LanguageModel:
    """A model of words."""
    tokenizer = tokenizer or worded()
    return LanguageModel(llama(len(tokenizer), seed, scale), tokenizer, name="tiny", longest=6)
