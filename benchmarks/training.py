"""Training under Ray Train compared with a loop written by hand on DistributedDataParallel.

    python benchmarks/training.py [--quick] [--out FILE]

Both arms train the small network of ``experiments/slowfast.py`` on the same clips with two workers of one
core each, which talk by gloo, and take turns. The hand-written loop has the same model, loader and
preprocessing, and nothing else: no checkpoints, no batch-norm groups, no recipe, no record. So that both do
the same arithmetic, ours has batch-norm groups of what a worker holds.

* steady clips/s: from the times at which steps end, in the workers; the first steps do not count;
* start: seconds from the command to the end of the first step, by what the run waited for;
* checkpoint: how much longer the step after a checkpoint takes than others;
* memory: the largest resident memory of a worker, without its decoding process.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from content import machine, table

import kineray
from kineray.config import apply_overrides
from kineray.threads import wait_without_spinning

ROOT = Path(__file__).parents[1]
WORKERS = 2
FIRST_STEPS = 10  # which do not count
EVERY = 20  # steps from a checkpoint to the next


def experiment(manifest: str, epochs: int) -> Any:
    """The small experiment, validated once at its end, with a batch-norm group for each worker."""
    from runpy import run_path

    smoke = run_path(str(ROOT / "experiments/slowfast.py"))["smoke"]
    group = smoke.train.global_batch // WORKERS
    changes = {"data.manifest": manifest, "train.epochs": epochs, "train.eval_every_epochs": epochs}
    return apply_overrides(smoke, {**changes, "train.bn_group": group})


# -- the arms, each in processes of its own -----------------------------------------------------------


def run_ray(manifest: str, epochs: int, clock: Path, storage: str, began: float, every: int | None) -> None:
    """Train with Ray Train; prints what the run waited for before its first step."""
    from kineray.training import StartedEvent

    kineray.load_plugins(str(Path(__file__).with_name("clock.py")))
    timed = apply_overrides(experiment(manifest, epochs), {"recipe.clock.path": str(clock)})
    waits: dict[str, float] = {"imports of the command": time.time() - began}

    def note(event: object) -> None:
        if isinstance(event, StartedEvent):
            waits.update(event.seconds)

    often = {} if every is None else {"checkpoint_every": every}
    options = kineray.WorkerOptions(**often)
    kineray.train(timed, workers=WORKERS, storage=storage, options=options, on_event=note)
    print(json.dumps(waits))


def run_ddp(manifest: str, epochs: int, clock: Path, rank: int, port: int) -> None:
    """The loop that a user would write."""
    wait_without_spinning()
    import torch
    import torch.distributed as dist
    from clock import write_line
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    from kineray.data import BatchSpec, ClipShape, Preprocessing, load_batches, load_manifest

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORKERS)
    setup = experiment(manifest, epochs)
    train_set = load_manifest(manifest).split("train")
    preprocessing = Preprocessing.from_config(setup.data, train_set.vocabularies)
    torch.manual_seed(0)
    model = setup.task.build(preprocessing.labels).build_model(setup.model, preprocessing.channels)
    parallel = DistributedDataParallel(model.train())
    optimizer = torch.optim.SGD(
        parallel.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    share, per_epoch = setup.train.bn_group, len(train_set) // setup.train.global_batch

    def specs() -> Iterator[BatchSpec]:
        for step in range(per_epoch * epochs):
            epoch, batch = divmod(step, per_epoch)
            start = batch * setup.train.global_batch + rank * share
            yield BatchSpec(step, epoch, range(start, start + share), share, ClipShape.of(setup.data))

    for batch in load_batches(train_set, preprocessing, specs(), seed=0, decoders=1):
        logits = parallel(preprocessing.normalise(batch.clips_bthwc))["action"]
        loss = cross_entropy(logits, batch.labels["action"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not torch.isfinite(loss.detach()).item():
            raise SystemExit(f"the loss is {loss.item()}")
        write_line(clock, batch.step)
    dist.destroy_process_group()


# -- the measurements ---------------------------------------------------------------------------------


def child(*words: object, **more: Any) -> "subprocess.Popen[str]":
    """This program as one of its arms."""
    command = [sys.executable, "-W", "ignore", __file__, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)


def measure_ray(manifest: str, epochs: int, every: int | None = None) -> dict[str, Any]:
    """A run under Ray Train."""
    with tempfile.TemporaryDirectory() as folder:
        clock, began = Path(folder, "clock"), time.time()
        words = ["--arm", "ray", "--manifest", manifest, "--epochs", epochs, "--clock", clock]
        words += ["--storage", folder, "--began", began, *(["--every", every] if every else [])]
        process = child(*words)
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"Ray Train: its process ended with {process.returncode}")
        result = steady(clock, began)
    result["waits_s"] = json.loads(out.splitlines()[-1])
    return result


def measure_ddp(manifest: str, epochs: int) -> dict[str, Any]:
    """A run of the hand-written loop."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        clock, began = Path(folder, "clock"), time.time()
        words = ["--arm", "ddp", "--manifest", manifest, "--epochs", epochs, "--clock", clock, "--port", port]
        ranks = [child(*words, "--rank", rank) for rank in range(WORKERS)]
        for rank in ranks:
            rank.communicate()
        if any(rank.returncode for rank in ranks):
            raise SystemExit(f"DDP: its processes ended with {[rank.returncode for rank in ranks]}")
        return steady(clock, began)


