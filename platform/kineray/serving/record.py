"""``<storage>/serve.json``: the service of a storage folder, and whether it still runs.

Pids are used again, and pods with the same name are made anew. So a process is known by its pid and the time
of its start, one on another host by a record that it keeps writing, and a service by the id that it answers
with.
"""

import contextlib
import dataclasses
import json
import logging
import os
import socket
import time
from dataclasses import dataclass

from kineray import storage as store
from kineray.errors import ServingError
from kineray.network import direct
from kineray.processes import is_running, start_of

log = logging.getLogger(__name__)

FILE = "serve.json"
BEAT_S = 15.0  # a running service writes its record this often
_ANSWER_S = 5.0


@dataclass(frozen=True)
class Record:
    """The content of ``serve.json``.

    ``id``: of the service, which its endpoint repeats; ``storage``: as its host sees it; ``dashboard``: that
    of the Ray cluster; ``pid``, ``started``: of the process on ``host`` that keeps the service; ``beat``:
    Unix time at which it wrote this.
    """

    id: str
    storage: str
    model_name: str
    url: str
    dashboard: str
    token_auth: bool
    host: str
    pid: int
    started: str
    beat: float

    @property
    def is_here(self) -> bool:
        """Whether its process is to be found on this host."""
        return self.host == socket.gethostname()

    def has_process(self) -> bool:
        """Whether the process that keeps the service runs, as far as can be seen from this host."""
        return is_running(self.host, self.pid, self.started, self.beat)

    def answers(self) -> bool:
        """Whether this service answers at its address."""
        try:
            with direct.open(f"{self.url}/v2/health/live", timeout=_ANSWER_S) as response:
                return bool(json.load(response)["service"] == self.id)
        except (OSError, ValueError, KeyError, TypeError):  # nobody, or somebody else
            return False


def read(storage: str) -> Record | None:
    """The record of a service of this storage that runs, with or without its process; else None.

    Raises StorageError, and ServingError if ``serve.json`` is not the record of a service.
    """
    record = _read(storage)
    if record is None:
        return None
    if not _is_of(record, storage):
        log.debug("%s was copied from %s", FILE, record.storage)
        return None
    if not record.has_process() and not record.answers():
        log.debug("process %d on %s ended without removing %s", record.pid, record.host, FILE)
        return None
    return record


def write(record: Record) -> None:
    """Write the record. Raises StorageError."""
    content = dataclasses.asdict(dataclasses.replace(record, beat=time.time()))
    store.write_bytes(store.join(record.storage, FILE), json.dumps(content, indent=2).encode())


def refresh(record: Record) -> bool:
    """Write the record again, unless another service has replaced it; whether it is still this one's."""
    try:
        current = _read(record.storage)
    except ServingError:
        current = None
    if current is not None and current.id != record.id:
        return False
    write(record)
    return True


def delete(record: Record) -> None:
    """Remove the record, unless another service has replaced it."""
    with contextlib.suppress(ServingError):
        current = _read(record.storage)
        if current is not None and current.id == record.id:
            store.delete_file(store.join(record.storage, FILE))


def here(id_: str, storage: str, model_name: str, url: str, dashboard: str) -> Record:
    """The record of a service that this process keeps."""
    return Record(
        id=id_,
        storage=storage,
        model_name=model_name,
        url=url,
        dashboard=dashboard,
        token_auth=os.environ.get("RAY_AUTH_MODE") == "token",
        host=socket.gethostname(),
        pid=os.getpid(),
        started=start_of(os.getpid()) or "",
        beat=time.time(),
    )


def _read(storage: str) -> Record | None:
    path = store.join(storage, FILE)
    if not store.exists(path):
        return None
    try:
        return Record(**json.loads(store.read_bytes(path)))
    except (ValueError, TypeError):
        raise ServingError(
            "not the record of a service", code="not_a_record", key=path, remedy="delete it"
        ) from None


def _is_of(record: Record, storage: str) -> bool:
    """Whether the record was written for this storage, rather than copied with another."""
    if store.is_remote(storage):
        return record.storage.rstrip("/") == storage.rstrip("/")
    # Another host may see the same folder at another path.
    return not record.is_here or os.path.realpath(record.storage) == os.path.realpath(storage)
