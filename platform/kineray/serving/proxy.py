"""What Ray Serve's own proxy answers, in the form of kineray's errors.

The proxy answers by itself while no application is deployed, if no replica answers in time, and if the HTTP
replica dies. Serve calls ``middlewares`` in the proxy's process if RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH
names it when Ray starts, as ``kineray.cluster`` and infra/set_up_node.sh do.
"""

import re
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kineray.serving.errors import error_response

# (status, how the proxy's text begins) -> (code, message); everything else is an application's.
_ANSWERS = {
    (404, r"Path '.*' not found\. Ping"): ("not_found", "no service answers at this path (yet)"),
    (408, r"Request .* timed out"): ("timeout", "no answer in the time that the request allows"),
    (503, r"Request dropped due to backpressure"): ("overloaded", "too many requests; try again"),
    (503, r".* is unavailable because it failed to deploy"): ("unavailable", "the service could not start"),
}
_RETRY_AFTER_S = "5"


def middlewares() -> list[Middleware]:
    """The ASGI middlewares of the proxy."""
    return [Middleware(JsonErrors)]


class JsonErrors:
    """ASGI middleware that replaces the proxy's plain texts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response = _Response(scope, receive, send)
        await self._app(scope, receive, response.send)
        if not response.is_started:  # the replica that was to answer died
            message = "a process of the service ended while it answered; try again"
            await response.replace(503, "unavailable", message)


class _Response:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._held: Message | None = None  # the start of a response that may be the proxy's
        self.is_started = False

    async def send(self, message: Message) -> None:
        """Pass a message on, or replace it."""
        self.is_started = True
        if message["type"] == "http.response.start" and _may_be_the_proxys(message):
            self._held = message
            return
        if self._held is None:
            await self._send(message)
            return
        start, self._held = self._held, None
        known = _known(start["status"], message.get("body", b""))
        if known is None:
            await self._send(start)
            await self._send(message)
        else:
            await self.replace(start["status"], *known)

    async def replace(self, status: int, code: str, message: str) -> None:
        """Answer with an error."""
        headers = {"Retry-After": _RETRY_AFTER_S} if status == 503 else {}
        await error_response(status, code, message, headers)(self._scope, self._receive, self._send)


def _may_be_the_proxys(start: Message) -> bool:
    is_text = Headers(raw=start.get("headers", [])).get("content-type", "").startswith("text/plain")
    return is_text and start["status"] in {status for status, _ in _ANSWERS}


def _known(status: int, body: bytes) -> tuple[str, str] | None:
    text = body.decode(errors="replace")
    found: list[Any] = [
        answer for (known, pattern), answer in _ANSWERS.items() if known == status and re.match(pattern, text)
    ]
    return found[0] if found else None
