import base64
import io
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from PIL import Image

from sparring.errors import BadInput
from sparring.models.endpoint import BudgetSpent, Endpoint, adopt, load

httpx = pytest.importorskip("httpx")

WEIGHTS = torch.linspace(-1, 1, 27).reshape(9, 3)
X = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(0))
URL = "http://model.test/predict"


def scores(x):
    return x.flatten(1) @ WEIGHTS


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self):
        self.now, self.naps = 0.0, []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now += seconds


def endpoint(handler, when=None, **settings):
    when = when or Time()
    settings = {"url": URL, "clock": when.clock, "sleep": when.sleep, "jitter": lambda: 1.0} | settings
    return Endpoint(transport=httpx.MockTransport(handler), **settings)


def plain(request):
    x = torch.tensor(json.loads(request.content)["inputs"])
    return httpx.Response(200, json={"outputs": scores(x).tolist()})


def answering(*answers):
    """A handler that gives one answer after another; an exception is raised."""
    left = list(answers)

    def handler(request):
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return plain(request) if answer is plain else answer

    return handler


# --- what goes out and what comes in


def test_batches_go_out_and_scores_come_back():
    sizes = []

    def handler(request):
        sizes.append(len(json.loads(request.content)["inputs"]))
        return plain(request)

    victim = adopt(endpoint(handler, batch=2))
    out = victim(X.clone().requires_grad_())
    torch.testing.assert_close(out, scores(X))
    assert (victim.access, victim.framework, victim.name) == ("scores", "http", "model.test/predict")
    assert not out.requires_grad
    assert sizes == [2, 2, 1]
    assert (victim.call.spent, victim.call.requests) == (5, 3)


def test_the_template_is_sent_with_one_example_a_request():
    bodies = []

    def handler(request):
        bodies.append(json.loads(request.content))
        row = scores(torch.tensor(bodies[-1]["data"]["image"])[None])[0]
        return httpx.Response(200, json={"result": [{"probability": p} for p in row.tolist()], "time": 3})

    request = {"model": "v2", "data": {"image": "{input}"}, "flags": [1, "{x}"]}
    victim = adopt(endpoint(handler, request=request, response="result[].probability"))
    torch.testing.assert_close(victim(X), scores(X))
    assert len(bodies) == 5
    assert (bodies[0]["model"], bodies[0]["flags"]) == ("v2", [1, "{x}"])


@pytest.mark.parametrize("shape", [(3, 3), (1, 3, 3), (3, 4, 3), (4, 2, 2)])
def test_images_are_sent_as_png(shape):
    seen = []

    def handler(request):
        text = json.loads(request.content)["image"]
        assert text.startswith("data:image/png;base64,")
        seen.append(Image.open(io.BytesIO(base64.b64decode(text.split(",")[1]))))
        return httpx.Response(200, json=[0.1, 0.9])

    x = (torch.rand(1, *shape) * 255).round() / 255
    victim = adopt(endpoint(handler, request={"image": "data:image/png;base64,{png}"}, response=""))
    assert victim(x).argmax(1).tolist() == [1]
    pixels = torch.tensor(list(seen[0].tobytes())).reshape(seen[0].height, seen[0].width, -1)
    sent = x[0] if len(shape) == 3 else x
    assert torch.equal(pixels.permute(2, 0, 1).float(), (sent * 255).round())
    assert "inputs are rounded to 8 bits" in victim.notes


def test_what_is_no_image_is_not_sent_as_png():
    victim = adopt(endpoint(plain, request={"image": "{png}"}))
    for bad in (torch.rand(1, 9), torch.rand(1, 2, 3, 3), torch.rand(1, 3, 3) + 1):
        with pytest.raises(BadInput, match="PNG"):
            victim(bad)


def test_labels_come_back_one_hot():
    def handler(request):
        x = torch.tensor(json.loads(request.content)["inputs"])
        names = [["cat", "dog", "cow"][i] for i in scores(x).argmax(1)]
        return httpx.Response(200, json={"predictions": [{"label": name} for name in names]})

    described = endpoint(handler, response="predictions[].label", access="labels", classes=("cat", "dog", "cow"))
    victim = adopt(described)
    assert torch.equal(victim(X).argmax(1), scores(X).argmax(1))
    assert victim.access == "labels"
    numbers = endpoint(lambda r: httpx.Response(200, json={"label": 2}), request=["{input}"], response="label",
                       access="labels", classes=4)  # fmt: skip
    assert adopt(numbers)(X).tolist() == [[0, 0, 1, 0]] * 5


