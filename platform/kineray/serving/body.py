"""Reading the video from a request's body, and the errors that a client receives."""

from collections.abc import AsyncGenerator

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

FILE_FIELD = "file"
# A client that is still sending does not read an answer, so the rest of a body that is too large is read and
# discarded, up to this many times the limit.
_DISCARD_FACTOR = 4


class RequestError(Exception):
    """An answer other than 200: ``{"error": {"code", "message"}}`` with HTTP ``status``."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return error_response(self.status, self.code, str(self), headers)


def error_response(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error response; all errors have this form."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


async def read_video(request: Request, max_bytes: int) -> bytes:
    """The bytes of the video: the whole body, or the part ``file`` of a multipart form.

    Raises RequestError: 413 ``too_large`` for a body of more than ``max_bytes`` (as announced or as
    received), 400 ``bad_form`` for a form that cannot be read or has no such part.
    """
    body = await _read_body(request, max_bytes)
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


async def _read_body(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    too_large = announced.isdecimal() and int(announced) > max_bytes
    body = bytearray()
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        too_large = too_large or count > max_bytes
        if count > _DISCARD_FACTOR * max_bytes:
            break
        if too_large:
            body.clear()
        else:
            body += chunk
    if too_large:
        raise RequestError(
            413, "too_large", f"the body is larger than {max_bytes} bytes; send a shorter or smaller video"
        )
    return bytes(body)
