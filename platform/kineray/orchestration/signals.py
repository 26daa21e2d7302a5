"""Ctrl-C and SIGTERM end a run in order: its record says KILLED, its workers end, and it can be resumed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kineray.errors import Terminated


@contextmanager
def interruptible() -> Iterator[None]:
    """In the body, the first SIGINT raises KeyboardInterrupt and the first SIGTERM Terminated.

    Further ones are ignored until the body has put its things in order, and after a SIGTERM until the process
    ends. Enter it after Ray is connected, which sets its own handlers. In other threads than the main one it
    changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if not received:
            received.append(number)
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if signal.SIGTERM in received else handler)
