"""The HTTP interface on a real server, without Ray: limits, the form of errors, slow clients."""

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn

from kineray.serving.api import http_app
from kineray.serving.errors import RequestError
from kineray.serving.limits import Limits

LIMITS = Limits(1000, running=2, waiting=2, receive_s=4, grace_s=1.5, bytes_per_s=300, answer_s=2)
ORIGIN = "https://example.org"


class Backend:
    """Answers with the size of the video; one that starts with b"slow" takes so many tenths of a second."""

    def __init__(self):
        self.running = self.most = 0
        self.failure = None

    async def answer(self, video):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if video.startswith(b"slow"):
                await asyncio.sleep(int(video[4:]) / 10)
            if self.failure:
                raise self.failure
            return {"size": len(video), "timings_ms": {}}
        finally:
            self.running -= 1

    async def describe(self):
        if self.failure:
            raise self.failure
        return {"version": 1}


@contextlib.contextmanager
def serving(app):
    """The URL of ``app`` on a uvicorn server, as Ray Serve's proxy is one."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def backend():
    return Backend()


@pytest.fixture
def url(backend):
    with serving(http_app(backend, LIMITS, service_id="abc", origins=[ORIGIN])) as url:
        yield url


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def assert_error(response, status, code):
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert set(response.json()["error"]) == {"code", "message"}
    assert response.json()["error"]["code"] == code
    assert ("retry-after" in response.headers) == (status == 503)


CLIENT = httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0))  # making one is slow


def post(url, content, **more):
    return CLIENT.post(f"{url}/v1/predict", content=content, **more)


def test_more_requests_than_there_is_room_for(url, backend):
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: post(url, b"slow8"), range(10)))
    assert backend.most == LIMITS.running
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 10 - LIMITS.running - LIMITS.waiting
    for answer in refused:
        assert_error(answer, 503, "overloaded")
    assert post(url, b"later").json()["size"] == 5


def test_an_answer_that_takes_too_long_is_given_up(url, backend):
    assert_error(post(url, b"slow60"), 503, "timeout")
    deadline = time.monotonic() + 5
    while backend.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert backend.running == 0


def test_health_answers_at_once_under_overload(url, client):
    with ThreadPoolExecutor(12) as pool:
        load = [pool.submit(post, url, b"slow15") for _ in range(12)]
        for path in ("/v2/health/live", "/v2/health/ready", "/v1/model"):
            started = time.monotonic()
            assert client.get(path).status_code == 200
            assert time.monotonic() - started < 1
        assert not all(future.done() for future in load)
        assert {future.result().status_code for future in load} == {200, 503}


def drip(url, ended):
    """Send one byte in a while until the server ends the connection; appends the answer to ``ended``."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 900\r\n\r\n"
        connection.sendall(head.encode())
        connection.settimeout(0.5)
        answer = b""
        with contextlib.suppress(ConnectionError):  # a byte that was under way when the connection ended
            while True:
                with contextlib.suppress(TimeoutError):
                    received = connection.recv(4096)
                    answer += received
                    if not received:
                        break
                connection.sendall(b"x")
        ended.append(answer)


def test_slow_clients_take_nobodys_place_and_are_refused(url):
    ended = []
    threads = [threading.Thread(target=drip, args=(url, ended)) for _ in range(110)]
    for thread in threads:
        thread.start()
    answers = 0
    while not ended:
        assert post(url, b"video").json()["size"] == 5
        answers += 1
    assert answers  # beside all of them
    for thread in threads:
        thread.join()
    assert len(ended) == 110
    refusals = [answer for answer in ended if answer]
    assert refusals
    for answer in refusals:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'{"error":{"code":"slow_body"' in answer


def test_a_steady_client_may_take_longer_than_the_first_seconds(url):
    def parts():
        for _ in range(5):
            time.sleep(0.5)
            yield bytes(200)

    assert post(url, parts()).json()["size"] == 1000


def test_no_body_takes_longer_than_the_limit():

    backend, limits = Backend(), Limits(1000, receive_s=1.5, grace_s=10)
    with serving(http_app(backend, limits)) as url, httpx.Client() as client:
        started = time.monotonic()
        with contextlib.suppress(httpx.WriteError):  # it may be sending when the connection ends
            assert_error(client.post(f"{url}/v1/predict", content=slowly()), 408, "slow_body")
        assert 1 < time.monotonic() - started < 4


def slowly():
    for _ in range(60):
        time.sleep(0.1)
        yield b"0123456789"


def test_memory_for_bodies_is_limited_and_given_back():
    limits = Limits(1000, held=2)
    with serving(http_app(Backend(), limits)) as url:

        def held():
            yield bytes(900)
            time.sleep(1.5)

        with ThreadPoolExecutor(2) as pool:
            first = [pool.submit(post, url, held()) for _ in range(2)]
            time.sleep(0.7)
            assert_error(post(url, bytes(900)), 503, "overloaded")
            assert [future.result().status_code for future in first] == [200, 200]
        assert post(url, bytes(900)).status_code == 200
        assert_error(post(url, bytes(1001)), 413, "too_large")
        assert post(url, bytes(1000)).status_code == 200


def test_every_error_has_the_same_form(url, client, backend):
    assert_error(client.get("/nothing"), 404, "not_found")
    assert_error(client.put("/v1/model"), 405, "method_not_allowed")
    assert client.put("/v1/model").headers["allow"] == "GET"
    assert_error(post(url, bytes(1001)), 413, "too_large")
    backend.failure = RequestError(503, "unavailable", "gone", retry_after_s=5)
    assert_error(post(url, b"video"), 503, "unavailable")
    assert_error(client.get("/v1/model"), 503, "unavailable")
    assert_error(client.get("/v2/health/ready"), 503, "not_ready")
    assert client.get("/v2/health/live").json() == {"live": True, "service": "abc"}
    backend.failure = ArithmeticError("a bug")
    assert_error(post(url, b"video"), 500, "internal")


@pytest.mark.parametrize("path", ["/v1/model", "/v2/health/live", "/v2/health/ready"])
def test_head_is_get_without_a_body(client, path):
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


def test_head_where_there_is_nothing_to_get(client):
    assert client.head("/v1/predict").status_code == 405
    assert client.head("/nothing").status_code == 404


def test_pages_of_named_origins_may_call_it(client):
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    assert client.options("/v1/predict", headers=asked).headers["access-control-allow-origin"] == ORIGIN
    answer = client.post("/v1/predict", content=b"", headers={"Origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    asked["Origin"] = "https://example.com"
    assert "access-control-allow-origin" not in client.options("/v1/predict", headers=asked).headers


def test_without_origins_no_page_may_call_it():
    with serving(http_app(Backend(), LIMITS)) as url:
        assert "access-control-allow-origin" not in post(url, b"", headers={"Origin": ORIGIN}).headers
