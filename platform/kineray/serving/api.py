"""The HTTP interface: routes, limits and errors; the answers come from a backend."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from kineray.serving.body import read_video
from kineray.serving.errors import RequestError, error_response
from kineray.serving.limits import Limits, Memory, Slots

_QUICK_S = 5.0  # what says whether a model is ready, and which, is waited for this long
_CODES = {404: "not_found", 405: "method_not_allowed"}


class Backend(Protocol):
    """Who answers. Every method may raise RequestError."""

    async def answer(self, video: bytes) -> dict[str, Any]:
        """The classes of a video."""

    async def describe(self) -> dict[str, Any]:
        """The model."""


def http_app(
    backend: Backend, limits: Limits, *, service_id: str = "", origins: Sequence[str] = ()
) -> FastAPI:
    """The ASGI application. ``origins``: the web origins whose pages may call it, ``*`` for all."""
    routes = _Routes(backend, limits, service_id)
    app = FastAPI(title="kineray", docs_url=None, redoc_url=None)
    app.add_api_route("/v1/predict", routes.predict, methods=["POST"])
    for path, route in {
        "/v1/model": routes.model,
        "/v2/health/live": routes.live,
        "/v2/health/ready": routes.ready,
    }.items():
        app.add_api_route(path, route, methods=["GET"])
        app.add_api_route(path, route, methods=["HEAD"], include_in_schema=False)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    return app


class _Routes:
    def __init__(self, backend: Backend, limits: Limits, service_id: str) -> None:
        self._backend = backend
        self._limits = limits
        self._service_id = service_id
        self._memory = Memory(limits.held * limits.max_bytes)
        self._slots = Slots(limits.running, limits.waiting)

    async def predict(self, request: Request) -> JSONResponse:
        """Classify the video in the body (raw bytes, or the part ``file`` of a multipart form)."""
        started = time.perf_counter()
        with self._memory.share() as memory:
            video = await read_video(request, self._limits, memory)
            received = time.perf_counter()
            async with _within(self._limits.answer_s), self._slots.take():
                answer = await self._backend.answer(video)
        answer["timings_ms"]["receive"] = round((received - started) * 1e3, 3)
        answer["timings_ms"]["total"] = round((time.perf_counter() - started) * 1e3, 3)
        return JSONResponse(answer)

    async def model(self) -> JSONResponse:
        """The version that answers, the SHA-256 of its weights, and its classes."""
        async with _within(_QUICK_S):
            return JSONResponse(await self._backend.describe())

    async def live(self) -> JSONResponse:
        """200 as long as the process answers; ``service``: identifies the `kineray serve` that started it."""
        return JSONResponse({"live": True, "service": self._service_id})

    async def ready(self) -> JSONResponse:
        """200 if a model answers, else 503."""
        try:
            async with _within(_QUICK_S):
                await self._backend.describe()
        except RequestError:
            return error_response(503, "not_ready", "no model is ready to answer", {"Retry-After": "5"})
        return JSONResponse({"ready": True})


@contextlib.asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        message = f"no answer within {seconds:.0f} s; try again later, or send a shorter video"
        raise RequestError(503, "timeout", message, retry_after_s=10) from None


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return error.response()


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "http_error")
    return error_response(error.status_code, code, str(error.detail), error.headers)


async def _internal_error(_request: Request, error: Exception) -> JSONResponse:
    return error_response(500, "internal", f"{type(error).__name__}; see the service's log")
