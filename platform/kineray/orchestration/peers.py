"""Processes that torchrun has started, as one of them sees the others: messages, and one end for all."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from kineray.errors import KinerayError, from_json, to_json
from kineray.launched import Launch
from kineray.orchestration.process import as_kineray_error, is_lost_peer
from kineray.tracking import PROBLEM, Run

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_POLL_S = 0.2
_STUCK_S = 3.0  # in which a process notices by itself that the run is over, or is ended
_LONGEST_END_S = 60.0  # in which rank 0 records the end
_COLLECTIVE = timedelta(minutes=30)
_FAILED, _TERMINATED = 2, 143  # exit codes

_TASK, _ENDED = "task", "ended"


class Peers:
    """The processes of one run. They meet in the store of torchrun, which outlives each of them.

    ``run``: the record, which rank 0 has once it is open, and ends; ``before_end`` completes it.
    """

    def __init__(self, launch: Launch) -> None:
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        self.launch = launch
        self.run: Run | None = None
        self.before_end: Callable[[], None] = _nothing
        self._common, _, _ = next(rendezvous("env://"))
        self._store: Store = PrefixStore("kineray", self._common.clone())
        self._ending = threading.Lock()  # held by the thread that ends this process

    def send(self, task: str) -> None:
        """Let the other processes begin. For rank 0."""
        self._store.set(_TASK, task)

    def receive(self) -> str:
        """What rank 0 sends. Ends this process if the run has failed before."""
        while not self._has(_TASK):
            if self._has(_ENDED):
                raise SystemExit(_FAILED)
            time.sleep(_POLL_S)
        return self._store.get(_TASK).decode()

    def join(self) -> None:
        """Make the group of torch.distributed, and choose this process's GPU if there are any."""
        import torch
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore

        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(self.launch.local_rank)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=PrefixStore("group", self._common),
            rank=self.launch.rank,
            world_size=self.launch.world_size,
            timeout=_COLLECTIVE,
        )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """In the body, a thread ends this process if the run is over and it has not noticed in three seconds.

        A collective operation cannot be interrupted: it waits for a process that has failed, and no handler
        of a signal runs. Enter it in the body of ``interruptible``.
        """
        over = threading.Event()
        signals, wakeup = os.pipe2(os.O_NONBLOCK)
        in_main = threading.current_thread() is threading.main_thread()
        before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False) if in_main else -1
        watcher = threading.Thread(
            target=self._watch, args=(over, signals), name="kineray-peers", daemon=True
        )
        watcher.start()
        try:
            yield
        finally:
            over.set()
            if in_main:
                signal.set_wakeup_fd(before)
            watcher.join()
            os.close(signals)
            os.close(wakeup)

    def failed(self, error: Exception) -> BaseException:
        """Record that ``error`` ended the run, if this is rank 0; returns what to raise.

        The other processes wait for that, so that torchrun, which ends all when one has ended, does not end
        rank 0 before.
        """
        self._end_here()
        _ignore_signals()
        if not is_lost_peer(error):
            self._store.set(f"problem/{self.launch.rank}", to_json(as_kineray_error(error)))
            self._store.set("problem", "any")
        if self.launch.rank:
            self._wait(_ENDED, _LONGEST_END_S)
            return SystemExit(_FAILED)
        self._wait("problem", _STUCK_S)
        return self._record_failure()

    def killed(self) -> None:
        """Record that a signal ended the run, if this is rank 0."""
        self._end_here()
        _ignore_signals()
        self._finish("KILLED")

    def finished(self) -> None:
        """Record that the run is finished, if this is rank 0, and leave the group."""
        import torch.distributed as dist

        self._end_here()
        self._finish("FINISHED")
        dist.destroy_process_group()

    def _watch(self, over: threading.Event, signals: int) -> None:
        while not over.wait(_POLL_S):
            is_killed = _received(signals)
            if not is_killed and not self._has("problem"):
                continue
            if over.wait(_STUCK_S) or not self._ending.acquire(blocking=False):
                return
            self._end_stuck(is_killed)

    def _end_stuck(self, is_killed: bool) -> None:
        """End this process, whose main thread is in a collective operation that will not end."""
        if is_killed:
            self._finish("KILLED")
            os._exit(_TERMINATED)
        if self.launch.rank:
            self._wait(_ENDED, _LONGEST_END_S)
        else:
            sys.stderr.write(f"kineray: {self._record_failure()}\n".replace("`", ""))
            sys.stderr.flush()
        os._exit(_FAILED)

    def _end_here(self) -> None:
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # the watcher ends this process

    def _record_failure(self) -> KinerayError:
        """Write to the record what ended the run, and tell the others that it is over; returns it."""
        error = self._problem()
        if self.run is not None:
            self.run.set_tags({PROBLEM: str(error)})
        self._finish("FAILED")
        self._store.set(_ENDED, "yes")
        return error

    def _finish(self, status: str) -> None:
        if self.run is not None:
            self.before_end()
            self.run.finish(status)

    def _problem(self) -> KinerayError:
        """What the first process that has a problem says of it."""
        for rank in range(self.launch.world_size):
            if self._has(f"problem/{rank}"):
                return from_json(self._store.get(f"problem/{rank}").decode())
        return KinerayError(
            "one of the processes was lost", code="worker_lost", remedy="continue the run with `resume`"
        )

    def _has(self, key: str) -> bool:
        """Whether the store has a value; with rank 0, where that holds the store, all is over."""
        try:
            return bool(self._store.check([key]))
        except RuntimeError:
            return key == _ENDED

    def _wait(self, key: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._has(key) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _nothing() -> None:
    """What completes no record."""


def _received(signals: int) -> bool:
    """Whether this process got a signal that ends it."""
    try:
        return bool({signal.SIGTERM, signal.SIGINT} & set(os.read(signals, 64)))
    except BlockingIOError:
        return False


def _ignore_signals() -> None:
    """From now on, so that the end is recorded; torchrun kills a process that does not end by itself."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
