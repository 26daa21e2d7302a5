"""Decoding in a child process, so that no file can hang or crash the run.

libav is C code that reads files of unknown origin: it can loop forever, and a thread in it cannot be stopped.
A ``DecodeProcess`` calls functions in a child that ends itself when a call takes too long; the next call
starts another child. Arrays come back through anonymous shared memory (not /dev/shm, which is small in a
container). No reply of a child can execute code in its parent.
"""

import atexit
import ctypes
import gc
import itertools
import json
import mmap
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import numpy as np

from kineray import errors
from kineray.errors import DecodeError, KinerayError

CPU_LIMIT_S = 120.0  # for loops in libav; it does not depend on how busy the machine is
WALL_LIMIT_S = 900.0  # for endless waits; longer than ``storage`` retries a request
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 4096
_TIMED_OUT = (-signal.SIGPROF, -signal.SIGALRM)
_CALLS_BETWEEN_COLLECTIONS = 100
_KEPT_BYTES = 64 * 2**20  # an idle child with more shared memory than this is ended


class DecodeProcess:
    """A child process that calls functions. Not thread-safe."""

    def __init__(self, cpu_limit_s: float = CPU_LIMIT_S, wall_limit_s: float = WALL_LIMIT_S) -> None:
        """The limits of a call, in seconds of CPU time and of wall-clock time."""
        self._limits_s = (cpu_limit_s, wall_limit_s)
        self._child: subprocess.Popen[bytes] | None = None
        self._storage_settings: dict[str, str] = {}
        self._replies = -1
        self._memory_fd = -1
        self._memory: mmap.mmap | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, or None if there is no child at present."""
        return self._child.pid if self._child else None

    @property
    def shared_bytes(self) -> int:
        """The size of the shared memory in bytes."""
        return len(self._memory) if self._memory else 0

    def call(self, function: Callable[..., Any], *args: Any, name: str) -> Any:
        """``function(*args)``, called in the child; ``name``: that of the file, for errors.

        ``function`` must be importable by its name. It may return None, numbers, strings, bytes, arrays, and
        lists, tuples (which come back as lists) and dicts of them. Arrays are in shared memory and valid
        until the next call. Raises the KinerayError that the function raises, RuntimeError for any other
        exception, and DecodeError ``timeout`` or ``crashed`` if the child does not survive the call.
        """
        if self._storage_settings != _storage_settings():  # changed since the child was started
            self.close()
        if self._child is None:
            self._start()
        try:
            self._send(pickle.dumps((function, args), protocol=5))
            header = self._receive(_LENGTH.size)
            reply = json.loads(self._receive(_LENGTH.unpack(header)[0]))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._died(name) from None
        except BaseException:
            self.close()  # interrupted between request and reply
            raise
        if "error" in reply:
            raise _error(reply["error"], name)
        return self._decoded(reply["result"])

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        with suppress(BrokenPipeError):  # of what the child has not read
            cast(Any, child.stdin).close()
        os.close(self._replies)
        os.close(self._memory_fd)
        self._memory = None

    def _start(self) -> None:
        self._storage_settings = _storage_settings()
        replies, child_end = os.pipe()
        self._memory_fd = _anonymous_file()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from kineray.video.process import _serve; "
            f"_serve({child_end}, {self._memory_fd}, {self._limits_s!r})"
        )
        # Otherwise numerical libraries start a pool of threads in every child.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            pass_fds=(child_end, self._memory_fd),
            env=os.environ | single,
            process_group=0,  # Ctrl-C goes to the parent alone, which then ends this process
        )
        os.close(child_end)
        self._replies = replies

    def _send(self, message: bytes) -> None:
        pipe = cast(Any, cast(Any, self._child).stdin)
        pipe.write(_LENGTH.pack(len(message)) + message)
        pipe.flush()

    def _receive(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = os.read(self._replies, size - len(parts))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def _died(self, name: str) -> DecodeError:
        child = cast("subprocess.Popen[bytes]", self._child)
        code = child.wait()
        self.close()
        if code in _TIMED_OUT:
            limit_s = self._limits_s[_TIMED_OUT.index(code)]
            problem, kind = f"not decoded after {limit_s:g} s", "timeout"
        else:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            problem, kind = f"the decoder ended with {how}", "crashed"
        return DecodeError(problem, code=kind, key=name, remedy="remove the damaged file")

    def _decoded(self, value: Any) -> Any:
        match value:
            case {"array": [offset, dtype, shape]}:
                return self._view(offset, np.dtype(dtype), shape)
            case {"bytes": [offset, size]}:
                return self._view(offset, np.dtype(np.uint8), [size]).tobytes()
            case {"dict": items}:
                return {key: self._decoded(item) for key, item in items.items()}
            case list():
                return [self._decoded(item) for item in value]
            case _:
                return value

    def _view(self, offset: int, dtype: np.dtype[Any], shape: list[int]) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        if offset + count * dtype.itemsize > self.shared_bytes:
            self._memory = mmap.mmap(self._memory_fd, os.fstat(self._memory_fd).st_size)
        memory = cast(mmap.mmap, self._memory)
        return np.frombuffer(memory, dtype, count, offset).reshape(shape) if count else np.empty(shape, dtype)


_idle: list[DecodeProcess] = []
_idle_lock = threading.Lock()


@contextmanager
def decode_process() -> Iterator[DecodeProcess]:
    """A child process to decode with; it is kept afterwards and given to the next caller."""
    with _idle_lock:
        process = _idle.pop() if _idle else DecodeProcess()
    try:
        yield process
    finally:
        if process.shared_bytes > _KEPT_BYTES:
            process.close()
        with _idle_lock:
            _idle.append(process)


@atexit.register
def end_idle_processes() -> None:
    """End the children that ``decode_process`` keeps."""
    with _idle_lock:
        while _idle:
            _idle.pop().close()


os.register_at_fork(after_in_child=_idle.clear)  # a fork does not own its parent's children


def _storage_settings() -> dict[str, str]:
    """The environment variables of ``storage``, which a child inherits when it starts."""
    return {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "KINERAY_"))}


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("kineray-clips")
    with tempfile.TemporaryFile() as file:  # not on Linux
        return os.dup(file.fileno())


def _error(reply: dict[str, Any], name: str) -> Exception:
    if "type" not in reply:
        error = RuntimeError(f"{name}: {reply['message']}")
        error.add_note(f"In the decoding process:\n{reply['traceback']}")
        return error
    kind = cast("type[KinerayError]", getattr(errors, reply["type"]))
    return errors.restored(kind, tuple(reply["args"]), reply["state"])


# -- the child --------------------------------------------------------------------------------------


class SharedMemory:
    """In a child: memory shared with the parent. Filling an array from ``allocate`` saves a copy."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None
        self._used = 0
        self._offsets: dict[int, int] = {}  # address of an array -> offset

    def clear(self) -> None:
        """Make all the memory available again."""
        self._used = 0
        self._offsets.clear()

    def allocate(self, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
        """An uninitialised array in shared memory."""
        count = int(np.prod(shape, dtype=np.int64))
        size = count * np.dtype(dtype).itemsize
        offset = self._used
        self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
        if self._map is None or len(self._map) < self._used:
            os.ftruncate(self._fd, self._used)
            self._map = mmap.mmap(self._fd, self._used)
        array = np.frombuffer(self._map, dtype, count, offset).reshape(shape)
        self._offsets[array.ctypes.data] = offset
        return array

    def offset_of(self, array: np.ndarray) -> int:
        """Offset of ``array`` in bytes; it is copied into shared memory if it was not allocated there."""
        if array.flags.c_contiguous and array.ctypes.data in self._offsets:
            return self._offsets[array.ctypes.data]
        copy = self.allocate(array.shape, array.dtype)
        copy[...] = array
        return self._offsets[copy.ctypes.data]


shared_memory: SharedMemory | None = None


def allocate(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised uint8 array; in a child, it is in shared memory."""
    return np.empty(shape, np.uint8) if shared_memory is None else shared_memory.allocate(shape)


def _encoded(value: Any, memory: SharedMemory) -> Any:
    match value:
        case np.ndarray():
            return {"array": [memory.offset_of(value), value.dtype.str, list(value.shape)]}
        case bytes():
            return {"bytes": [memory.offset_of(np.frombuffer(value, np.uint8)), len(value)]}
        case dict():
            return {"dict": {key: _encoded(item, memory) for key, item in value.items()}}
        case list() | tuple():
            return [_encoded(item, memory) for item in value]
        case np.generic():
            return value.item()
        case _:
            return value


def set_timers(cpu_s: float, wall_s: float) -> None:
    """In a child: start the time limits of a call; 0 removes them."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def _free_memory() -> None:
    """Return to the system what no one uses.

    PyAV's objects refer to each other. Python, which sees few objects, would let them keep many decoded
    frames, and the gaps that these leave in glibc's heap would stay, too.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


def _serve(replies: int, memory_fd: int, limits_s: tuple[float, float]) -> None:
    """In a child: answer calls until the parent closes the pipe or ends."""
    global shared_memory  # noqa: PLW0603 - a child serves one call at a time
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # ends the process, wherever it is
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = shared_memory = SharedMemory(memory_fd)
    requests, answers = sys.stdin.buffer, os.fdopen(replies, "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the parent's output
    for calls in itertools.count(1):
        header = requests.read(_LENGTH.size)
        if not header:
            return
        if calls % _CALLS_BETWEEN_COLLECTIONS == 0:
            _free_memory()
        function, args = pickle.loads(requests.read(_LENGTH.unpack(header)[0]))  # from our parent alone
        memory.clear()
        set_timers(*limits_s)
        try:
            reply = {"result": _encoded(function(*args), memory)}
        except KinerayError as error:
            # Of a class that is declared elsewhere, the parent gets the nearest one of kineray.errors.
            kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
            reply = {"error": {"type": kind.__name__, "args": error.args, "state": vars(error)}}
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            reply = {"error": {"message": text, "traceback": traceback.format_exc()}}
        finally:
            set_timers(0, 0)
        message = json.dumps(reply).encode()
        with suppress(BrokenPipeError):
            answers.write(_LENGTH.pack(len(message)) + message)
            answers.flush()
