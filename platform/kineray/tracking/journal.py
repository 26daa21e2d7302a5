"""A run's record is written to a local file first, and sent to MLflow from there.

A journal holds one JSON object per line. The first names the run; the others are metrics, tags, data sets,
texts for files among the artifacts, or the status with which the run ended. An *addition* is the journal of
what comes after the run, or beside it, such as an evaluation. Next to a journal, ``<journal>.sent`` holds the
number of bytes that MLflow has.
Every metric has the time of its line, so a batch that is sent twice (because the answer was lost) is
stored once. A process that writes or sends a journal holds a lock on it, so the process that wrote an
unlocked journal has ended.

One journal never stops the commands of others: lines that cannot be read (after a loss of power) or that
MLflow refuses are left out, and the file is then set aside; the journals of other users are left to them;
what is left of a run that was deleted in MLflow is dropped.
"""

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kineray.errors import StorageError, TrackingError
from kineray.storage.durable import make_folder, sync_folder, write_all
from kineray.storage.os_errors import os_errors_about
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
_DAMAGED = "a part of it was damaged, as by a loss of power"


@dataclass
class Batch:
    """Lines of a journal as one request. ``end``: the offset in bytes at which they end."""

    end: int
    lines: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: list[dict[str, str]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    time_ms: int = 0

    def add(self, raw: bytes) -> None:
        """Add one line. Raises ValueError, and adds nothing, if it is damaged."""
        try:
            line = json.loads(raw)
            time_ms, step = int(line["time_ms"]), int(line.get("step", 0))
            metrics = [
                {"key": key, "value": float(value), "step": step, "timestamp": time_ms}
                for key, value in line.get("metrics", {}).items()
            ]
            tags = dict(line.get("tags", {}))
            datasets, files = list(line.get("datasets", ())), dict(line.get("files", {}))
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from None
        self.lines += 1
        self.metrics += metrics
        self.tags |= tags
        self.datasets += datasets
        self.files |= files
        self.status, self.time_ms = line.get("status"), time_ms

    @property
    def is_full(self) -> bool:
        """Whether no line may follow: MLflow limits a request, and a status comes after all else."""
        return len(self.metrics) >= _BATCH_METRICS or len(self.tags) >= _BATCH_TAGS or self.status is not None


class Journal:
    """An open, locked journal. ``append`` may be called from any thread."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._is_dropped = False
        first = next(self._lines(0), b"")
        self._header = _header(first)
        self._unsent = "" if self._header else _DAMAGED  # why MLflow does not get all of it
        sent = self._read_sent()
        self._sent = sent if sent is not None else len(first) * bool(self._header)

    @property
    def run_id(self) -> str:
        """The MLflow run that this is the record of."""
        return str(self._header.get("run_id") or self.path.stem.partition("-")[0])

    @property
    def is_addition(self) -> bool:
        """Whether it is of what comes after the run, or beside it."""
        return "-" in self.path.stem

    @property
    def tracking_uri(self) -> str | None:
        """The tracker that the user named, None for that of the storage folder."""
        uri: str | None = self._header.get("tracking_uri", os.environ.get("MLFLOW_TRACKING_URI"))
        return uri

    @property
    def _sent_path(self) -> Path:
        return self.path.with_suffix(".sent")

    @classmethod
    def create(cls, folder: Path, run_id: str, *, addition: bool = False) -> Self:
        """A new journal for a run; an ``addition`` says nothing of whether the run has ended.

        Raises TrackingError if another process is writing one (of additions there may be several),
        StorageError if it cannot be written.
        """
        name = f"{run_id}-{os.getpid():x}-{time.time_ns():x}" if addition else run_id
        path, temporary = folder / f"{name}.jsonl", folder / f".{name}.{os.getpid()}"
        # A tracker that the user named is recorded; the default one moves with the storage folder.
        header = {"run_id": run_id, "tracking_uri": os.environ.get("MLFLOW_TRACKING_URI") or None}
        with os_errors_about(path):
            make_folder(folder)
            temporary.unlink(missing_ok=True)  # of a process that had the same number and was killed
            descriptor = os.open(temporary, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                write_all(descriptor, json.dumps(header).encode() + b"\n")
                os.fsync(descriptor)
                os.link(temporary, path)  # unlike a rename, it fails when the name is taken
            except BaseException as error:
                os.close(descriptor)
                if isinstance(error, FileExistsError):
                    raise _in_use(path, run_id) from None
                raise
            finally:
                temporary.unlink()
            sync_folder(folder)
        return cls(path, descriptor)

    @classmethod
    def open_abandoned(cls, path: Path) -> Self | None:
        """The journal at ``path``; None if it is gone, another user's, or being written by a process."""
        try:
            if path.stat().st_uid != os.geteuid():
                return None
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink == 0:  # another process has just sent all of it
                raise BlockingIOError
            journal = cls(path, descriptor)
            journal._end_last_line()
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise
        return journal

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line, with the current time in milliseconds. Raises StorageError, and writes nothing."""
        text = json.dumps({**line, "time_ms": time.time_ns() // 1_000_000}).encode() + b"\n"
        with self._lock, os_errors_about(self.path):
            size = os.fstat(self._descriptor).st_size
            try:
                write_all(self._descriptor, text)
            except OSError:
                os.ftruncate(self._descriptor, size)  # another line after half a line would be lost
                raise

    def sync(self) -> None:
        """Wait until the disk has all lines."""
        with suppress(OSError):  # what the disk does not take, MLflow gets all the same
            os.fdatasync(self._descriptor)

    def next_batch(self, most_lines: int | None = None) -> Batch | None:
        """The oldest lines that MLflow does not have yet, damaged ones left out; None if it has them all."""
        batch = Batch(self._sent)
        if self._is_dropped:
            return None
        for raw in self._lines(self._sent):
            if batch.is_full or batch.lines == most_lines:
                break
            batch.end += len(raw)
            try:
                batch.add(raw)
            except ValueError:
                self._unsent = _DAMAGED
        return batch if batch.end > self._sent else None

    def mark_sent(self, end: int) -> None:
        """Remember that MLflow has everything before the offset ``end``."""
        self._sent = end
        temporary = self._sent_path.with_suffix(".tmp")
        with suppress(OSError):  # a batch that is sent again does no harm
            temporary.write_text(str(end))
            temporary.replace(self._sent_path)

    def leave_out(self, reason: str) -> None:
        """Remember that MLflow does not get all of it, and why: ``close`` then keeps the file, set aside."""
        self._unsent = self._unsent or reason

    def drop(self) -> None:
        """Send nothing more, since the run was deleted in MLflow."""
        self._is_dropped = True
        if not self._unsent:  # else ``close`` says that
            log.warning("run %s is no longer in MLflow: the rest of its record is dropped", self.run_id)

    def ended(self) -> bool:
        """Whether the last line is a status; an addition needs none."""
        if self.is_addition:
            return True
        size = os.fstat(self._descriptor).st_size
        tail = os.pread(self._descriptor, 1 << 16, max(0, size - (1 << 16)))
        return b'"status"' in tail.rstrip(b"\n").rpartition(b"\n")[2]

    def close(self) -> None:
        """Release the file. If MLflow has all that it takes, delete the file, or set it aside."""
        try:
            if self._is_dropped or (self.next_batch() is None and self.ended()):
                self._set_aside() if self._unsent else self.path.unlink()
                self._sent_path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)

    def _set_aside(self) -> None:
        aside = self.path.with_suffix(f".{time.time_ns():x}.aside")
        self.path.rename(aside)
        log.warning(
            "the record of run %s in MLflow is incomplete: %s; see %s", self.run_id, self._unsent, aside
        )

    def _read_sent(self) -> int | None:
        """The number of bytes that MLflow has; None if that is not known."""
        try:
            sent = int(self._sent_path.read_text())
        except (OSError, ValueError):  # none yet, or damaged
            return None
        return sent if 0 <= sent <= os.fstat(self._descriptor).st_size else None

    def _lines(self, start: int) -> Iterator[bytes]:
        """The complete lines from the offset ``start`` on."""
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(start)
            yield from (raw for raw in file if raw.endswith(b"\n"))

    def _end_last_line(self) -> None:
        """Cut off a last line that its writer did not finish; one that was damaged is kept, as a line."""
        size = os.fstat(self._descriptor).st_size
        complete = sum(map(len, self._lines(0)))
        rest = os.pread(self._descriptor, size - complete, complete)
        if b"\0" in rest:  # what file systems put there if a loss of power came before the data
            write_all(self._descriptor, b"\n")
        else:
            os.ftruncate(self._descriptor, complete)


def send(client: "MlflowClient", journal: Journal) -> None:
    """Send everything that MLflow does not have yet, in order. Raises TrackingError if it fails.

    Lines that MLflow refuses are left out, and nothing more is sent of a run that was deleted there.
    """
    most_lines = None
    while (batch := journal.next_batch(most_lines)) is not None:
        try:
            with tracking_errors(str(client.tracking_uri)):
                _send_batch(client, journal.run_id, batch)
        except TrackingError as error:
            if error.code != "refused":
                raise
            if _is_deleted(client, journal.run_id):
                journal.drop()
                return
            if batch.lines > 1:  # only one of them need be left out
                most_lines = 1
                continue
            journal.leave_out(error.problem)
        journal.mark_sent(batch.end)


def _send_batch(client: "MlflowClient", run_id: str, batch: Batch) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag

    if batch.metrics or batch.tags:
        tags = [RunTag(key, value) for key, value in batch.tags.items()]
        client.log_batch(run_id, metrics=[Metric(**m) for m in batch.metrics], tags=tags)
    if batch.datasets:
        inputs = [
            DatasetInput(
                Dataset(**{name: value for name, value in dataset.items() if name != "context"}),
                [InputTag("mlflow.data.context", dataset["context"])],
            )
            for dataset in batch.datasets
        ]
        client.log_inputs(run_id, inputs)
    for path, text in batch.files.items():
        client.log_text(run_id, text, path)
    if batch.status:
        client.set_terminated(run_id, batch.status, batch.time_ms)


def _is_deleted(client: "MlflowClient", run_id: str) -> bool:
    """Whether MLflow has no such run, or has it among the deleted ones."""
    try:
        with tracking_errors(str(client.tracking_uri)):
            return bool(client.get_run(run_id).info.lifecycle_stage == "deleted")
    except TrackingError as error:
        if error.code != "refused":
            raise
        return True


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
        self._journal.sync()
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
    """Send the journals that earlier processes of this user left; returns how many could not be sent.

    A run whose process died before it wrote a status gets the status KILLED. What cannot be sent is
    logged and kept for the next time.
    """
    left = 0
    unreachable: set[str] = set()
    for path in sorted(pending_folder(storage_uri).glob("*.jsonl")):
        try:
            left += not _send_abandoned(path, storage_uri, unreachable)
        except (StorageError, OSError) as error:
            left += 1
            log.warning("%s cannot be sent: %s", path, error)
    return left


def add_to_run(
    storage_uri: str, run_id: str, metrics: Mapping[str, float], step: int, tags: Mapping[str, str]
) -> None:
    """Add to the record of a run, which may have ended. If MLflow cannot be reached, it is sent later.

    Raises StorageError.
    """
    _add(storage_uri, run_id, {"metrics": dict(metrics), "step": step, "tags": dict(tags)})


def add_files(storage_uri: str, run_id: str, files: Mapping[str, str]) -> None:
    """Add texts, by their paths among the artifacts of a run, as ``add_to_run``.

    Where artifacts are kept may be away when the tracker is not: each then waits for itself.
    """
    _add(storage_uri, run_id, {"files": dict(files)})


def _add(storage_uri: str, run_id: str, line: Mapping[str, Any]) -> None:
    journal = Journal.create(pending_folder(storage_uri), run_id, addition=True)
    try:
        journal.append(line)
        send(open_client(storage_uri), journal)
    except TrackingError as error:
        log.warning("%s; the next kineray command here that can sends what is in %s", error, journal.path)
    except ModuleNotFoundError as error:
        log.warning("no %s here: a kineray command that has it sends what is in %s", error.name, journal.path)
    finally:
        journal.close()


def _send_abandoned(path: Path, storage_uri: str, unreachable: set[str]) -> bool:
    """Send a journal, if it is abandoned; False if its tracker is, or now becomes, one of ``unreachable``."""
    journal = Journal.open_abandoned(path)
    if journal is None:
        return True
    uri = journal.tracking_uri or default_uri(storage_uri)
    is_sent = uri not in unreachable
    try:
        if is_sent:
            if not journal.ended():
                journal.append({"status": "KILLED"})
            send(_open(storage_uri, uri, unreachable), journal)
    except TrackingError as error:
        is_sent = False
        if not journal.is_addition:  # else it may be the place of artifacts that is away
            unreachable.add(uri)
        log.warning("%s; the records for it are kept in %s", error, path.parent)
    finally:
        journal.close()
    return is_sent


def _open(storage_uri: str, uri: str, unreachable: set[str]) -> "MlflowClient":
    try:
        return open_client(storage_uri, uri)
    except TrackingError:
        unreachable.add(uri)
        raise


def _header(raw: bytes) -> dict[str, Any]:
    """The first line of a journal; empty if it is damaged."""
    try:
        header = json.loads(raw)
    except ValueError:
        return {}
    return header if isinstance(header, dict) and "run_id" in header else {}


def _in_use(path: Path, run_id: str) -> TrackingError:
    return TrackingError(
        f"another process is writing the run, or has left a record that is not sent yet ({path})",
        code="run_in_use",
        key=run_id,
        remedy="wait until it has ended; the next command of its user sends what it left",
    )
