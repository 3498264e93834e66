"""A model behind HTTP, by its scores or labels: JSON in and out, a query budget, retries and a rate limit."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import random
import re
import threading
import time
import tomllib
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sparring.errors import BadInput, MayPass, require
from sparring.models.victim import Victim

BUSY = frozenset({429, 502, 503, 504})
"""The answers after which asking again may help."""

LONGEST_S = 1e6
"""The longest time-out or wait, in seconds: sockets and clocks refuse one that is much longer."""

PLACES = ("{input}", "{inputs}", "{png}")


class BudgetSpent(MayPass):
    """The next request would go beyond the endpoint's query budget; it was not sent."""


class Unanswered(MayPass):
    """The server cannot be reached, does not answer in time, or answers with an error or no JSON."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """How to ask a model behind HTTP, and how to read its answer.

    `request` is the JSON body. In it `"{inputs}"` becomes the nested list of a batch (up to `batch` examples a
    request); `"{input}"` becomes the nested list of one example and `{png}`, also inside a longer string, its base64
    PNG (values in [0, 1], rounded to 8 bits; `(H, W)` or `(C, H, W)` with 1, 3 or 4 channels): one example a request.

    `response` is a path into the JSON answer: keys joined by dots, `[]` for every entry of a list, `[0]` for one; "" is
    the whole answer. It leads to one row of scores an example (for a request of one example, the row itself will do),
    or with `access` "labels" to one label an example, a number or a name of `classes`. Where an answer lists classes in
    an order of its own, `names` is the path to their names beside the scores. Classes that it leaves out score 0, as
    improbable ones do; where it leaves some out, a score below 0 (a logit, a log-probability) is refused.

    A header may name environment variables, `${TOKEN}`; they are read when the endpoint is adopted and never shown.

    `queries` bounds the examples sent, `per_second` the requests: by each command, or in Python by each victim that was
    made of it; a run that is resumed may send as many again. Answers 429, 502, 503, 504, time-outs and broken
    connections are tried again up to `retries` times after `wait_s * 2^k` seconds with jitter, or what Retry-After asks
    for, up to `longest_wait_s`. An example counts when it is answered, times out or the connection breaks, not when it
    is turned away; `clock`, `sleep`, `jitter` and `transport` (httpx's) are there to be replaced in tests.

    `timeout_s` bounds every single wait for the server, and the time from asking to the end of the answer; that one is
    looked at as the body arrives, so it may be overrun by one wait. A server that drips the head of an answer byte by
    byte is not cut off: httpx has no such bound.
    """

    url: str
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    request: Any = field(default_factory=lambda: {"inputs": "{inputs}"})
    response: str = "outputs"
    access: Literal["scores", "labels"] = "scores"
    classes: tuple[str, ...] | int | None = None
    names: str | None = None
    probabilities: bool = False
    queries: int | None = None
    per_second: float | None = None
    timeout_s: float = 30.0
    batch: int = 64
    retries: int = 5
    wait_s: float = 0.5
    longest_wait_s: float = 60.0
    clock: Callable[[], float] = field(default=time.monotonic, repr=False, compare=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False, compare=False)
    jitter: Callable[[], float] = field(default=random.random, repr=False, compare=False)
    transport: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not address(self.url):  # which may hold a password, and so is not quoted
            raise BadInput("the url of an endpoint", "an http:// or https:// address", "correct url")
        places = sorted(found(self.request))
        if not places or ("{inputs}" in places and len(places) > 1):
            raise BadInput(
                f"a request with {', '.join(places) or 'no place for the input'}",
                "{inputs} for a batch, or {input} or {png} for one example",
                "correct the request template",
            )
        if self.names is not None and not isinstance(self.classes, tuple):
            raise BadInput("names without the list of classes", "the order of the classes", "set classes = [...]")
        if self.access == "labels" and self.classes is None:
            raise BadInput("an endpoint of labels", "the classes", "set classes to their number or their names")
        steps(self.response)
        steps(self.names or "")
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                need = "a positive number" if least else "zero or more"
                raise BadInput(
                    f"{name} = {value}", need if most == math.inf else f"{need}, up to {most:g}", f"correct {name}"
                )
        if self.width is not None and self.width < 2:
            raise BadInput(f"classes = {self.classes}", "at least two classes", "correct classes")
        if isinstance(self.classes, tuple) and (twice := repeated(self.classes)):
            raise BadInput(f"classes name {twice[0]!r} twice", "every class once", "correct classes")

    @property
    def width(self) -> int | None:
        """The number of classes, where it is said."""
        return len(self.classes) if isinstance(self.classes, tuple) else self.classes

    @property
    def name(self) -> str:
        """The address, without user, password and query."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.hostname}{port}{parts.path}"


BOUNDS: dict[str, tuple[float, float]] = {
    "queries": (1, math.inf),
    "per_second": (1e-9, math.inf),
    "timeout_s": (1e-9, LONGEST_S),
    "batch": (1, math.inf),
    "retries": (0, math.inf),
    "wait_s": (0, LONGEST_S),
    "longest_wait_s": (0, LONGEST_S),
}


def adopt(obj: Endpoint) -> Victim:
    """Attack the model behind an `Endpoint`. The victim's `call` is a `Client`, which counts in `spent`.

    Raises:
        BadInput: not an Endpoint, or a header names an environment variable that is not set; when called, an answer
            that holds no scores or labels where they should be, one line each.
        Unanswered: when called, if no answer comes, or another one than 200 with JSON.
        BudgetSpent: when called, if the next request would go beyond `queries`.

    """
    if not isinstance(obj, Endpoint):
        raise BadInput(
            f"an object of type {type(obj).__name__}",
            "an Endpoint",
            "describe it with sparring.models.endpoint.Endpoint",
        )
    notes = [f"at most {obj.queries} queries for each command" if obj.queries is not None else "no query budget"]
    if "{png}" in found(obj.request):
        notes.append("inputs are rounded to 8 bits")
    if isinstance(obj.classes, tuple):
        notes.append(f"labels are positions in [{', '.join(obj.classes[:20])}]")
    return Victim(
        call=Client(obj),
        access=obj.access,
        framework="http",
        name=obj.name,
        probabilities=obj.probabilities,
        notes=tuple(notes),
    )


def load(spec: str | Path) -> Victim:
    """Attack the model that a `.toml` (or `.json`) file describes by the fields of `Endpoint`, or behind an address.

    An address alone is sent `{"inputs": [...]}` and answers `{"outputs": [[...]]}`.

    Raises:
        BadInput: no such file, not TOML, a field that `Endpoint` lacks or refuses; an address with a user or a query,
            which a report would show in the command that made it; see `adopt`.

    """
    if str(spec).startswith(("http://", "https://")):
        endpoint, parts = Endpoint(url=str(spec)), urlsplit(str(spec))
        if "@" in parts.netloc or parts.query:
            do = "describe it in a .toml file (url, headers)"
            raise BadInput(f"{endpoint.name} with a user or a query, which a report would show", "a plain address", do)
        return adopt(endpoint)
    path = Path(spec)
    if not path.is_file():
        raise BadInput(f"{path} is not a file", "a .toml file or an http(s):// address", "check the path")
    kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: nested thousands deep
        raise BadInput(f"{path} is not {kind}: {first_line(error)}", f"a {kind} file", "correct it") from None
    if not isinstance(table, dict):
        raise BadInput(f"{path} holds a {type(table).__name__}", "the fields of an endpoint", "correct it")
    return adopt(described(table, path))


def described(table: dict[str, Any], path: Path) -> Endpoint:
    """Check the settings of a file one by one."""
    settled(table, SETTINGS, path)
    for name, allowed in (("method", ("POST", "PUT", "PATCH")), ("access", ("scores", "labels"))):
        if table.get(name, allowed[0]) not in allowed:
            raise BadInput(f"{path} sets {name} to {table[name]!r}", f"one of {', '.join(allowed)}", f"correct {name}")
    for name, value in table.get("headers", {}).items():
        if not isinstance(value, str):
            given = WORDS.get(type(value), "a date")
            raise BadInput(f"{path} sets the header {name} to {given}", "text", "put it in quotes")
    if isinstance(table.get("classes"), list):
        table["classes"] = tuple(map(str, table["classes"]))
    return Endpoint(**table)


def settled(table: Mapping[str, Any], known: Mapping[str, tuple[type, ...]], path: Path) -> None:
    """Refuse settings of a service that are unknown or of the wrong kind, and a service without an address.

    Raises:
        BadInput: the first of them.
    """
    for name, value in table.items():
        if name not in known:
            raise BadInput(f"{path} sets {name}", f"one of {', '.join(known)}", f"remove or correct {name}")
        if type(value) not in known[name] and not (type(value) is int and float in known[name]):
            need = " or ".join(WORDS[kind] for kind in known[name])
            raise BadInput(f"{path} sets {name} to {WORDS.get(type(value), 'a date')}", need, f"correct {name}")
    if "url" not in table:
        raise BadInput(f"{path} without url", "the address of the service", 'add url = "https://..."')


WORDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
    type(None): "nothing",
}
"""What the values in a file are called."""

