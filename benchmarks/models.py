"""Clips per second and memory of SlowFast R50 4x16 at 112 pixels, compared with PyTorchVideo's.

    python benchmarks/models.py [--quick] [--out FILE]

Both networks have the same weights and run in separate processes. First their logits of the same clips must
be equal. Then they take turns with the forward pass of evaluation and with a training step (forward, loss,
backward, SGD), ours also with activation checkpointing. On the CPU all is in float32, with clips whose memory
layout is channels first and channels last; on a GPU, if there is one, also in bfloat16 and with
torch.compile. Last, the effect of that layout on our other networks is measured.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from content import machine, table
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 400
LEARNING_RATE = 1e-3  # small, so that the loss stays finite on noise
TOLERANCE = 1e-3  # for logits of about 1 that are summed in another order
OURS = "kineray"
CHECKPOINTED = "kineray, activation checkpointing"
MODELS = (OURS, CHECKPOINTED, "pytorchvideo")
PYTHON = (sys.executable, "-W", "ignore::FutureWarning", __file__)


@dataclass(frozen=True)
class Network:
    """A SlowFast R50, and the clips that it is given. ``kernel``: of the lateral connections."""

    preset: str
    alpha: int
    kernel: int
    frames: int = 32
    side: int = 112

    @property
    def pool(self) -> int:
        """The side of the last feature map."""
        return math.ceil(self.side / 32)


NETWORK = Network("slowfast_r50_4x16", alpha=8, kernel=5)


@dataclass(frozen=True)
class Setting:
    """Where and how a network runs. ``clips``: number of clips in a batch.

    ``channels_last``: the memory layout of the clips, used by kineray on a CPU; on a GPU also of the weights.
    """

    device: str
    clips: int
    bfloat16: bool = False
    channels_last: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """``GPU, bfloat16, channels last, compiled``."""
        words = ["GPU" if self.device == "cuda" else "CPU", "bfloat16" if self.bfloat16 else "float32"]
        words += ["channels last"] * self.channels_last + ["compiled"] * self.compiled
        return ", ".join(words)


# -- the networks -----------------------------------------------------------------------------------


class PyTorchVideo(nn.Module):
    """PyTorchVideo's network, with one clip for both pathways as its input, like ours."""

    def __init__(self, network: Network = NETWORK) -> None:
        super().__init__()
        from pytorchvideo.models.slowfast import create_slowfast

        self.network = create_slowfast(
            slowfast_fusion_conv_kernel_size=(network.kernel, 1, 1),
            slowfast_fusion_conv_stride=(network.alpha, 1, 1),
            model_depth=50,
            model_num_class=CLASSES,
            head_pool_kernel_sizes=(
                (network.frames // network.alpha, network.pool, network.pool),
                (network.frames, network.pool, network.pool),
            ),
        )
        slow = network.frames // network.alpha
        self.register_buffer("indices", torch.linspace(0, network.frames - 1, slow).long())

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        """[B, C, T, H, W] -> logits [B, classes]."""
        logits: Tensor = self.network([clips_bcthw.index_select(2, self.indices), clips_bcthw])
        return logits


class Ours(nn.Module):
    """Our network, with the logits of its only head as its output."""

    def __init__(self, weights: Path, group: int, checkpointed: bool, network: Network = NETWORK) -> None:
        super().__init__()
        from kineray.models import checkpoint_activations, create_model, set_batch_norm_group

        self.network = create_model(
            network.preset, {"action": CLASSES}, head_pool=network.pool, init=str(weights)
        )
        set_batch_norm_group(self.network, group)
        if checkpointed:
            checkpoint_activations(self.network)

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        """[B, C, T, H, W] -> logits [B, classes]."""
        logits: Tensor = self.network(clips_bcthw)["action"]
        return logits


def write_weights(file: Path, network: Network = NETWORK) -> None:
    """Write a checkpoint in PyTorchVideo's format, with which logits clearly differ between clips."""
    torch.manual_seed(0)
    model = PyTorchVideo(network)
    for name, value in model.network.state_dict().items():
        if value.is_floating_point() and value.ndim == 1 and "running" not in name:
            value.uniform_(0.5, 1)
        if name.endswith("proj.weight"):
            value.normal_(std=0.05)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0  # keep the statistics of these clips only
    with torch.no_grad():
        model.train()(random_clips(2, network))
    torch.save({"model_state": model.network.state_dict()}, file)


def random_clips(count: int, network: Network = NETWORK) -> Tensor:
    """The same noise in every process, float32 [B, C, T, H, W]."""
    shape = (count, 3, network.frames, network.side, network.side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# -- in the process of a network ----------------------------------------------------------------------


class Runner:
    """Runs forward passes and training steps of a network in a setting."""

    def __init__(self, name: str, setting: Setting, weights: Path) -> None:
        self._setting = setting
        self._device = torch.device(setting.device)
        if name in (OURS, CHECKPOINTED):
            model: nn.Module = Ours(weights, setting.clips, name == CHECKPOINTED)
        else:
            model = PyTorchVideo()
            model.network.load_state_dict(torch.load(weights, weights_only=True)["model_state"])
        layout = torch.channels_last_3d if setting.channels_last else torch.contiguous_format
        self._model = model.to(self._device)
        for parameter in self._model.parameters():
            if parameter.ndim == 5 and setting.device == "cuda":
                parameter.data = parameter.data.contiguous(memory_format=layout)
        self._run = torch.compile(self._model) if setting.compiled else self._model
        self._clips = random_clips(setting.clips).to(self._device).contiguous(memory_format=layout)
        self._labels = torch.arange(setting.clips, device=self._device)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4, nesterov=True
        )

    def logits(self) -> list[list[float]]:
        """The logits of two clips in evaluation mode and float32."""
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            values: list[list[float]] = self._model.eval()(self._clips[:2]).float().tolist()
        return values

    def forward(self) -> float:
        """The seconds of a forward pass of evaluation."""
        self._model.eval()
        began = self._now()
        with torch.no_grad(), self._autocast():
            self._run(self._clips)
        return self._now() - began

    def step(self) -> float:
        """The seconds of a training step."""
        self._model.train()
        began = self._now()
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            logits_bk = self._run(self._clips)
        loss = F.cross_entropy(logits_bk.float(), self._labels)
        loss.backward()
        self._optimizer.step()
        if isinstance(self._model, Ours):
            from kineray.models import commit_batch_norm

            commit_batch_norm(self._model)
        seconds = self._now() - began
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {loss.item()}")
        return seconds

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._setting.bfloat16)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def serve(name: str, setting: Setting, weights: Path) -> None:
    """Answer requests, one word per line: logits, forward, step, or memory (the peak since the last one)."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout

    def answer(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        runner = Runner(name, setting, weights)
    except ImportError as error:
        answer({"absent": f"{type(error).__name__}: {error}"})
        return
    answer({"absent": None})
    _forget_peak(setting)
    for line in sys.stdin:
        word = line.strip()
        if word == "memory":
            answer(_peak_mib(setting))
            _forget_peak(setting)
        else:
            answer(getattr(runner, word)())


def _peak_mib(setting: Setting) -> float:
    """The peak memory of the process, or on a GPU of what torch has allocated there."""
    if setting.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _forget_peak(setting: Setting) -> None:
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


# -- the comparison -----------------------------------------------------------------------------------


class Process:
    """A network in a separate process, which runs on request."""

    def __init__(self, name: str, setting: Setting, weights: Path) -> None:
        self.name = name
        command = [*PYTHON, "--arm", name, "--weights", str(weights)]
        command += ["--setting", json.dumps(asdict(setting))]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.absent: str | None = self._answer()["absent"]

    def ask(self, word: str) -> Any:
        """The answer of the process to ``word``."""
        assert self._child.stdin
        self._child.stdin.write(f"{word}\n")
        self._child.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        self._child.communicate()

    def _answer(self) -> Any:
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: its process ended with {self._child.wait()}")
        return json.loads(line)


def measure(setting: Setting, weights: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Measure each network in a setting; they take turns, in another order each time."""
    processes = [Process(name, setting, weights) for name in MODELS]
    results: dict[str, dict[str, Any]] = {
        process.name: {"absent": process.absent} for process in processes if process.absent
    }
    there = [process for process in processes if not process.absent]
    logits = {process.name: torch.tensor(process.ask("logits")) for process in there}
    for process in there:
        difference = float((logits[process.name] - logits[OURS]).abs().max())
        if not difference <= TOLERANCE:
            raise SystemExit(f"{process.name}: its logits are off by {difference:.3g}: not the same network")
        results[process.name] = {"logits_off_by": difference}
        process.ask("memory")
    for work in ("forward", "step"):
        for process in there:
            results[process.name][f"{work}_first_s"] = process.ask(work)  # includes compilation
        seconds: dict[str, list[float]] = {process.name: [] for process in there}
        for turn in range(rounds):
            shift = turn % len(there)
            for process in [*there[shift:], *there[:shift]]:
                seconds[process.name].append(process.ask(work))
        for process in there:
            median = statistics.median(seconds[process.name])
            results[process.name] |= {
                f"{work}_s": seconds[process.name],
                f"{work}_clips_per_s": setting.clips / median,
                f"{work}_peak_mib": process.ask("memory"),
            }
    for process in processes:
        process.close()
    return results