def test_scores_in_an_order_of_their_own_are_put_into_ours():
    answer = [{"label": "dog", "score": 0.7}, {"label": "cat", "score": 0.2}]
    described = endpoint(
        lambda r: httpx.Response(200, json=answer), request=["{input}"], response="[].score", names="[].label",
        classes=("cat", "cow", "dog"),
    )  # fmt: skip
    torch.testing.assert_close(adopt(described)(X[:1]), torch.tensor([[0.2, 0.0, 0.7]]))
    batch = endpoint(
        lambda r: httpx.Response(200, json=[answer, answer[::-1]]), response="[][].score", names="[][].label",
        classes=("cat", "cow", "dog"),
    )  # fmt: skip
    torch.testing.assert_close(adopt(batch)(X[:2]), torch.tensor([[0.2, 0.0, 0.7]] * 2))
    with pytest.raises(BadInput, match="'dog'"):
        adopt(endpoint(lambda r: httpx.Response(200, json=answer), request=["{input}"], response="[].score",
                       names="[].label", classes=("cat", "cow")))(X[:1])  # fmt: skip


def named(*answers):
    """An endpoint whose answers carry the names of classes beside the scores."""
    handler = answering(*(httpx.Response(200, json=answer) for answer in answers))
    return adopt(endpoint(handler, names="names", response="scores", classes=("a", "b", "c")))


def test_classes_left_out_of_an_answer_never_beat_logits_or_log_probabilities():
    full = {"names": [["c", "b", "a"]], "scores": [[-3.0, -2.0, -0.1]]}
    short = {"names": [["b", "a"]], "scores": [[-2.0, -0.1]]}
    victim = named(full, short)
    assert victim(X[:1]).argmax(1).tolist() == [0]
    with pytest.raises(BadInput, match="leaves out classes and scores others below 0; need a score for every class"):
        victim(X[:1])
    mixed = {"names": [["a", "b", "c"], ["a", "b"]], "scores": [[-1.0, -2.0, -3.0], [0.9, 0.1]]}
    assert named(mixed)(X[:2]).argmax(1).tolist() == [0, 0]


def test_a_class_that_an_answer_names_twice_is_refused():
    with pytest.raises(BadInput, match="names the class 'a' twice"):
        named({"names": [["a", "b", "a"]], "scores": [[0.9, 0.05, 0.05]]})(X[:1])


def test_an_answer_that_names_no_class_is_no_decision():
    with pytest.raises(BadInput, match="answered with no class"):
        named({"names": [["a"], []], "scores": [[0.9], []]})(X[:2])


def test_headers_are_filled_from_the_environment_and_never_shown(monkeypatch):
    monkeypatch.setenv("SPARRING_TEST_TOKEN", "secret")
    seen = []

    def handler(request):
        seen.append(request.headers["Authorization"])
        return httpx.Response(401)

    described = endpoint(handler, headers={"Authorization": "Bearer ${SPARRING_TEST_TOKEN}"})
    victim = adopt(described)
    with pytest.raises(BadInput, match="401") as caught:
        victim(X)
    assert seen == ["Bearer secret"]
    assert "secret" not in f"{caught.value} {described} {victim}"
    with pytest.raises(BadInput, match="SPARRING_TEST_ABSENT"):
        adopt(endpoint(handler, headers={"Authorization": "${SPARRING_TEST_ABSENT}"}))
    monkeypatch.setenv("SPARRING_TEST_TOKEN", "secret\n")
    with pytest.raises(BadInput, match="in one line") as caught:
        adopt(described)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'url = "https://user:hunter2@model.test:99999/v1"',
        'url = "model.test/v1?key=hunter2"',
        'url = ["https://model.test/v1?key=hunter2"]',
        'url = "https://model.test"\nheaders = "Authorization: Bearer hunter2"',
        'url = "https://model.test"\n[headers]\nAuthorization = ["hunter2"]',
    ],
)
def test_a_secret_in_a_wrong_description_is_not_repeated(text, tmp_path):
    path = tmp_path / "model.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load(path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("address", ["https://user:hunter2@model.test/v1", "https://model.test/v1?key=hunter2"])
def test_an_address_with_a_secret_belongs_into_a_file_that_no_report_shows(address):
    with pytest.raises(BadInput, match=r"model\.test/v1 with a user or a query.*\.toml file") as caught:
        load(address)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["gopher://user:hunter2@proxy.test", "http://user:hunter2@[::1"])
