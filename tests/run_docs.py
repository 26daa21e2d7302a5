"""Runs the code blocks of Markdown files, in order, as a reader would: ``run_docs.py README.md docs/*.md``.

``sh`` and ``python`` blocks are executed in the root of the repository. A ``python`` block whose first line
is a comment that names a file, such as ``# my/tsm.py``, is saved there instead. Blocks marked ``sh cluster``
need a cluster: tests/end_to_end/test_ray_submit.py runs those. The pages name runs, so ``runs`` must not hold
these yet. They share a cache that is empty at first.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Block(NamedTuple):
    """A fenced code block. ``file``: the path that its first line names, "" for none."""

    language: str
    text: str
    line: int
    file: str = ""


def blocks(markdown: str) -> list[Block]:
    """The fenced code blocks of ``markdown``."""
    found = re.finditer(r"^```([^\n]*)\n(.*?)^```$", markdown, flags=re.MULTILINE | re.DOTALL)
    return [
        Block(m[1].strip(), m[2], markdown[: m.start()].count("\n") + 1, _file(m[1].strip(), m[2]))
        for m in found
    ]


def _file(language: str, text: str) -> str:
    named = re.match(r"# (\S+\.py)\n", text)
    return named[1] if named and language == "python" else ""


def run_page(path: str) -> bool:
    """Run the blocks of a page up to the first that fails; whether none did."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    interpreters = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    runnable = [block for block in blocks((ROOT / path).read_text()) if block.language in interpreters]
    if not runnable:
        print(f"{path}: no block to run")
    for block in runnable:
        print(f"--- {path}:{block.line}\n{block.text.rstrip()}", flush=True)
        if block.file:
            file = ROOT / block.file
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)
            continue
        started = time.monotonic()
        done = subprocess.run(
            [*interpreters[block.language], block.text], env=environment, cwd=ROOT, check=False
        )
        if done.returncode:
            print(f"{path}:{block.line}: exit code {done.returncode}", flush=True)
            return False
        print(f"--- ok, {time.monotonic() - started:.0f} s", flush=True)
    return bool(runnable)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="kineray-cache-") as cache:
        os.environ["KINERAY_CACHE"] = cache
        sys.exit(not all(run_page(page) for page in sys.argv[1:]))
