"""A run's record is written to a local file first, and sent to MLflow from there.

A journal holds one JSON object per line. The first names the run; the others are metrics, tags, or the
status with which the run ended. Next to it, ``<journal>.sent`` holds the number of bytes that MLflow has.
Every metric has the time of its line, so a batch that is sent twice (because the answer was lost) is
stored once. A process that writes or sends a journal holds a lock on it, so the process that wrote an
unlocked journal has ended.
"""

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kineray.errors import TrackingError
from kineray.tracking.client import (
    default_uri,
    local_folder,
    open_client,
    tracking_errors,
    without_password,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

_BATCH_METRICS = 500  # MLflow accepts 1000, and a megabyte
_BATCH_TAGS = 100
_POLL_S = 0.5
_LONGEST_WAIT_S = 30.0


@dataclass
class Batch:
    """Lines of a journal as one request. ``end``: the offset in bytes at which they end."""

    end: int
    metrics: list[dict[str, Any]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    time_ms: int = 0


class Journal:
    """An open, locked journal. ``append`` may be called from any thread."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._lock = threading.Lock()
        first, _, _ = os.pread(descriptor, 1 << 16, 0).partition(b"\n")
        self.header: dict[str, str | None] = json.loads(first)
        try:
            self._sent = int(self._sent_path.read_text())
        except FileNotFoundError:
            self._sent = len(first) + 1

    @property
    def _sent_path(self) -> Path:
        return self.path.with_suffix(".sent")

    @classmethod
    def create(cls, folder: Path, run_id: str) -> Self:
        """A new journal for a run. Raises TrackingError if another process is writing one."""
        folder.mkdir(parents=True, exist_ok=True)
        path, temporary = folder / f"{run_id}.jsonl", folder / f".{run_id}.{os.getpid()}"
        descriptor = os.open(temporary, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # A tracker that the user named is recorded; the default one moves with the storage folder.
        header = {"run_id": run_id, "tracking_uri": os.environ.get("MLFLOW_TRACKING_URI") or None}
        os.write(descriptor, json.dumps(header).encode() + b"\n")
        try:
            os.link(temporary, path)  # unlike a rename, it fails when the name is taken
        except FileExistsError:
            os.close(descriptor)
            raise TrackingError(
                f"another process is writing the run ({path})",
                code="run_in_use",
                key=run_id,
                remedy="wait until it has ended",
            ) from None
        finally:
            temporary.unlink()
        return cls(path, descriptor)

    @classmethod
    def open_abandoned(cls, path: Path) -> Self | None:
        """The journal at ``path``, or None if it is gone or a running process is writing it."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink == 0:  # another process has just sent all of it
                raise BlockingIOError
        except BlockingIOError:
            os.close(descriptor)
            return None
        journal = cls(path, descriptor)
        journal._drop_unfinished_line()
        return journal

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line, with the current time in milliseconds."""
        text = json.dumps({**line, "time_ms": time.time_ns() // 1_000_000}).encode() + b"\n"
        with self._lock:
            os.write(self._descriptor, text)

    def next_batch(self) -> Batch | None:
        """The oldest lines that MLflow does not have yet; None if it has them all."""
        data = os.pread(self._descriptor, 1 << 20, self._sent)
        batch = Batch(self._sent)
        for raw in data.splitlines(keepends=True):
            full = len(batch.metrics) >= _BATCH_METRICS or len(batch.tags) >= _BATCH_TAGS
            if full or batch.status or not raw.endswith(b"\n"):
                break
            line = json.loads(raw)
            batch.end += len(raw)
            batch.time_ms = line["time_ms"]
            step = line.get("step", 0)
            batch.metrics += [
                {"key": key, "value": float(value), "step": step, "timestamp": line["time_ms"]}
                for key, value in line.get("metrics", {}).items()
            ]
            batch.tags |= line.get("tags", {})
            batch.status = line.get("status")
        return batch if batch.end > self._sent else None

    def mark_sent(self, end: int) -> None:
        """Remember that MLflow has everything before the offset ``end``."""
        temporary = self._sent_path.with_suffix(".tmp")
        temporary.write_text(str(end))
        temporary.replace(self._sent_path)
        self._sent = end

    def ended(self) -> bool:
        """Whether the last line is a status."""
        size = os.fstat(self._descriptor).st_size
        tail = os.pread(self._descriptor, 1 << 16, max(0, size - (1 << 16)))
        return b'"status"' in tail.rstrip(b"\n").rpartition(b"\n")[2]

    def close(self) -> None:
        """Release the file, and delete it if MLflow has all of it."""
        if self.next_batch() is None and self.ended():
            self.path.unlink()
            self._sent_path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _drop_unfinished_line(self) -> None:
        """Cut off a last line that its writer did not finish."""
        size = os.fstat(self._descriptor).st_size
        tail = os.pread(self._descriptor, 1 << 20, max(0, size - (1 << 20)))
        os.ftruncate(self._descriptor, size - len(tail) + tail.rfind(b"\n") + 1)


def send(client: "MlflowClient", journal: Journal) -> None:
    """Send everything that MLflow does not have yet, in order. Raises TrackingError if it fails."""
    from mlflow.entities import Metric, RunTag

    run_id = journal.header["run_id"]
    while (batch := journal.next_batch()) is not None:
        with tracking_errors(str(client.tracking_uri)):
            if batch.metrics or batch.tags:
                tags = [RunTag(key, value) for key, value in batch.tags.items()]
                client.log_batch(run_id, metrics=[Metric(**m) for m in batch.metrics], tags=tags)
            if batch.status:
                client.set_terminated(run_id, batch.status, batch.time_ms)
        journal.mark_sent(batch.end)


class Sender(threading.Thread):
    """Sends a journal while it is being written. ``stop`` makes a last attempt and returns."""

    def __init__(self, client: "MlflowClient", journal: Journal, name: str) -> None:
        super().__init__(name=f"kineray-mlflow-{name}", daemon=True)
        self._client, self._journal, self._run_name = client, journal, name
        self._stopping = threading.Event()
        self._cut_off = False

    def run(self) -> None:
        wait_s = _POLL_S
        while not self._stopping.wait(wait_s):
            wait_s = _POLL_S if self._attempt() else min(2 * wait_s, _LONGEST_WAIT_S)
        self._attempt()

    def stop(self) -> None:
        """Return when everything has been sent, or when one more attempt has failed."""
        self._stopping.set()
        self.join()
        if self._cut_off:
            log.warning(
                "run %s: what MLflow does not have yet is kept in %s; the next kineray command here sends it",
                self._run_name,
                self._journal.path,
            )

    def _attempt(self) -> bool:
        try:
            send(self._client, self._journal)
        except TrackingError as error:
            if not self._cut_off:
                log.warning(
                    "%s; training continues, and the record of run %s is sent later", error, self._run_name
                )
            self._cut_off = True
            return False
        if self._cut_off:
            log.warning(
                "MLflow at %s answers again: the record of run %s has been sent",
                without_password(self._client.tracking_uri),
                self._run_name,
            )
        self._cut_off = False
        return True


def pending_folder(storage_uri: str) -> Path:
    """The local folder that holds the journals of a storage folder."""
    return local_folder(storage_uri) / "pending"


def send_pending(storage_uri: str) -> int:
    """Send the journals that earlier processes left behind; returns how many could not be sent.

    A run whose process died before it wrote a status gets the status KILLED. What cannot be sent is
    logged and kept for the next time.
    """
    left = 0
    for path in sorted(pending_folder(storage_uri).glob("*.jsonl")):
        journal = Journal.open_abandoned(path)
        if journal is None:
            continue
        if not journal.ended():
            journal.append({"status": "KILLED"})
        try:
            uri = journal.header["tracking_uri"] or default_uri(storage_uri)
            send(open_client(storage_uri, uri), journal)
        except TrackingError as error:
            left += 1
            log.warning("%s; %s is kept for later", error, path)
        finally:
            journal.close()
    return left