def test_a_proxy_that_cannot_be_used_is_one_line_without_its_password(proxy, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(BadInput, match="unset HTTPS_PROXY") as caught:
        adopt(Endpoint(url=URL))
    assert "hunter2" not in str(caught.value)


def test_an_empty_batch_asks_nothing():
    victim = adopt(endpoint(plain, classes=3))
    assert victim(X[:0]).shape == (0, 3)
    assert victim.call.requests == 0


# --- budget, retries, rate


def test_the_budget_is_never_exceeded():
    victim = adopt(endpoint(plain, queries=12, batch=2))
    victim(X)
    victim(X)
    with pytest.raises(BudgetSpent, match="10 of 12 queries, the budget of each command"):
        victim(X)
    assert victim.call.spent == 10
    victim(X[:2])
    with pytest.raises(BudgetSpent, match="12 of 12"):
        victim(X[:1])


def test_a_busy_server_is_asked_again_after_growing_waits():
    when = Time()
    handler = answering(*(httpx.Response(code) for code in (429, 502, 503, 504)), plain)
    victim = adopt(endpoint(handler, when, wait_s=0.5))
    torch.testing.assert_close(victim(X), scores(X))
    assert when.naps == [0.5, 1.0, 2.0, 4.0]
    assert (victim.call.spent, victim.call.requests) == (5, 5)


def test_jitter_shortens_a_wait_by_at_most_half():
    when = Time()
    adopt(endpoint(answering(httpx.Response(503), plain), when, jitter=lambda: 0.0))(X)
    assert when.naps == [0.25]


def test_a_time_out_is_tried_again_and_counts():
    victim = adopt(endpoint(answering(httpx.ReadTimeout("slow"), httpx.ReadError("gone"), plain)))
    torch.testing.assert_close(victim(X), scores(X))
    assert victim.call.spent == 15


def test_a_server_that_drips_its_answer_is_cut_off():
    when = Time()

    def drip():
        for byte in json.dumps({"outputs": [[1, 2]] * 5}).encode():
            when.now += 0.2
            yield bytes([byte])

    victim = adopt(endpoint(lambda r: httpx.Response(200, content=drip()), when, timeout_s=0.5, retries=1, wait_s=0))
    with pytest.raises(BadInput, match=r"did not answer within 0\.5 s, 2 times"):
        victim(X)
    assert when.now == pytest.approx(1.2)
    assert victim.call.spent == 10
    patient = adopt(endpoint(lambda r: httpx.Response(200, content=drip()), when, timeout_s=60))
    assert patient(X).tolist() == [[1, 2]] * 5


def test_thousands_of_retries_do_not_overflow_the_wait():
    when = Time()
    handler = answering(*[httpx.Response(503)] * 1100, plain)
    adopt(endpoint(handler, when, retries=2000, longest_wait_s=1.0))(X)
    assert when.naps[-1] == 1.0


@pytest.mark.parametrize(
    ("value", "naps"),
    [("7", [7.0]), ("Thu, 01 Jan 2015 00:00:00 GMT", [0.5]), ("soon", [0.5]), ("nan", [0.5]), ("0.1", [0.5])],
)
def test_retry_after_is_honoured(value, naps):
    when = Time()
    adopt(endpoint(answering(httpx.Response(429, headers={"Retry-After": value}), plain), when))(X)
    assert when.naps == naps


def test_a_server_that_asks_for_too_long_a_wait_is_left_alone():
    for value in ("3600", "Fri, 31 Dec 9999 23:59:59 GMT"):
        with pytest.raises(BadInput, match="asks to wait"):
            adopt(endpoint(answering(httpx.Response(429, headers={"Retry-After": value}))))(X)


def test_requests_keep_to_the_rate():
    when = Time()
    victim = adopt(endpoint(plain, when, per_second=4, batch=1))
    victim(X)
    assert when.now == pytest.approx(1.0)
    when.now += 10
    victim(X[:1])
    assert when.now == pytest.approx(11.0)  # an idle second is not saved up, and not waited for


# --- what goes wrong


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(404), "answered 404 Not Found"),
        (httpx.Response(500), "answered 500"),
        (httpx.Response(301, headers={"Location": "http://elsewhere.test"}), "answered 301"),
        (httpx.Response(503), "answered 503 Service Unavailable, 6 times"),
        (httpx.ReadTimeout("slow"), "did not answer within 30 s, 6 times"),
        (httpx.ConnectTimeout("slow"), "did not answer within 30 s, 6 times"),
        (httpx.ConnectError("[Errno 111] Connection refused"), "cannot be reached: .*refused"),
        (httpx.RemoteProtocolError("bad"), "broke the connection: bad, 6 times"),
        (httpx.Response(200, text="<html>"), "something else than JSON"),
        (httpx.Response(200, content=b"\xff\xfe"), "something else than JSON"),
        (httpx.Response(200, text="[" * 100_000), "something else than JSON"),
        (httpx.Response(200, text='{"outputs": [[1, ' + "9" * 5000 + "]]}"), "something else than JSON"),
        (httpx.Response(200, text='{"outputs": [[1, ' + "9" * 400 + "]]}"), "rows of numbers"),
        (httpx.Response(200, text='{"outputs": ' + "[" * 500 + "]" * 500 + "}"), "rows of numbers"),
        (UnicodeError("label empty or too long"), "is no address: label empty"),
        (httpx.Response(200, json={"output": 3}), r"without 'outputs' \(keys 'output'\)"),
        (httpx.Response(200, json={"two\nlines": 3, "\x1b[31m": 4}), r"keys 'two\\nlines, \\x1b\[31m'"),
        (httpx.Response(200, json=[1]), r"without 'outputs' \(list\)"),
        (httpx.Response(200, json={"outputs": [[1, 2]]}), r"shape \(1, 2\); need one row of scores for each of 5"),
        (httpx.Response(200, json={"outputs": [1, 2, 3, 4, 5]}), r"shape \(5,\)"),
        (httpx.Response(200, json={"outputs": [[1]] * 5}), r"shape \(5, 1\)"),
        (httpx.Response(200, json={"outputs": [[1, 2], [3]] * 2}), "rows of numbers"),
        (httpx.Response(200, json={"outputs": "cat"}), "rows of numbers"),
        (httpx.Response(200, json={"outputs": [[1, None]] * 5}), "rows of numbers"),
        (httpx.Response(200, text='{"outputs": [[1, NaN], [1, 2], [1, 2], [1, 2], [1, 2]]}'), "not finite"),
    ],
)
def test_trouble_is_said_in_one_line(answer, said):
    with pytest.raises(BadInput, match=said) as caught:
        adopt(endpoint(answering(answer)))(X)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model.test/predict ")


