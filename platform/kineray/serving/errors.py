"""The errors that clients of the endpoint receive."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.responses import JSONResponse


class RequestError(Exception):
    """An answer other than 200: ``{"error": {"code", "message"}}`` with HTTP ``status``.

    ``closes``: whether the connection ends with it, because the client may still be sending.
    """

    def __init__(
        self, status: int, code: str, message: str, *, retry_after_s: int | None = None, closes: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        self.closes = closes

    def response(self) -> "JSONResponse":
        """The error as an HTTP response."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.closes:
            headers["Connection"] = "close"
        return error_response(self.status, self.code, str(self), headers)


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> "JSONResponse":
    """An error response; all errors have this form."""
    from starlette.responses import JSONResponse  # here, so that the driver does not import it

    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)
