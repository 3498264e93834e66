"""A chatbot behind HTTP that speaks as OpenAI's do: answers alone, with a query budget, retries and a rate limit."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparring.domains.chat.cases import Conversation
from sparring.domains.chat.function import Answering
from sparring.errors import BadInput
from sparring.models.endpoint import SETTINGS, Client, Endpoint, first_line, follow, settled, steps

RESPONSE = "choices[0].message.content"
"""Where the answer is, as OpenAI's interface has it."""

ASKED: dict[str, Any] = {"temperature": 0, "max_tokens": 64}
"""What is asked for, beside the model: the likeliest answer, of such a length."""

OWN: dict[str, tuple[type, ...]] = {"model": (str,), "response": (str,), "extra": (dict,)}
SHARED = ("url", "headers", "queries", "per_second", "timeout_s", "retries", "wait_s", "longest_wait_s")
"""Settings of `sparring.models.endpoint.Endpoint` that mean the same here."""


class Chat:
    """`POST {"model": ..., "messages": [...]}` to a chat completions address, a conversation a request.

    `extra` goes into every request; unless it says otherwise the temperature is 0 and an answer has 64 tokens at most.
    `response` is the path to the answer. Budget, rate, retries and secrets in headers are those of an `Endpoint`.

    Raises:
        BadInput: what `Endpoint` refuses; when called, an answer without text in its place.
        Unanswered: when called, if no answer comes.
        BudgetSpent: when called, if the next request would go beyond `queries`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        model: str = "",
        response: str = RESPONSE,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.client, self.response = Client(endpoint), steps(response)
        self.body = {**({"model": model} if model else {}), **ASKED, **(extra or {})}
        self.name = f"{endpoint.name} {model}".strip()

    def __call__(self, conversations: list[Conversation]) -> list[str]:
        """The answers, one after another."""
        return [self._ask(conversation) for conversation in conversations]

    def _ask(self, conversation: Conversation) -> str:
        said = self.client.send({**self.body, "messages": conversation}, 1)
        try:
            answer = follow(said, self.response)
        except (KeyError, IndexError, TypeError):
            answer = None
        if not isinstance(answer, str):
            shape = f"keys {', '.join(said)!r:.120}" if isinstance(said, dict) else f"a {type(said).__name__}"
            raise BadInput(f"{self.name} answered without a text ({shape})", RESPONSE, "correct response")
        return answer


def load(spec: str | Path) -> Answering:
    """The chatbot that a `.toml` file describes by `url`, `model` and the settings of `Chat` and `Endpoint`.

    Raises:
        BadInput: no such file, not TOML, a setting that is unknown or of the wrong kind.
    """
    path = Path(spec)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"cannot read '{path}' ({first_line(error)})", "a .toml file with url and model", "check it"
        ) from None
    settled(table, {**OWN, **{name: SETTINGS[name] for name in SHARED}}, path)
    shared = {name: table[name] for name in SHARED if name in table}
    chat = Chat(Endpoint(**shared), **{name: table[name] for name in OWN if name in table})
    return Answering(chat, chat.name)