@pytest.mark.parametrize("label", ["bird", 3, -1, 1.5, None, True, [[1]]])
def test_unknown_labels_are_refused(label):
    described = endpoint(
        lambda r: httpx.Response(200, json={"outputs": label}), request=["{input}"], access="labels", classes=("a", "b")
    )
    with pytest.raises(BadInput, match="answered with the label"):
        adopt(described)(X[:1])


def test_too_few_labels_are_refused():
    described = endpoint(lambda r: httpx.Response(200, json={"outputs": [1]}), access="labels", classes=2)
    with pytest.raises(BadInput, match="1 labels; need one label for each of 5"):
        adopt(described)(X)


def test_a_changing_number_of_classes_is_refused():
    answers = answering(
        httpx.Response(200, json={"outputs": [[1, 2]]}), httpx.Response(200, json={"outputs": [[1, 2, 3]]})
    )
    victim = adopt(endpoint(answers))
    victim(X[:1])
    with pytest.raises(BadInput, match="3 scores an example; need 2"):
        victim(X[:1])


def test_inputs_that_json_cannot_carry_are_refused():
    with pytest.raises(BadInput, match="not finite"):
        adopt(endpoint(plain))(X / 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "ftp://model.test"}, "http:// or https://"),
        ({"url": "model.test"}, "http:// or https://"),
        ({"url": "http://localhost:abc/p"}, "http:// or https://"),
        ({"url": "http://localhost:99999/p"}, "http:// or https://"),
        ({"url": "http://[::1/p"}, "http:// or https://"),
        ({"classes": ("a", "b", "a")}, "classes name 'a' twice"),
        ({"longest_wait_s": -5}, "longest_wait_s = -5"),
        ({"timeout_s": float("inf")}, "timeout_s = inf"),
        ({"request": {"a": 1}}, "no place for the input"),
        ({"request": {"a": "{input}", "b": "{inputs}"}}, "a request with {inputs}, {input};"),
        ({"access": "labels"}, "set classes"),
        ({"names": "[].label"}, "list of classes"),
        ({"response": "a..b"}, "the path 'a..b'"),
        ({"response": "a[x]"}, "the path"),
        ({"queries": 0}, "queries = 0"),
        ({"batch": 0}, "batch = 0"),
        ({"timeout_s": 0.0}, "timeout_s = 0.0"),
        ({"retries": -1}, "retries = -1"),
        ({"per_second": 0}, "per_second = 0"),
        ({"classes": 1}, "at least two classes"),
    ],
)
def test_a_wrong_description_is_refused_in_one_line(settings, said):
    with pytest.raises(BadInput) as caught:
        Endpoint(**{"url": URL, **settings})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_an_endpoint_is_adopted():
    with pytest.raises(BadInput, match="type str"):
        adopt(URL)


