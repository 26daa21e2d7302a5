"""Runs every ``sh`` and ``python`` block of a Markdown file, in order, as a reader would.

Blocks marked ``sh cluster`` need a cluster: tests/end_to_end/test_ray_submit.py runs those.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks(markdown: str) -> list[Block]:
    """The fenced code blocks of ``markdown``."""
    found = re.finditer(r"^```([^\n]*)\n(.*?)^```$", markdown, flags=re.MULTILINE | re.DOTALL)
    return [Block(m[1].strip(), m[2], markdown[: m.start()].count("\n") + 1) for m in found]


def main(path: str) -> int:
    environment = os.environ | {"PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"}
    interpreters = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    ran = 0
    for block in blocks(Path(path).read_text()):
        if block.language not in interpreters:
            continue
        print(f"--- {path}:{block.line}\n{block.text.rstrip()}", flush=True)
        started = time.monotonic()
        done = subprocess.run(
            [*interpreters[block.language], block.text], env=environment, cwd=ROOT, check=False
        )
        if done.returncode:
            print(f"{path}:{block.line}: exit code {done.returncode}", flush=True)
            return 1
        print(f"--- ok, {time.monotonic() - started:.0f} s", flush=True)
        ran += 1
    if not ran:
        print(f"{path}: no block to run")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
