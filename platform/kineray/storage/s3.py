"""Requests to an object store, retried while it is unavailable.

Transient failures (a refused or broken connection, 5xx, SlowDown, a timeout, a body cut short) are retried
with growing, random pauses; permanent ones (no such object, access denied) raise StorageError at once. Its
``key`` is the URI; its ``code`` is ``not_found``, ``no_bucket``, ``access_denied``, ``replaced``,
``unreachable`` (transient failures until the time for retries was up), ``bad_uri``, ``bad_endpoint`` or
``request_failed``.
"""

import functools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from kineray.errors import StorageError
from kineray.network import bypass_proxies

SCHEME = "s3://"
RETRY_FOR_S = 300.0  # for this long a request without progress is retried: a server may restart meanwhile

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 15.0
_WARN_AFTER_S = 5.0  # of failing retries
_PIECE = 2**20  # bytes

_TRANSIENT_CODES = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling"}
_TRANSIENT_CODES |= {"ThrottlingException", "TooManyRequests", "RequestThrottled", "OperationAborted"}
_TRANSIENT_CODES |= {"ConditionalRequestConflict"}  # another conditional request is being decided
_CHECK = "check the credentials"
_SET = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; AWS_ENDPOINT_URL if it is not AWS's S3"
)
# S3's error code -> code, problem and remedy of the StorageError
_REASONS = {
    "404": ("not_found", "no such object", ""),
    "NoSuchKey": ("not_found", "no such object", ""),
    "NoSuchBucket": ("no_bucket", "no such bucket", "create it or check the name"),
    "403": ("access_denied", "access denied", _CHECK),
    "AccessDenied": ("access_denied", "access denied", _CHECK),
    "InvalidAccessKeyId": ("access_denied", "unknown access key", _CHECK),
    "SignatureDoesNotMatch": ("access_denied", "wrong secret key", _CHECK),
    "ExpiredToken": ("access_denied", "the credentials have expired", "renew them"),
}
_REPLACED = {"PreconditionFailed", "InvalidRange"}

logger = logging.getLogger(__name__)
_retry_for_s: ContextVar[float | None] = ContextVar("retry_for_s", default=None)
_client_lock = threading.Lock()
_Result = TypeVar("_Result")


class ReplacedError(StorageError):
    """The object is no longer the version that the reader began with."""

    def __init__(self, uri: str) -> None:
        super().__init__("replaced while it was read", code="replaced", key=uri, remedy="start again")


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The parts of ``s3://bucket/key``; the key may be empty. Raises StorageError if there is no bucket."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise StorageError("no bucket", code="bad_uri", key=uri, remedy="write s3://bucket/key")
    return bucket, key.rstrip("/")


@contextmanager
def retry_for(seconds: float) -> Iterator[None]:
    """In this context and thread, retry failing requests for ``seconds`` rather than for minutes."""
    token = _retry_for_s.set(seconds)
    try:
        yield
    finally:
        _retry_for_s.reset(token)


def call(uri: str, method: str, **arguments: Any) -> Any:
    """The response of the S3 client's ``method``, such as ``put_object``, which must be safe to repeat.

    Raises StorageError about ``uri``, and OSError for a local file that is uploaded.
    """
    # A large upload consists of many requests, which botocore retries one by one.
    attempts = 5 if method == "upload_file" else 1
    return _with_retries(uri, lambda: getattr(_client(attempts), method)(**arguments))


def get(
    uri: str,
    write: Callable[[bytes], object],
    *,
    begin: Callable[[int, str], None] = lambda _size, _etag: None,
    first: int = 0,
    stop: int | None = None,
    etag: str = "",
) -> None:
    """Pass bytes [first, stop) of an object to ``write``, in order, each byte once.

    An interrupted body is continued where it ended. ``begin`` is called with the size of the whole object and
    its entity tag before the first byte; an exception from it or from ``write`` ends the request. Raises
    StorageError, and ReplacedError if the version of the object is not, or no longer, ``etag``.
    """
    at, size = first, -1
    bucket, key = bucket_and_key(uri)

    def attempt() -> None:
        nonlocal at, etag, size
        request = {"IfMatch": etag} if etag else {}
        if at or stop is not None:
            request["Range"] = f"bytes={at}-{'' if stop is None else stop - 1}"
        response = _client().get_object(Bucket=bucket, Key=key, **request)
        with closing(response["Body"]) as body:
            total = response.get("ContentRange", "").rpartition("/")[2]
            if "Range" in request and not total.isdigit():
                raise StorageError(
                    "the endpoint cannot read parts of an object",
                    code="bad_endpoint",
                    key=uri,
                    remedy="use another endpoint",
                )
            found, tag = int(total or response["ContentLength"]), response.get("ETag", "")
            if (etag and tag != etag) or (size >= 0 and found != size):
                raise ReplacedError(uri)  # not every endpoint respects IfMatch or has tags
            if size < 0:
                begin(found, tag)
            size, etag = found, tag
            end = size if stop is None else min(stop, size)
            while at < end:
                piece = body.read(min(_PIECE, end - at))
                if not piece:
                    raise ConnectionError(f"the body ended at byte {at} of {end}")
                write(piece)
                at += len(piece)

    _with_retries(uri, attempt, progress=lambda: at)


