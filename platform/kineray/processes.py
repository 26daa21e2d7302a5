"""Whether a process that someone has written down still runs, here or on another host.

Pids are used again, and pods with the same name are made anew. So a process is known by its pid and the time
of its start, and one on another host by the beat that it keeps writing.
"""

import socket
import subprocess
import time
from pathlib import Path

_STALE_S = 60.0


def is_running(host: str, pid: int, started: str, beat: float) -> bool:
    """Whether a process runs, as far as can be seen from this host.

    ``started``: ``start_of`` the process on its host. ``beat``: Unix time of its last sign of life.
    """
    if host == socket.gethostname():
        return start_of(pid) == started
    return time.time() - beat < _STALE_S


def start_of(pid: int) -> str | None:
    """When a process of this host started, in units of the host; None if there is none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else fields[18]  # a zombie has ended
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    listed = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip() or None
