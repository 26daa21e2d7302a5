"""A service in a process of its own, which outlives the one that starts it."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kineray import storage as store
from kineray.config import Plugin, loaded_plugins
from kineray.errors import KinerayError, ServingError, from_json, to_json

log = logging.getLogger(__name__)

LOG_FILE = "serve.log"


def start(storage: str, arguments: dict[str, Any]) -> tuple[str, int]:
    """Call ``serve`` in a new process; returns the service's URL and version when it answers.

    ``arguments``: those of ``serve`` but for ``storage``. What the process waits for is logged; its output
    goes to ``serve.log`` in the storage. Raises what ``serve`` raises there, and ServingError
    (``service_ended``) if the process ends in another way.
    """
    file = log_file(storage)
    plugins = [plugin.to_json() for plugin in loaded_plugins()]
    request = json.dumps({"plugins": plugins, "arguments": {"storage": storage, **arguments}})
    with _process(file) as (process, reports):
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(request)
        for line in reports:
            kind, content = json.loads(line)
            if kind == "waiting":
                log.info(content)
            elif kind == "ready":
                log.info("what process %d prints goes to %s", process.pid, file)
                return content[0], content[1]
            else:
                raise from_json(content)
        raise ServingError(
            f"its process ended with exit code {process.wait()}",
            code="service_ended",
            key=file,
            remedy="read that file",
        )


def log_file(storage: str) -> Path:
    """Where a service in the background prints: into its storage, or for a bucket into a temporary folder."""
    if store.is_remote(storage):
        return Path(tempfile.gettempdir(), f"kineray-{os.getuid()}-{LOG_FILE}")
    return Path(storage, LOG_FILE)


@contextlib.contextmanager
def _process(file: Path) -> Iterator[tuple[Any, IO[str]]]:
    """The process and its reports, a line each; it is ended if the body raises."""
    file.parent.mkdir(parents=True, exist_ok=True)
    reports, reported = os.pipe()
    with os.fdopen(reports) as lines, file.open("a") as output:
        command = [sys.executable, "-m", __name__, str(reported)]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,  # neither Ctrl-C nor the end of the terminal reaches it
                pass_fds=[reported],
            )
        finally:
            os.close(reported)
        try:
            yield process, lines
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            process.wait()
            raise


class _Reports(logging.Handler):
    """Sends what kineray logs to the process that waits, until the service is ready."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(logging.INFO)
        os.set_inheritable(descriptor, False)
        self._descriptor: int | None = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Send a message."""
        self.send("waiting", record.getMessage())

    def send(self, kind: str, content: Any) -> None:
        """Send one report; nobody may be there to read it."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, json.dumps([kind, content]).encode() + b"\n")

    def end(self) -> None:
        """Send nothing more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def main() -> int:
    """Serve, as the process that ``start`` starts; its exit code."""
    from kineray.serving.running import serve

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    reports = _Reports(int(sys.argv[1]))
    serving = logging.getLogger("kineray.serving")
    serving.addHandler(reports)
    serving.setLevel(logging.INFO)
    request = json.load(sys.stdin)

    def on_ready(url: str, version: int) -> None:
        reports.send("ready", [url, version])
        reports.end()

    try:
        for plugin in request["plugins"]:
            Plugin.from_json(plugin).execute()
        serve(**request["arguments"], on_ready=on_ready)
    except KinerayError as error:
        log.error("%s", error)
        reports.send("error", to_json(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
