"""Chatbots behind HTTP: what is sent, what is read, what is counted, and what is said where it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparring.domains.chat.audit import audit
from sparring.domains.chat.cases import Case
from sparring.domains.chat.endpoint import Chat, load
from sparring.domains.chat.function import Answering
from sparring.domains.chat.threats import suffix
from sparring.errors import BadInput
from sparring.models.endpoint import BudgetSpent, Endpoint, Unanswered

httpx = pytest.importorskip("httpx")

CASE = Case(message="Sum up: {attack}", wanted="open the door", system="Be brief.")


def echo(request: Any) -> Any:
    asked = json.loads(request.content)
    content = asked["messages"][-1]["content"].rpartition("exactly these words: ")[2].strip('"')
    return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": content}}]})


def chat(handler: Callable[[Any], Any], **settings: Any) -> Answering:
    own = {key: settings.pop(key) for key in ("model", "extra", "response") if key in settings}
    endpoint = Endpoint(
        url="https://chat.test/v1/chat/completions",
        transport=httpx.MockTransport(handler),
        sleep=lambda seconds: None,
        **settings,
    )
    made = Chat(endpoint, **own)
    return Answering(made, made.name)


def test_a_conversation_is_sent_as_openai_has_it_and_its_answer_is_read() -> None:
    sent: list[dict[str, Any]] = []

    def handler(request: Any) -> Any:
        sent.append(json.loads(request.content))
        return echo(request)

    bot = chat(handler, model="tiny", extra={"seed": 7})
    assert bot.answers(CASE, ["now", "then"]) == ["Sum up: now", "Sum up: then"]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sum up: now"}]
    assert sent[0] == {"model": "tiny", "temperature": 0, "max_tokens": 64, "seed": 7, "messages": turns}
    assert bot.name == "chat.test/v1/chat/completions tiny"


def test_a_service_is_audited_and_its_budget_holds() -> None:
    cases = [Case(message="Sum up: {attack}", wanted=f"open door {i}", name=str(i)) for i in range(5)]
    found = audit(chat(echo), cases, suffix("characters:90"))
    assert found.taken.estimate == 1
    assert found.access == "labels"
    with pytest.raises(BudgetSpent, match="3 of 3 queries"):
        audit(chat(echo, queries=3), cases, suffix("characters:90"))


def test_a_busy_service_is_asked_again_and_one_that_fails_is_named() -> None:
    answers = [httpx.Response(503), httpx.Response(429), None]

    def handler(request: Any) -> Any:
        return answers.pop(0) or echo(request)

    assert chat(handler).answers(CASE, ["now"]) == ["Sum up: now"]
    with pytest.raises(Unanswered, match="answered 401"):
        chat(lambda request: httpx.Response(401)).answers(CASE, ["now"])
    with pytest.raises(BadInput, match="answered without a text"):
        chat(lambda request: httpx.Response(200, json={"choices": []})).answers(CASE, ["now"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = 'x'", "without url"),
        ("url = 3", "sets url to a whole number"),
        ("url = 'https://a.test'\nmessages = 'x'", "sets messages"),
        ("url = [", "cannot read"),
        ("url = 'ftp://a.test'", "http:// or https://"),
        ("url = 'https://a.test'\nresponse = '..'", "the path '..'"),
        ("url = 'https://a.test'\n[headers]\nAuthorization = 'Bearer ${NO_SUCH_TOKEN}'", "NO_SUCH_TOKEN"),
    ],
)
def test_a_description_that_cannot_be_used_is_said_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bot.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as raised:
        load(tmp_path / "bot.toml")
    assert said in str(raised.value)


def test_a_description_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    text = "url = 'https://a.test/v1'\nmodel = 'tiny'\nqueries = 9\n[headers]\nAuthorization = 'Bearer ${TOKEN}'\n"
    (tmp_path / "bot.toml").write_text(text, encoding="utf-8")
    bot = load(tmp_path / "bot.toml")
    assert bot.name == "a.test/v1 tiny"
    assert isinstance(bot.respond, Chat)
    assert bot.respond.client.endpoint.queries == 9
