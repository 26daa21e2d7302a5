"""Sizes in bytes as people write them."""

import re

_UNITS = {unit: 1000**n for n, unit in enumerate(("B", "KB", "MB", "GB", "TB"))}
_UNITS |= {unit: 1024**n for n, unit in enumerate(("KIB", "MIB", "GIB", "TIB"), start=1)}


def bytes_of(text: str) -> int:
    """``"50GB"`` -> 50,000,000,000; ``"2GiB"`` -> 2,147,483,648. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    if not match or match[2].upper() not in _UNITS:
        raise ValueError(f"{text}: not a size; write it like 50GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])
