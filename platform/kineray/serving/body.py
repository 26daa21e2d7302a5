"""Reading the video from a request's body."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from kineray.serving.errors import RequestError
from kineray.serving.limits import Limits, Share

FILE_FIELD = "file"
# A client that is still sending does not read an answer, so the rest of a body that is too large is read and
# discarded, up to this many times the limit.
_DISCARD_FACTOR = 4


async def read_video(request: Request, limits: Limits, memory: Share) -> bytes:
    """The bytes of the video: the whole body, or the part ``file`` of a multipart form.

    Raises RequestError: 413 ``too_large`` for a body of more than ``max_bytes`` (as announced or as
    received), 408 ``slow_body`` for one that takes too long, 503 ``overloaded`` if ``memory`` has no room for
    it, 400 ``bad_form`` for a form that cannot be read or has no such part, and 400 ``incomplete`` if the
    client disconnects.
    """
    body = await _read_body(request, limits, memory)
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return body

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, chunks(), max_files=1, max_fields=16).parse()
    except (MultiPartException, KeyError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "it has no boundary"
        raise RequestError(400, "bad_form", f"the multipart form cannot be read: {reason}") from None
    try:
        part = form.get(FILE_FIELD)
        if not isinstance(part, UploadFile):
            raise RequestError(400, "bad_form", f"the multipart form has no file part '{FILE_FIELD}'")
        return await part.read()
    finally:
        await form.close()


async def _read_body(request: Request, limits: Limits, memory: Share) -> bytes:
    announced = request.headers.get("content-length", "")
    too_large = announced.isdecimal() and int(announced) > limits.max_bytes
    body = bytearray()
    count, is_read = 0, True
    async for chunk in _in_time(request, limits):
        count += len(chunk)
        too_large = too_large or count > limits.max_bytes
        if count > _DISCARD_FACTOR * limits.max_bytes:
            is_read = False
            break
        if too_large:
            body.clear()
        else:
            body += chunk
        memory.resize(len(body))
    if too_large:
        raise RequestError(
            413,
            "too_large",
            f"the body is larger than {limits.max_bytes} bytes; send a shorter or smaller video",
            closes=not is_read,
        )
    return bytes(body)


async def _in_time(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The chunks of a body that comes fast enough."""
    started, count = asyncio.get_running_loop().time(), 0
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout_at(started + limits.receive_until(count)):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            message = f"{count} bytes of the body came in {limits.receive_until(count):.0f} s; send it faster"
            raise RequestError(408, "slow_body", message, closes=True) from None
        except ClientDisconnect:
            raise RequestError(400, "incomplete", "the client disconnected") from None
        count += len(chunk)
        yield chunk