# --- files


def test_a_toml_file_describes_an_endpoint(tmp_path):
    path = tmp_path / "model.toml"
    path.write_text(
        """
        url = "https://user:password@model.test:8443/v1?key=1"
        method = "PUT"
        access = "labels"
        response = "outputs[].label"
        classes = ["cat", "dog"]
        queries = 1000
        per_second = 5
        timeout_s = 3
        batch = 16
        [headers]
        Accept = "application/json"
        [request]
        instances = "{inputs}"
        """
    )
    victim = load(path)
    described = victim.call.endpoint
    assert (described.method, described.queries, described.batch) == ("PUT", 1000, 16)
    assert described.request == {"instances": "{inputs}"}
    assert described.classes == ("cat", "dog")
    assert victim.name == "model.test:8443/v1"
    assert victim.notes == ("at most 1000 queries for each command", "labels are positions in [cat, dog]")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("url = ", "is not TOML"),
        ("", "without url"),
        ('url = "http://a.test"\nurls = 3', "sets urls"),
        ('url = "http://a.test"\nsleep = "x"', "sets sleep"),
        ('url = "http://a.test"\nqueries = "many"', "sets queries to text; need a whole number"),
        ('url = "http://a.test"\nbatch = true', "sets batch to true or false; need a whole number"),
        ('url = "http://a.test"\nwait_s = 2026-01-01', "sets wait_s to a date; need a number"),
        ('url = "http://a.test"\nclasses = 2.0', "sets classes to a number; need a list or a whole number"),
        ('url = "http://a.test"\nmethod = "GET"', "one of POST, PUT, PATCH"),
        ('url = "http://a.test"\naccess = "all"', "one of scores, labels"),
        ('url = "http://a.test"\n[headers]\nA = 1', "the header A"),
        ('url = "http://a.test"\nqueries = -1', "queries = -1"),
        ('url = "http://a.test"\nrequest = ' + "[" * 5000 + "]" * 5000, "is not TOML"),
        ('url = "http://a.test"\nclasses = ["1", 1]', "classes name '1' twice"),
    ],
)
def test_a_wrong_toml_file_is_refused_in_one_line(text, said, tmp_path):
    path = tmp_path / "model.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="is not a file"):
        load(tmp_path / "none.toml")


def test_json_describes_an_endpoint_too(tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"url": URL, "queries": 7}))
    assert load(path).call.endpoint.queries == 7
    upper = tmp_path / "MODEL.JSON"
    upper.write_text(path.read_text())
    assert load(upper).call.endpoint.queries == 7
    for text, said in (
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=said):
            load(path)


# --- a real server


@contextmanager
def server(answer):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, out = answer(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/predict"
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


@pytest.fixture
def _direct(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.usefixtures("_direct")
def test_an_address_alone_is_asked_for_outputs():
    with server(
        lambda body: (200, json.dumps({"outputs": scores(torch.tensor(body["inputs"])).tolist()}).encode())
    ) as url:
        victim = load(url)
        torch.testing.assert_close(victim(X), scores(X))
        torch.testing.assert_close(victim(X[:2]), scores(X[:2]))
        victim.call.close()


@pytest.mark.usefixtures("_direct")
def test_a_server_that_is_gone_is_said_in_one_line():
    with server(lambda body: (200, b"{}")) as url:
        pass
    with pytest.raises(BadInput, match="cannot be reached") as caught:
        load(url)(X)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_direct")
def test_a_host_that_no_server_can_have_is_said_in_one_line():
    victim = load("http://.../predict")
    with pytest.raises(BadInput, match="is no address") as caught:
        victim(X)
    assert "\n" not in str(caught.value)
    assert victim.call.spent == 0


@pytest.mark.usefixtures("_direct")
def test_a_server_that_hangs_is_said_in_one_line():
    release = threading.Event()

    def hang(body):
        release.wait(5)
        return 200, b"{}"

    with server(hang) as url:
        started = time.monotonic()
        victim = adopt(Endpoint(url=url, timeout_s=0.05, retries=1, sleep=lambda seconds: None))
        with pytest.raises(BadInput, match=r"did not answer within 0\.05 s, 2 times"):
            victim(X)
        assert time.monotonic() - started < 2
        release.set()
        victim.call.close()
