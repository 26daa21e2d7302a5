"""Where runs are kept unless a call or a command says otherwise."""

import os
from pathlib import Path

DEFAULT_STORAGE = "./runs"


def runs_folder(storage: str | Path | None = None) -> str:
    """``storage`` if it is given, else the folder or URI in KINERAY_STORAGE, else ``./runs``."""
    return str(storage or os.environ.get("KINERAY_STORAGE") or DEFAULT_STORAGE)
