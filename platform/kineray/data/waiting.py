"""What a process does around a wait for the network, such as stopping the clock of a watchdog."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_hooks: tuple[Callable[[], None], Callable[[], None]] = (lambda: None, lambda: None)
_depth = threading.local()


def on_wait(enter: Callable[[], None], leave: Callable[[], None]) -> None:
    """From now on call ``enter`` before and ``leave`` after every wait for the network.

    One wait is a request with its repetitions, or the wait for another process that fetches the same
    object. Both are called in the thread that waits, never nested. A later call replaces the pair.
    """
    global _hooks  # noqa: PLW0603 - one watchdog for a process
    _hooks = (enter, leave)


@contextmanager
def waiting() -> Iterator[None]:
    """The time of a wait; an inner one is part of the outer one."""
    _depth.value = getattr(_depth, "value", 0) + 1
    enter, leave = _hooks if _depth.value == 1 else (lambda: None, lambda: None)
    try:
        enter()
        try:
            yield
        finally:
            leave()
    finally:
        _depth.value -= 1
