"""One function for many videos, in parallel, in processes that a video may hang or crash."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from kineray.errors import DecodeError, StorageError
from kineray.video.process import CPU_LIMIT_S, DecodeProcess

Item = TypeVar("Item")


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """The result of the function for ``item``, or its error; ``done``: number of items that are done."""

    item: Item
    result: Any
    error: DecodeError | None
    done: int


def map_in_processes(
    function: Callable[..., Any],
    items: Sequence[Item],
    *,
    decoders: int,
    name: Callable[[Item], str] = str,
    arguments: Callable[[Item], tuple[Any, ...]] = lambda item: (item,),
    cpu_limit_s: float = CPU_LIMIT_S,
) -> Iterator[Outcome[Item]]:
    """Call ``function`` for every item in ``decoders`` child processes; yields outcomes as they are ready.

    ``function`` gets the ``arguments`` of the item, and returns what ``DecodeProcess.call`` can transfer.
    ``name``: the file of an item. An item has an ``error`` if the function raises DecodeError, computes
    longer than ``cpu_limit_s`` or ends its process, or if an object is not in its bucket. Any other
    StorageError, such as denied access, would be the same for all items and is raised. Closing the iterator
    ends the child processes.
    """
    todo: SimpleQueue[Item] = SimpleQueue()
    finished: SimpleQueue[tuple[Item, Any, Exception | None]] = SimpleQueue()
    for item in items:
        todo.put(item)
    processes = [DecodeProcess(cpu_limit_s) for _ in range(min(decoders, len(items)))]
    stopping = threading.Event()

    def work(process: DecodeProcess) -> None:
        try:
            while not stopping.is_set():
                item = todo.get_nowait()
                try:
                    finished.put((item, process.call(function, *arguments(item), name=name(item)), None))
                except Exception as error:
                    finished.put((item, None, error))
        except Empty:
            pass
        finally:
            process.close()

    threads = [threading.Thread(target=work, args=(process,), daemon=True) for process in processes]
    for thread in threads:
        thread.start()
    try:
        for done in range(1, len(items) + 1):
            item, result, error = finished.get()
            yield Outcome(item, result, None if error is None else _of_the_file(error), done)
    finally:
        stopping.set()
        for process in processes:
            if pid := process.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join()


def _of_the_file(error: Exception) -> DecodeError:
    if isinstance(error, DecodeError):
        return error
    if isinstance(error, StorageError) and error.code == "not_found":
        return DecodeError(error.problem, code=error.code, key=error.key)
    raise error
