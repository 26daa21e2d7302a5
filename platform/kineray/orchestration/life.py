"""The sign of life that the process of a sweep gives, by which others see that it runs."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from kineray.errors import KinerayError, StorageError, Terminated
from kineray.orchestration.process import as_kineray_error
from kineray.processes import is_running, start_of
from kineray.storage import exists, join, read_bytes, write_bytes

LIFE = "life.json"  # the file with the sign of life
_EVERY_S = 10.0


@dataclass(frozen=True)
class Life:
    """A sign of life of the process ``pid`` on ``host``, which ``started`` then, at the Unix time ``beat``.

    ``is_over``: whether it has done its work; ``problem``: the fields of the error that ended it.
    """

    host: str
    pid: int
    started: str
    beat: float
    is_over: bool = False
    problem: dict[str, str] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the process still works."""
        return not self.is_over and is_running(self.host, self.pid, self.started, self.beat)

    def error(self) -> KinerayError | None:
        """The error that ended the process."""
        if self.problem is None:
            return None
        fields = dict(self.problem)
        return KinerayError(fields.pop("problem"), **fields)


def read_life(folder: str) -> Life | None:
    """The last sign of life of the process of a sweep in ``folder``; None if it has never given one."""
    path = join(folder, LIFE)
    return Life(**json.loads(read_bytes(path))) if exists(path) else None


def write_life(folder: str, life: Life) -> None:
    """Give a sign of life. Raises StorageError."""
    write_bytes(join(folder, LIFE), json.dumps(asdict(life)).encode())


@contextmanager
def alive(folder: str) -> Iterator[None]:
    """Give signs of life in the body, and its end after it, with the error that it raises."""

    started = start_of(os.getpid()) or ""

    def life(*, is_over: bool = False, problem: dict[str, str] | None = None) -> Life:
        return Life(socket.gethostname(), os.getpid(), started, time.time(), is_over, problem)

    def beat() -> None:
        while not over.wait(_EVERY_S):
            with suppress(StorageError):  # a storage that is away for a while
                write_life(folder, life())

    write_life(folder, life())
    over, problem = threading.Event(), None
    thread = threading.Thread(target=beat, name="kineray-life", daemon=True)
    thread.start()
    is_over = True
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        is_over = False  # the sweep could go on
        raise
    except BaseException as error:
        problem = _fields(error)
        raise
    finally:
        over.set()
        thread.join()
        write_life(folder, life(is_over=is_over, problem=problem))


def _fields(error: BaseException) -> dict[str, str]:
    known = as_kineray_error(error)
    return {"problem": known.problem, "code": known.code, "key": known.key, "remedy": known.remedy}
