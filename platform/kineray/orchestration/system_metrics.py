"""How busy a host is, measured beside training, by the names of MLflow's system metrics."""

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator

_EVERY_S = 10.0
_MEGABYTE = 1e6
_ASK = "nvidia-smi --query-gpu=utilization.gpu,memory.used,memory.total --format=csv,noheader,nounits"


@contextlib.contextmanager
def measured(put: Callable[[dict[str, float]], None] | None, every_s: float = _EVERY_S) -> Iterator[None]:
    """Call ``put`` with measurements every ``every_s`` seconds, in a thread, while the body runs.

    None: measure nothing.
    """
    if put is None:
        yield
        return
    read = reader()
    with repeated(lambda: put(read()), every_s):
        yield


@contextlib.contextmanager
def repeated(function: Callable[[], None], every_s: float = _EVERY_S) -> Iterator[None]:
    """Call ``function`` every ``every_s`` seconds, in a thread, while the body runs."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(every_s):
            function()

    threading.Thread(target=repeat, name="kineray-repeated", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def reader() -> Callable[[], dict[str, float]]:
    """A function that measures: percentages since its last call, megabytes of traffic since it was made."""
    import psutil

    psutil.cpu_percent()  # the first one means nothing
    before = psutil.net_io_counters()

    def read() -> dict[str, float]:
        memory, traffic = psutil.virtual_memory(), psutil.net_io_counters()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": psutil.disk_usage(".").percent,
            "network_receive_megabytes": (traffic.bytes_recv - before.bytes_recv) / _MEGABYTE,
            "network_transmit_megabytes": (traffic.bytes_sent - before.bytes_sent) / _MEGABYTE,
            **_gpus(),
        }

    return read


def _gpus() -> dict[str, float]:
    """Measurements of NVIDIA's tool, which belongs to their driver; empty without it."""
    try:
        done = subprocess.run(_ASK.split(), capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse_gpus(done.stdout)


def parse_gpus(text: str) -> dict[str, float]:
    """What a line ``utilization, used, total`` (percent and MiB) for each GPU says; ``[N/A]`` is left out."""
    found: dict[str, float] = {}
    for number, line in enumerate(text.splitlines()):
        with contextlib.suppress(ValueError):
            busy, used, total = map(float, line.split(","))
            found |= {
                f"gpu_{number}_utilization_percentage": busy,
                f"gpu_{number}_memory_usage_megabytes": used * 2**20 / _MEGABYTE,
                f"gpu_{number}_memory_usage_percentage": 100 * used / total,
            }
    return found