def report(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, object]]:
    """The rows of the printed table. "ours is": how many times as fast ours is."""
    rows: list[dict[str, object]] = []
    for name, result in results.items():
        if "absent" in result:
            continue
        row: dict[str, object] = {"network": name}
        for work, title in (("forward", "forward"), ("step", "training step")):
            rate = result[f"{work}_clips_per_s"]
            ratio = results[OURS][f"{work}_clips_per_s"] / rate
            row[f"{title}, clips/s"] = f"{rate:.3g}"
            row[f"{title}, ours is"] = "" if name == OURS else f"{ratio:.2f}x"
            row[f"{title}, peak MiB"] = f"{result[f'{work}_peak_mib']:.0f}"
        row["logits off by"] = f"{result['logits_off_by']:.1e}"
        rows.append(row)
    return rows


# -- the layout of clips on the CPU -------------------------------------------------------------------

# Name -> number of frames and side of the clips.
LAYOUT_MODELS = {
    "slowfast_r50_4x16": (32, 112),
    "slow_r50_8x8": (8, 112),
    "i3d_r50_8x8": (8, 112),
    "r2plus1d_18": (8, 112),
    "s3d": (16, 112),
    "s3d_v3": (64, 112),
    "p3d_63": (16, 112),
    "c3d": (16, 112),
    "st_resnet50": (2, 112),
    "resnet50_average": (4, 112),
    "mobilenet_v2_lstm": (8, 112),
}
LAYOUT_CLIPS = 4