SETTINGS: dict[str, tuple[type, ...]] = {
    "url": (str,),
    "method": (str,),
    "headers": (dict,),
    "request": (dict, list, str),
    "response": (str,),
    "access": (str,),
    "classes": (list, int),
    "names": (str,),
    "probabilities": (bool,),
    "queries": (int,),
    "per_second": (float,),
    "timeout_s": (float,),
    "batch": (int,),
    "retries": (int,),
    "wait_s": (float,),
    "longest_wait_s": (float,),
}


class Client:
    """One endpoint in use: the open connection, the examples spent so far, and when the next request may go.

    It may be called from several threads; requests go one after another.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self.spent, self.requests = endpoint, 0, 0
        self._httpx: Any = require("httpx", "http")
        headers = {name: expanded(name, value) for name, value in endpoint.headers.items()}
        for name, value in headers.items():  # httpx would quote the value, which may be a secret, when it refuses it
            if not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name, re.ASCII) or not re.fullmatch(r"[\x20-\x7e]*", value):
                raise BadInput(f"the header {name!r}", "plain ASCII in one line", "correct the header") from None
        try:
            self._http = self._httpx.Client(timeout=endpoint.timeout_s, headers=headers, transport=endpoint.transport)
        except Exception as error:  # httpx, ssl and the file system each raise their own; its text may hold a password
            raise BadInput(
                f"the proxy or the certificates that the environment names ({type(error).__name__})",
                "ones that httpx can use",
                "correct or unset HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE (socks: pip install 'httpx[socks]')",
            ) from None
        weakref.finalize(self, self._http.close)
        self._next = endpoint.clock()
        self._width = endpoint.width
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        """Ask about `(B, *shape)`: scores or one-hot labels `(B, K)`."""
        given = x.detach().to("cpu", torch.float32)
        if not bool(given.isfinite().all()):
            raise BadInput("inputs that are not finite", "numbers that JSON can carry", "remove NaN and infinity")
        if not len(given):
            return x.new_zeros(0, self._width or 0)
        size = self.endpoint.batch if "{inputs}" in found(self.endpoint.request) else 1
        with self._lock:
            self._afford(len(given))  # before the first request: half an answer is of no use
            rows = torch.cat([self._ask(part) for part in torch.split(given, size)])
        return rows.to(x.device)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _ask(self, x: Tensor) -> Tensor:
        answer = self.send(filled(self.endpoint.request, x), len(x))
        rows = self._labels(answer, len(x)) if self.endpoint.access == "labels" else self._scores(answer, len(x))
        if self._width is None:
            self._width = rows.shape[1]
        if rows.shape[1] != self._width:
            raise self._bad(f"answered with {rows.shape[1]} scores an example", f"{self._width}", "check classes")
        return rows

    def send(self, body: Any, examples: int) -> Any:
        """Send one request, again where that may help, and return the JSON of the answer."""
        e = self.endpoint
        for attempt in range(e.retries + 1):
            self._afford(examples)
            self._wait_for_turn()
            asked = 0.0
            self.requests += 1
            self.spent += examples
            until = e.clock() + e.timeout_s
            try:
                with self._http.stream(e.method, e.url, json=body) as answer:
                    content = self._content(answer, until)
            except self._httpx.TimeoutException:
                trouble = f"did not answer within {e.timeout_s:g} s"
            except self._httpx.ConnectError as error:
                self.spent -= examples
                raise self._failed(f"cannot be reached: {first_line(error)}", "a running server", "check url") from None
            except self._httpx.RequestError as error:  # such as a kept connection that the server has closed meanwhile
                trouble = f"broke the connection: {first_line(error)}"
            except (self._httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: a host that no name server can have
                self.spent -= examples
                raise self._failed(
                    f"is no address: {first_line(error)}", "an http(s):// address", "correct url"
                ) from None
            else:
                if answer.status_code not in BUSY:
                    return self._json(answer, content)
                self.spent -= examples
                trouble = f"answered {answer.status_code} {answer.reason_phrase}"
                asked = retry_after(answer.headers.get("Retry-After"))
            if attempt == e.retries:
                break
            if asked > e.longest_wait_s:
                raise self._failed(
                    f"{trouble} and asks to wait {asked:.0f} s", f"{e.longest_wait_s:g} s", "come back later"
                )
            backoff = min(e.wait_s * 2.0 ** min(attempt, 99), e.longest_wait_s) * (0.5 + 0.5 * e.jitter())
            e.sleep(max(asked, backoff))
        raise self._failed(
            f"{trouble}, {e.retries + 1} times", "an answer", "check the server, or raise timeout_s or retries"
        )

    def _afford(self, examples: int) -> None:
        e = self.endpoint
        if e.queries is not None and self.spent + examples > e.queries:
            raise BudgetSpent(
                f"{e.name} has had {self.spent} of {e.queries} queries, the budget of each command",
                f"{examples} more",
                "raise queries or attack fewer examples",
            )

    def _wait_for_turn(self) -> None:
        if self.endpoint.per_second is None:
            return
        now = self.endpoint.clock()
        if self._next > now:
            self.endpoint.sleep(self._next - now)
        self._next = max(self._next, now) + 1 / self.endpoint.per_second

    def _content(self, answer: Any, until: float) -> bytes:
        """Read the body; httpx bounds each read alone, and a server that drips bytes would hold a run for ever."""
        content = bytearray()
        for part in answer.iter_bytes():
            content += part
            if self.endpoint.clock() > until:
                raise self._httpx.ReadTimeout("the body came too slowly")
        return bytes(content)

    def _json(self, answer: Any, content: bytes) -> Any:
        if not 200 <= answer.status_code < 300:
            # The body may quote the request with its secrets; the status says enough.
            do = "check the headers" if answer.status_code in {401, 403} else "check url, method and request"
            raise self._failed(f"answered {answer.status_code} {answer.reason_phrase}".strip(), "200", do)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):  # no JSON, no text, a number of thousands of digits, lists thousands deep
            kind = answer.headers.get("Content-Type", "no type")
            raise self._failed(f"answered with something else than JSON ({kind})", "JSON", "check url") from None

    def _scores(self, answer: Any, examples: int) -> Tensor:
        scores = self._follow(answer, self.endpoint.response)
        if self.endpoint.names is not None:
            scores = self._ordered(scores, self._follow(answer, self.endpoint.names), examples)
        try:
            rows = torch.tensor(scores, dtype=torch.float32)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            raise self._wrong("something else than rows of numbers", examples) from None
        if rows.ndim == 1 and examples == 1:
            rows = rows[None]
        if rows.ndim != 2 or len(rows) != examples or rows.shape[1] < 2:
            raise self._wrong(f"an array of shape {tuple(rows.shape)}", examples)
        if not bool(rows.isfinite().all()):
            raise self._wrong("scores that are not finite", examples)
        return rows

    def _ordered(self, scores: Any, names: Any, examples: int) -> list[list[float]]:
        """Put scores that come with the names of their classes into the order of `classes`."""
        if examples == 1 and isinstance(names, list) and all(isinstance(name, str) for name in names):
            scores, names = [scores], [names]
        try:
            tables = [dict(zip(ns, ss, strict=True)) for ns, ss in zip(names, scores, strict=True)]
        except (TypeError, ValueError):
            raise self._wrong("names that do not match its scores", examples) from None
        if not all(tables):
            raise self._wrong("no class", examples)
        assert isinstance(self.endpoint.classes, tuple)
        unknown = {str(name) for table in tables for name in table} - set(self.endpoint.classes)
        if unknown:
            raise self._bad(f"names the class {min(unknown)!r}", "names of classes", "correct classes")
        twice = [name for ns in names for name in repeated(ns)]
        if twice:
            raise self._bad(f"names the class {twice[0]!r} twice", "every class once", "correct names")
        width = len(self.endpoint.classes)
        if any(len(table) < width and any(map(negative, table.values())) for table in tables):
            raise self._bad(
                "leaves out classes and scores others below 0",  # the 0 of those left out would be the best score
                "a score for every class, or probabilities",
                "have it return every class",
            )
        return [[table.get(name, 0.0) for name in self.endpoint.classes] for table in tables]

    def _labels(self, answer: Any, examples: int) -> Tensor:
        labels = self._follow(answer, self.endpoint.response)
        labels = labels if isinstance(labels, list) else [labels]
        if len(labels) != examples:
            raise self._wrong(f"{len(labels)} labels", examples)
        return one_hot(torch.tensor([self._position(label) for label in labels]), self._width or 0).float()

    def _position(self, label: Any) -> int:
        classes, count = self.endpoint.classes, self._width or 0
        if isinstance(classes, tuple) and isinstance(label, str) and label in classes:
            return classes.index(label)
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < count:
            need = f"one of {', '.join(classes[:20])}" if isinstance(classes, tuple) else f"a number below {count}"
            raise self._bad(f"answered with the label {label!r:.60}", need, "correct response or classes")
        return label

    def _follow(self, answer: Any, path: str) -> Any:
        try:
            return follow(answer, steps(path))
        except (KeyError, IndexError, TypeError):
            shape = f"keys {', '.join(answer)!r}" if isinstance(answer, dict) else type(answer).__name__
            raise self._bad(
                f"answered without {path!r} ({shape:.120})", "the path of the scores or labels", "correct response"
            ) from None

    def _wrong(self, what: str, examples: int) -> BadInput:
        need = f"one row of scores for each of {examples} examples"
        if self.endpoint.access == "labels":
            need = f"one label for each of {examples} examples"
        return self._bad(f"answered with {what}", need, "correct response or request")

    def _bad(self, what: str, need: str, do: str) -> BadInput:
        return BadInput(f"{self.endpoint.name} {what}", need, do)

    def _failed(self, what: str, need: str, do: str) -> Unanswered:
        return Unanswered(f"{self.endpoint.name} {what}", need, do)


# --- the address, the template, the path and the scores


def address(url: str) -> bool:
    """Whether this is the address of a web server."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # to read it is to check it
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def repeated(names: Sequence[Any]) -> list[Any]:
    """Names that stand more than once."""
    return [name for name, count in Counter(list(names)).items() if count > 1]


