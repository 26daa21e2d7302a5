"""What Serve's proxy says itself becomes JSON; what applications say stays as it is."""

import asyncio

import httpx
import pytest
from ray.serve._private.http_util import convert_object_to_asgi_messages
from starlette.responses import PlainTextResponse

from kineray.serving.proxy import JsonErrors, middlewares


def get(app, path="/"):
    async def send():
        transport = httpx.ASGITransport(JsonErrors(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(send())


def as_the_proxy(status, text):
    async def app(_scope, _receive, send):
        for message in convert_object_to_asgi_messages(text, status_code=status):
            await send(message)

    return app


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (404, "Path '/v1/predict' not found. Ping http://.../-/routes for available routes.", "not_found"),
        (408, "Request 4f2c timed out after 5.0s.", "timeout"),
        (
            503,
            "Request dropped due to backpressure (num_queued_requests=4, max_queued_requests=4).",
            "overloaded",
        ),
        (
            503,
            "Deployment(name='Api', app='kineray') is unavailable because it failed to deploy.",
            "unavailable",
        ),
    ],
)
def test_the_proxys_own_answers(status, text, code):
    answer = get(as_the_proxy(status, text))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status == 503)


def test_a_replica_that_dies_before_it_answers():
    async def dies(_scope, _receive, _send):
        pass

    answer = get(dies)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]


@pytest.mark.parametrize(
    ("status", "text"), [(200, "success"), (404, "no such user"), (503, "Route table is not populated yet.")]
)
def test_answers_of_others(status, text):
    assert get(as_the_proxy(status, text)).text == text
    answer = get(PlainTextResponse(text, status, {"X-Mine": "1"}))
    assert (answer.status_code, answer.text, answer.headers["x-mine"]) == (status, text, "1")


def test_serve_accepts_the_middlewares():
    from ray.serve._private.http_util import validate_http_proxy_callback_return

    assert validate_http_proxy_callback_return(middlewares())