def measure_layouts(names: Sequence[str], rounds: int) -> list[dict[str, object]]:
    """How many times as fast our networks are on the CPU with clips in channels-last memory layout."""
    rows: list[dict[str, object]] = []
    for name in names:
        row: dict[str, object] = {"network": name}
        for work, title in (("forward", "forward"), ("step", "training step")):
            seconds = _layout_seconds(name, work, rounds)
            row[f"{title}, channels last are"] = f"{seconds[False] / seconds[True]:.2f}x"
        rows.append(row)
    return rows


def _layout_seconds(name: str, work: str, rounds: int) -> dict[bool, float]:
    """The median seconds with channels first (False) and last (True), which take turns."""
    from kineray.models import commit_batch_norm, create_model, set_batch_norm_group

    frames, side = LAYOUT_MODELS[name]
    torch.manual_seed(0)
    model = create_model(name, {"action": CLASSES}).train(work == "step")
    set_batch_norm_group(model, LAYOUT_CLIPS)
    first = torch.randn(LAYOUT_CLIPS, 3, frames, side, side)
    clips = {False: first, True: first.contiguous(memory_format=torch.channels_last_3d)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds + 1):
        for last, clips_bcthw in clips.items():
            began = time.perf_counter()
            with torch.set_grad_enabled(work == "step"):
                logits = model(clips_bcthw)
                if work == "step":
                    labels = torch.zeros(LAYOUT_CLIPS, dtype=torch.long)
                    torch.stack(
                        [F.cross_entropy(value, labels) for value in logits.values()]
                    ).sum().backward()
                    model.zero_grad(set_to_none=True)
            seconds[last].append(time.perf_counter() - began)
            commit_batch_norm(model)
    return {last: statistics.median(times[1:]) for last, times in seconds.items()}


# -- the program --------------------------------------------------------------------------------------


def settings(quick: bool) -> Sequence[Setting]:
    """The settings that are measured on this machine."""
    if quick:
        return [Setting("cpu", clips=2)]
    found = [Setting("cpu", clips=8), Setting("cpu", clips=8, channels_last=True)]
    if torch.cuda.is_available():
        found += [
            Setting("cuda", clips=64),
            Setting("cuda", clips=64, bfloat16=True),
            Setting("cuda", clips=64, bfloat16=True, channels_last=True),
            Setting("cuda", clips=64, bfloat16=True, channels_last=True, compiled=True),
        ]
    return found


def main() -> None:
    """Measure, print Markdown, and write JSON with --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="takes under a minute: only to see that it runs")
    parser.add_argument("--rounds", type=int, default=9, help="repetitions of each measurement [default: 9]")
    parser.add_argument("--out", type=Path, help="write all measurements to this file as JSON")
    for name in ("--arm", "--setting", "--weights", "--make-weights"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make_weights:
        write_weights(Path(options.make_weights))
        return
    if options.arm:
        serve(options.arm, Setting(**json.loads(options.setting)), Path(options.weights))
        return
    here = machine()
    if torch.cuda.is_available():
        here["gpu"] = torch.cuda.get_device_name()
    measured: dict[str, Any] = {"machine": here, "threads": torch.get_num_threads(), "settings": {}}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.pyth")
        subprocess.run([*PYTHON, "--make-weights", str(weights)], check=True)
        for setting in settings(options.quick):
            results = measure(setting, weights, 1 if options.quick else options.rounds)
            measured["settings"][setting.name] = asdict(setting) | {"models": results}
            print(f"\n{setting.name}, {setting.clips} clips\n\n{table(report(results))}", flush=True)
            for name, result in results.items():
                if "absent" in result:
                    print(f"absent: {name} ({result['absent']})", flush=True)
            if options.out:
                options.out.write_text(json.dumps(measured, indent=1) + "\n")
    names = list(LAYOUT_MODELS)[-1:] if options.quick else list(LAYOUT_MODELS)
    measured["layouts"] = measure_layouts(names, 1 if options.quick else options.rounds)
    print(f"\nCPU, float32, {LAYOUT_CLIPS} clips, ours alone\n\n{table(measured['layouts'])}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
