"""Clips per second of the data loader, compared with bare readers on as many cores, and its memory.

    python benchmarks/loader.py [--quick] [--out FILE]

The arms read clips of 32 frames (every 2nd of 64) as uint8 224x224 from the files of ``content.py``, with
packet indexes and with two processes or threads:

* bare: processes that read random clips one after the other and discard them;
* processes: ``kineray.data.load_batches``;
* threads: the same work in a pool of threads of the training process, where PyAV releases the interpreter
  lock.

A training loop runs Python code too: "Python left" is the speed of a plain Python loop in the main thread
while clips are decoded, relative to the same loop alone. Last, the memory of the loader's processes (PSS, so
that shared pages count once) over many clips, with a small and a large manifest.
"""

import argparse
import importlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from content import FILES, machine, make_files, table

from kineray.config import DataConfig
from kineray.data import (
    BatchSpec,
    ClipShape,
    Manifest,
    Preprocessing,
    Sample,
    load_batches,
    load_manifest,
    save_manifest,
    synthesize,
)
from kineray.data.clips.seeds import sample_rng
from kineray.data.manifest.index_cache import IndexCache, write
from kineray.video import PacketIndex, index_video
from kineray.video.process import DecodeProcess

BATCH = 8


def manifest_of(path: Path, samples: int) -> tuple[Manifest, Preprocessing, IndexCache]:
    """A data set of ``samples`` clips of one file, whose packet index is stored next to the manifest."""
    rows = [Sample(str(i), str(path), 0.0, None, {"action": 0}, str(i), "train") for i in range(samples)]
    manifest = Manifest(path.stem, rows, {"action": ("a", "b")})
    uri = path.parent / f"{path.stem}.parquet"
    save_manifest(manifest, uri)
    write(str(uri), {str(path): index_video(path).to_bytes()})
    indexes = IndexCache.beside(str(uri))
    assert indexes is not None
    return manifest, Preprocessing.from_config(DataConfig(), manifest.vocabularies), indexes


def endless(manifest: Manifest, preprocessing: Preprocessing) -> Iterator[BatchSpec]:
    """The full batches of one epoch after the other, without end."""
    per_epoch, clip = len(manifest) // BATCH, ClipShape.of(preprocessing)
    for step in itertools.count():
        epoch, batch = divmod(step, per_epoch)
        yield BatchSpec(step, epoch, range(batch * BATCH, (batch + 1) * BATCH), BATCH, clip)


def loader(
    manifest: Manifest, preprocessing: Preprocessing, indexes: IndexCache, cores: int, seed: int
) -> Iterator[int]:
    """The number of clips of each batch, when it arrives."""
    specs = endless(manifest, preprocessing)
    batches = load_batches(manifest, preprocessing, specs, seed=seed, decoders=cores, indexes=indexes)
    for batch in batches:
        yield len(batch.ids)


def threads(
    manifest: Manifest, preprocessing: Preprocessing, indexes: IndexCache, cores: int, seed: int
) -> Iterator[int]:
    """The same clips, decoded by threads of this process."""
    index = PacketIndex.from_bytes(indexes.get(manifest[0].uri) or b"")

    def clip(number: int, clip_1thwc: np.ndarray) -> None:
        sample = manifest[number % len(manifest)]
        rng = sample_rng(seed, number // len(manifest), sample.id)
        preprocessing.train_clips(sample.uri, sample, [rng], index=index, allocate=lambda _: clip_1thwc)

    side = preprocessing.crop
    with ThreadPoolExecutor(cores) as pool:
        waiting = []
        for first in itertools.count(0, BATCH):
            clips = torch.empty((BATCH, preprocessing.frames, side, side, 3), dtype=torch.uint8)
            rows = clips.numpy()
            waiting.append([pool.submit(clip, first + row, rows[row : row + 1]) for row in range(BATCH)])
            if len(waiting) > 2:
                yield len([task.result() for task in waiting.pop(0)])


def bare(
    manifest: Manifest, preprocessing: Preprocessing, indexes: IndexCache, cores: int, seconds: float
) -> float:
    """Clips per second of ``cores`` processes that decode without a loader."""
    counts = [0] * cores
    index = indexes.get(manifest[0].uri)

    def run(core: int) -> None:
        process = DecodeProcess()
        this = importlib.import_module("loader")  # a child process cannot import from __main__
        counts[core] = process.call(this.read_for, preprocessing, manifest[core], index, seconds, name="bare")
        process.close()

    pool = [threading.Thread(target=run, args=(core,)) for core in range(cores)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return sum(counts) / seconds


def read_for(preprocessing: Preprocessing, sample: Sample, data: bytes, seconds: float) -> int:
    """The number of clips read in ``seconds``; runs in a child process."""
    out = np.empty((1, preprocessing.frames, preprocessing.crop, preprocessing.crop, 3), np.uint8)
    index = PacketIndex.from_bytes(data)
    preprocessing.train_clips(sample.uri, sample, [sample_rng(0, 0, "warm")], index=index)
    deadline = time.perf_counter() + seconds
    for count in itertools.count():
        if time.perf_counter() >= deadline:
            return count
        index = PacketIndex.from_bytes(data)
        rng = sample_rng(0, count, sample.id)
        preprocessing.train_clips(sample.uri, sample, [rng], index=index, allocate=lambda _: out)
    raise AssertionError


def rate(stream: Iterator[int], seconds: float) -> float:
    """Clips per second, measured after the first batches."""
    for _ in range(3):
        next(stream)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        count += next(stream)
    return count / (time.perf_counter() - began)


def python_left(stream: Iterator[int], seconds: float) -> float:
    """The speed of plain Python in this thread while ``stream`` is decoded, relative to the speed without it.

    Measured with one decoder, so that a core is free for this thread: the loss is due to the lock.
    """
    alone = _python_speed(seconds / 2)
    next(stream)
    stop = threading.Event()

    def consume() -> None:
        while not stop.is_set():
            next(stream)

    consumer = threading.Thread(target=consume)
    consumer.start()
    with_decoding = _python_speed(seconds)
    stop.set()
    consumer.join()
    return with_decoding / alone


def _python_speed(seconds: float) -> float:
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        sum(range(1000))
        rounds += 1
    return rounds / (time.perf_counter() - began)


def pss_mib() -> float:
    """The memory of this process and its decoders in MiB; shared pages count once (Linux)."""
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(os.getpid())], stdout=subprocess.PIPE, check=False, text=True
    ).stdout.split()
    total = 0
    for pid in [str(os.getpid()), *children]:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # the ps process, which has ended
    return total / 1024