def negative(score: Any) -> bool:
    """Whether this is a number below 0."""
    return isinstance(score, int | float) and score < 0


def found(template: Any) -> set[str]:
    """Return the places for inputs in a request."""
    if isinstance(template, dict):
        return set().union(*map(found, template.values())) if template else set()
    if isinstance(template, list | tuple):
        return set().union(*map(found, template)) if template else set()
    if not isinstance(template, str):
        return set()
    return {place for place in PLACES if template == place or (place == "{png}" and place in template)}


def filled(template: Any, x: Tensor) -> Any:
    """Put a batch, or the one example in it, into a request."""
    if isinstance(template, dict):
        return {key: filled(value, x) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [filled(value, x) for value in template]
    if template == "{inputs}":
        return x.tolist()
    if template == "{input}":
        return x[0].tolist()
    return template.replace("{png}", png(x[0])) if isinstance(template, str) and "{png}" in template else template


def png(x: Tensor) -> str:
    """Encode an image with values in [0, 1] as base64 PNG, rounded to 8 bits."""
    from PIL import Image

    image = x if x.ndim == 3 else x[None]
    if x.ndim not in {2, 3} or image.shape[0] not in {1, 3, 4}:
        raise BadInput(
            f"inputs of shape {tuple(x.shape)}", "(H, W) or (C, H, W) with 1, 3 or 4 channels for PNG", "use {input}"
        )
    if float(x.min()) < -1e-6 or float(x.max()) > 1 + 1e-6:
        raise BadInput(
            f"inputs from {float(x.min()):g} to {float(x.max()):g}",
            "values in [0, 1] for PNG",
            "scale them or use {input}",
        )
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode("ascii")


def steps(path: str) -> list[str | int | None]:
    """Read a path: keys, positions, and None for every entry of a list.

    Raises:
        BadInput: not such a path.

    """
    if not re.fullmatch(r"([^.\[\]]+|\[\d*\])?(\.[^.\[\]]+|\[\d*\])*", path) or path.startswith("."):
        raise BadInput(f"the path {path!r}", "keys joined by dots, [] and [0]", "write it like outputs[].scores")
    out: list[str | int | None] = []
    for key, position in re.findall(r"([^.\[\]]+)|\[(\d*)\]", path):
        out.append(key or (int(position) if position else None))
    return out


def follow(value: Any, path: list[str | int | None]) -> Any:
    """Walk a path; `KeyError`, `IndexError` or `TypeError` where it ends too early."""
    if not path:
        return value
    step, *rest = path
    if step is None:
        if not isinstance(value, list):
            raise TypeError
        return [follow(entry, rest) for entry in value]
    if isinstance(step, int) != isinstance(value, list):
        raise TypeError
    return follow(value[step], rest)


def expanded(name: str, value: str) -> str:
    """Replace `${TOKEN}` by the environment variable."""

    def look_up(match: re.Match[str]) -> str:
        try:
            return os.environ[match[1]]
        except KeyError:
            raise BadInput(
                f"the header {name} names ${{{match[1]}}}", "that environment variable", f"export {match[1]}=..."
            ) from None

    return re.sub(r"\$\{(\w+)\}", look_up, value)


def retry_after(value: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, given in seconds or as a date."""
    if not value:
        return 0.0
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return 0.0


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