def _with_retries(
    uri: str, attempt: Callable[[], _Result], progress: Callable[[], int] = lambda: 0
) -> _Result:
    """The result of ``attempt``, repeated on transient failures; ``progress`` restarts the time limit."""
    limit_s = RETRY_FOR_S if (given := _retry_for_s.get()) is None else given
    since, reached, pause_s, is_logged = time.monotonic(), progress(), _FIRST_PAUSE_S, False
    while True:
        try:
            return attempt()
        except StorageError:
            raise
        except Exception as error:
            if not _is_transient(error):
                if not type(error).__module__.startswith(("botocore", "boto3")):
                    raise  # about a local file
                raise _permanent(uri, error) from None
            if progress() != reached:
                since, reached, pause_s = time.monotonic(), progress(), _FIRST_PAUSE_S
            failing_s = time.monotonic() - since
            if failing_s >= limit_s:
                raise StorageError(
                    f"{_text(error)} (tried for {failing_s:.0f} s)",
                    code="unreachable",
                    key=uri,
                    remedy="check the network and AWS_ENDPOINT_URL",
                ) from None
            if failing_s > _WARN_AFTER_S and not is_logged:
                logger.warning("%s: %s; retrying for up to %.0f s", uri, _text(error), limit_s)
                is_logged = True
        time.sleep(random.uniform(pause_s / 2, pause_s))
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    error = _cause(error)
    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return _code(error) in _TRANSIENT_CODES or status in {408, 429} or (status >= 500 and status != 501)
    if isinstance(error, exceptions.SSLError):
        return "certificate" not in str(error).lower()
    broken = exceptions.HTTPClientError | exceptions.ConnectionError | exceptions.IncompleteReadError
    return isinstance(error, broken | ResponseParserError | HTTPError | ConnectionError | TimeoutError)


def _cause(error: Exception) -> Exception:
    """The original error of an upload, of which boto3's own keeps only the text."""
    from boto3.exceptions import S3UploadFailedError

    cause = error.__context__ if isinstance(error, S3UploadFailedError) else None
    return cause if isinstance(cause, Exception) else error


def _code(error: Exception) -> str:
    """S3's code of an error, such as ``NoSuchKey``, or an empty string."""
    response = getattr(_cause(error), "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _permanent(uri: str, error: Exception) -> StorageError:
    """The StorageError of a request that need not be repeated."""
    from botocore import exceptions

    if _code(error) in _REPLACED:
        return ReplacedError(uri)
    cause = _cause(error)
    if isinstance(cause, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return StorageError(_text(error), code="access_denied", key=uri, remedy=_SET)
    if isinstance(cause, exceptions.CredentialRetrievalError):
        return StorageError(_text(error), code="access_denied", key=uri, remedy=_CHECK)
    if isinstance(cause, exceptions.ProfileNotFound):
        remedy = "set AWS_PROFILE to one of ~/.aws/config"
        return StorageError(_text(error), code="access_denied", key=uri, remedy=remedy)
    if isinstance(_cause(error), exceptions.EndpointProviderError):
        remedy = "check AWS_ENDPOINT_URL and the region"
        return StorageError(_text(error), code="bad_endpoint", key=uri, remedy=remedy)
    code, problem, remedy = _REASONS.get(_code(error)) or ("request_failed", _text(error), "")
    return StorageError(problem, code=code, key=uri, remedy=remedy)


def _text(error: Exception) -> str:
    """The error's message in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()).rstrip(".")


def _client(attempts: int = 1) -> Any:
    # A client may be shared between threads, but not between a process and its fork.
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _client_lock:  # so that threads that start together share one
        return _client_of(os.getpid(), settings, attempts)


@functools.lru_cache(maxsize=4)
def _client_of(_process: int, _settings: tuple[tuple[str, str], ...], attempts: int) -> Any:
    import boto3
    from botocore.config import Config

    bypass_proxies()  # for an endpoint on this host
    config = Config(
        retries={"total_max_attempts": attempts, "mode": "standard"},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=64,
        response_checksum_validation="when_required",  # a continued body has no checksum
    )
    try:
        return boto3.Session().client("s3", config=config)
    except ValueError as error:
        raise StorageError(
            str(error), code="bad_endpoint", key="AWS_ENDPOINT_URL", remedy="write it like http://host:9000"
        ) from None
