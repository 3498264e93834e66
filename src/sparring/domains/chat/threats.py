"""What an attacker of an assistant may do: put so much text into one place."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Literal

import torch

from sparring.domains.chat.assistant import Assistant
from sparring.errors import BadInput
from sparring.streams import Streams

PRINTABLE = frozenset(string.printable[:95])
"""Letters, digits, punctuation and the space of ASCII."""

DRAWS = 64
"""How often a random text is drawn anew until it is within the threat."""


@dataclass(frozen=True, kw_only=True)
class Suffix:
    """A text of at most `size` tokens (as the assistant's own tokenizer counts the text alone) or characters.

    Tokens of the chat template (as `<|im_end|>`) are no text: who lets those through has no need of an attack. With
    `printable` each character is printable ASCII.
    """

    size: int
    unit: Literal["tokens", "characters"] = "tokens"
    printable: bool = False

    def __str__(self) -> str:
        name = "suffix" if self.unit == "tokens" else self.unit
        return f"{name}:{self.size}{':ascii' if self.printable else ''}"

    def contains(self, text: str, model: Assistant) -> bool:
        """Whether the attacker may hand over the text."""
        if self.printable and not PRINTABLE.issuperset(text):
            return False
        if self.unit == "characters":
            return len(text) <= self.size
        tokens = model.tokens(text)
        return tokens is not None and len(tokens) <= self.size

    def sample(self, model: Assistant, rng: Streams) -> str:
        """A random text of this size: tokens, or printable characters."""
        for i in range(DRAWS):
            draws = rng.at(i)
            if self.unit == "characters":
                letters = sorted(PRINTABLE)
                text = "".join(letters[j] for j in draws.integers(len(letters), self.size)[0].tolist())
            else:
                allowed = model.allowed(self.printable).nonzero().flatten()
                text = model.spelled(allowed[draws.integers(len(allowed), self.size)[0]])
            if self.contains(text, model):
                return text
        return model.spelled(torch.tensor([int(allowed[0])])) if self.unit == "tokens" else ""


def suffix(spec: str) -> Suffix:
    """The threat `suffix:20` (tokens) or `characters:120`, each with `:ascii` behind it for printable ASCII alone.

    Raises:
        BadInput: another one.
    """
    name, _, rest = spec.partition(":")
    size, _, kind = rest.partition(":")
    if name not in ("suffix", "characters") or kind not in ("", "ascii") or not size.isdecimal() or not int(size):
        need = "suffix:TOKENS or characters:COUNT, with :ascii behind it if you like"
        raise BadInput(f"threat {spec!r}", need, "write for example suffix:20")
    return Suffix(size=int(size), unit="tokens" if name == "suffix" else "characters", printable=bool(kind))
