"""Where runs are kept unless a call or a command says otherwise."""

import os
from pathlib import Path

DEFAULT_STORAGE = "./runs"


def runs_folder(storage: str | Path | None = None) -> str:
    """``storage``, or without one the folder or prefix in KINERAY_STORAGE, or ``./runs``."""
    return str(storage or os.environ.get("KINERAY_STORAGE") or DEFAULT_STORAGE)