def steady(clock: Path, began: float) -> dict[str, Any]:
    """The steps of a run. ``step_s``: seconds of each, from the end of the one before it on all workers."""
    lines = [json.loads(line) for line in clock.read_text().splitlines()]
    ends: dict[int, float] = {}
    for line in lines:
        ends[line["step"]] = max(ends.get(line["step"], 0.0), line["time"])
    times = [ends[step] for step in sorted(ends)]
    return {
        "first_step_s": times[0] - began,
        "step_s": [later - earlier for earlier, later in pairwise(times)],
        "peak_mib": max(line["peak_mib"] for line in lines),
    }


def clips_per_s(run: dict[str, Any], batch: int) -> float:
    """Steady clips per second: all steps after the first ones, however long each took."""
    seconds = run["step_s"][FIRST_STEPS - 1 :]
    return batch * len(seconds) / sum(seconds)


def stall_s(run: dict[str, Any]) -> float:
    """How much longer the step after a checkpoint takes than the median of the others."""
    numbered = list(zip(count(1), run["step_s"], strict=False))[FIRST_STEPS - 1 :]
    after = [seconds for step, seconds in numbered if step % EVERY == 0]
    others = [seconds for step, seconds in numbered if step % EVERY]
    return statistics.median(after) - statistics.median(others)


def main() -> None:
    """Measure, print Markdown, and write JSON with --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="takes a minute: only to see that it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15, help="of 8 steps in each round [default: 15]")
    parser.add_argument("--out", type=Path)
    for name in ("--arm", "--manifest", "--clock", "--storage"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--rank", "--port", "--every"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm == "ray":
        storage, began = options.storage, options.began
        run_ray(options.manifest, options.epochs, Path(options.clock), storage, began, options.every)
        return
    if options.arm == "ddp":
        run_ddp(options.manifest, options.epochs, Path(options.clock), options.rank, options.port)
        return
    rounds, epochs = (1, 3) if options.quick else (options.rounds, options.epochs)
    with tempfile.TemporaryDirectory() as folder:
        manifest = str(kineray.data.synthesize(folder))
        batch = experiment(manifest, epochs).train.global_batch
        runs: dict[str, list[dict[str, Any]]] = {"kineray": [], "DDP by hand": []}
        for turn in range(rounds):
            arms = [("kineray", measure_ray), ("DDP by hand", measure_ddp)]
            for name, run in arms[:: 1 if turn % 2 == 0 else -1]:
                runs[name].append(run(manifest, epochs))
        saving = None if options.quick else measure_ray(manifest, max(epochs, 8), EVERY)
    print(report(runs, batch))
    print(starts(runs["kineray"]))
    if saving:
        stall = stall_s(saving)
        print(f"checkpoint: {stall:.2f} s, {stall / 60:.1%} of the time with one a minute")
    if options.out:
        result = {"machine": machine(), "batch": batch, "runs": runs, "saving": saving}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def report(runs: dict[str, list[dict[str, Any]]], batch: int) -> str:
    """Markdown: medians over the rounds."""
    rates = {name: [clips_per_s(run, batch) for run in of] for name, of in runs.items()}
    ratio = statistics.median(
        ours / other for ours, other in zip(rates["kineray"], rates["DDP by hand"], strict=True)
    )
    return table(
        [
            {
                "arm": name,
                "clips/s": f"{statistics.median(rates[name]):.1f}",
                "ours is": f"{ratio:.3f}x" if name != "kineray" else "",
                "command to first step, s": f"{statistics.median(r['first_step_s'] for r in of):.1f}",
                "peak MiB of a worker": f"{statistics.median(r['peak_mib'] for r in of):.0f}",
            }
            for name, of in runs.items()
        ]
    )


def starts(runs: list[dict[str, Any]]) -> str:
    """Markdown: what a run waited for before its first step, medians over the rounds."""
    causes = list(runs[0]["waits_s"])
    rows = [
        {"waits for": cause, "s": f"{statistics.median(run['waits_s'][cause] for run in runs):.1f}"}
        for cause in causes
    ]
    return table(rows)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", os.pathsep.join(sys.path[1:]))
    main()
