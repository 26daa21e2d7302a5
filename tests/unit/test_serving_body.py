"""How the video is read from a request, and which requests are refused, without a cluster."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from hypothesis import given, settings
from hypothesis import strategies as st

from kineray.serving.body import read_video
from kineray.serving.errors import RequestError
from kineray.serving.limits import Limits, Memory

LIMIT = 1000


async def echo(request: Request):
    try:
        with Memory(32 * LIMIT).share() as memory:
            return Response(await read_video(request, Limits(LIMIT), memory))
    except RequestError as error:
        return error.response()


def post(**request):
    app = FastAPI()
    app.add_api_route("/", echo, methods=["POST"])

    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/", **request)

    return asyncio.run(send())


def refusal(response):
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()["error"]) == {"code", "message"}
    return response.status_code, response.json()["error"]["code"]


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=600))
def test_raw_bytes_and_a_form_arrive_unchanged(video):
    assert post(content=video).content == video
    assert post(files={"file": video}).content == video
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl --data-binary sends
    assert post(content=video, headers=form).content == video


def test_a_body_of_exactly_the_limit_is_read():
    assert post(content=bytes(LIMIT)).content == bytes(LIMIT)
    assert refusal(post(content=bytes(LIMIT + 1))) == (413, "too_large")
    assert refusal(post(files={"file": bytes(LIMIT)})) == (413, "too_large")


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "10"}, {"Content-Length": "many"}])
def test_bytes_are_counted_whatever_length_is_announced(headers):
    async def parts():
        for _ in range(30):
            yield bytes(100)

    assert refusal(post(content=parts(), headers=headers)) == (413, "too_large")


def test_a_body_that_is_announced_as_too_large_is_refused():
    assert refusal(post(content=b"small", headers={"Content-Length": str(LIMIT + 1)})) == (413, "too_large")


def test_reading_stops_far_over_the_limit():
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 1
            yield bytes(LIMIT)

    assert refusal(post(content=endless())) == (413, "too_large")
    assert sent < 10


@pytest.mark.parametrize(
    "request_",
    [
        {"files": {"video": b"x"}},
        {"files": {"file": (None, "a text field")}},
        {"files": [("file", b"x"), ("file", b"y")]},
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        {"content": b"not a form", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        {"content": b"--b\r\n\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
    ],
    ids=["other name", "text", "two files", "no boundary", "no parts", "cut off"],
)
def test_forms_without_one_file(request_):
    assert refusal(post(**request_)) == (400, "bad_form")
