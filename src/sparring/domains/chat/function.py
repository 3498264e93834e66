"""Assistants of which answers are all there is: a function of conversations, or a service behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from sparring.domains.chat.cases import Case, Conversation
from sparring.errors import BadInput
from sparring.types import Access

Respond = Callable[[list[Conversation]], list[str]]
"""From conversations to the answers to them, in order."""


@dataclass(frozen=True)
class Answering:
    """A function of a list of conversations to a list of answers, as an assistant.

    Each conversation is a list of turns, `{"role": "system" | "user", "content": text}`.
    """

    respond: Respond
    name: str
    access: Access = "labels"

    def answers(self, x: Case, texts: Sequence[str]) -> list[str]:
        """What it answers.

        Raises:
            BadInput: something else than an answer for each conversation.
        """
        said: object = self.respond([x.conversation(text) for text in texts])
        if (
            not isinstance(said, Sequence)
            or len(said) != len(texts)
            or not all(isinstance(answer, str) for answer in said)
        ):
            what = f"{len(said)} answers" if isinstance(said, Sequence) else f"a {type(said).__name__}"
            given = f"{self.name} gives {what} for {len(texts)} conversations"
            raise BadInput(given, "a list of as many texts", "mend it")
        return list(said)

    def slot(self, x: Case, wanted: str) -> NoReturn:
        """There is none.

        Raises:
            BadInput: always.
        """
        raise BadInput(f"the scores of {self.name}", "an attack that needs answers alone", "choose genetic")

    def tokens(self, text: str) -> NoReturn:
        """Nobody knows its tokenizer.

        Raises:
            BadInput: always.
        """
        raise BadInput(f"tokens of {self.name}", "a threat in characters", "write for example characters:120")

    def allowed(self, ascii_only: bool) -> NoReturn:
        """As for `tokens`."""
        self.tokens("")

    def spelled(self, ids: object) -> NoReturn:
        """As for `tokens`."""
        self.tokens("")