def memory(folder: Path, clips: int) -> list[dict[str, object]]:
    """The memory over ``clips`` small clips, with manifests of 1,000 and 300,000 samples."""
    small = load_manifest(synthesize(folder / "small", train=1000, val=0, size=64, seconds=1, fps=16))
    data = DataConfig(
        frames=8, stride=2, fps=16, short_side=(56, 64), crop=56, eval_short_side=56, eval_crop=56
    )
    rows = []
    for name, manifest in (("1,000 samples", small), ("300,000 samples", _repeated(small, 300))):
        stored = folder / f"{len(manifest)}.parquet"
        save_manifest(manifest, stored)
        rows += _in_own_process(stored, data, clips if len(manifest) == 1000 else clips // 10, name)
    return rows


def _repeated(manifest: Manifest, times: int) -> Manifest:
    samples = (
        replace(sample, id=f"{sample.id}-{turn}", group=f"{turn}")
        for turn in range(times)
        for sample in manifest
    )
    return Manifest("repeated", samples, manifest.vocabularies)


def _in_own_process(stored: Path, data: DataConfig, clips: int, name: str) -> list[dict[str, object]]:
    arguments = ["--memory-of", str(stored), "--clips", str(clips), "--data", data.model_dump_json()]
    done = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True, text=True
    )
    return [{"set": name, **row} for row in json.loads(done.stdout.splitlines()[-1])]


def memory_of(stored: str, data: DataConfig, clips: int) -> None:
    """Print the memory after every fifth of ``clips``."""
    manifest = load_manifest(stored)
    preprocessing = Preprocessing.from_config(data, manifest.vocabularies)
    specs = endless(manifest, preprocessing)
    stream = load_batches(manifest, preprocessing, specs, seed=0, decoders=2)
    rows, done = [], 0
    for part in range(5):
        while done < clips * (part + 1) // 5:
            done += len(next(stream).ids)
        rows.append({"clips": done, "memory": f"{pss_mib():.0f} MiB"})
    stream.close()  # type: ignore[attr-defined]
    print(json.dumps(rows))


def main() -> None:
    """Measure, print Markdown, and write JSON with --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="takes seconds: only to see that it runs")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "kineray-benchmarks")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        memory_of(options.memory_of, DataConfig.model_validate_json(options.data), options.clips)
        return
    torch.set_num_threads(1)
    seconds, rounds, clips = (1.0, 1, 500) if options.quick else (4.0, 3, options.clips)
    names = list(FILES)[:1] if options.quick else list(FILES)
    files = make_files(options.folder, names)
    rows = [speeds(files[name], name, options.cores, seconds, rounds) for name in names]
    print(table(rows))
    with tempfile.TemporaryDirectory() as folder:
        used = memory(Path(folder), clips)
    print(table(used))
    if options.out:
        options.out.write_text(
            json.dumps({"machine": machine(), "speed": rows, "memory": used}, indent=2) + "\n"
        )


def speeds(path: Path, name: str, cores: int, seconds: float, rounds: int) -> dict[str, object]:
    """The row of a file: medians over ``rounds`` in which the arms take turns."""
    manifest, preprocessing, indexes = manifest_of(path, 1000)
    arms: dict[str, Callable[..., Iterator[int]]] = {"processes": loader, "threads": threads}
    measured: dict[str, list[float]] = {"bare": [], "processes": [], "threads": []}
    left: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(rounds):
        measured["bare"].append(bare(manifest, preprocessing, indexes, cores, seconds))
        for arm, make in arms.items():
            stream = make(manifest, preprocessing, indexes, cores, turn)
            measured[arm].append(rate(stream, seconds))
            stream.close()  # type: ignore[attr-defined]
            stream = make(manifest, preprocessing, indexes, cores - 1, turn)
            left[arm].append(python_left(stream, seconds / 2))
            stream.close()  # type: ignore[attr-defined]
    median = {arm: statistics.median(values) for arm, values in measured.items()}
    ratio = {
        arm: statistics.median(
            own / other for own, other in zip(measured[arm], measured["bare"], strict=True)
        )
        for arm in arms
    }
    return {
        "file": name,
        "bare clips/s": f"{median['bare']:.1f}",
        "loader clips/s": f"{median['processes']:.1f}",
        "loader / bare": f"{ratio['processes']:.2f}",
        "threads / bare": f"{ratio['threads']:.2f}",
        "Python left, loader": f"{statistics.median(left['processes']):.0%}",
        "Python left, threads": f"{statistics.median(left['threads']):.0%}",
    }


if __name__ == "__main__":
    main()
