"""SlowFast R50 at 224 pixels on one GPU, compared with PyTorchVideo's, and decoding on the GPU.

    python benchmarks/gpu.py [--quick] [--seconds 540] [--out FILE]

Takes under ten minutes on a GPU and imports no Ray; what the time does not suffice for is named, and
``--out`` has all that was measured until then. Without a GPU it runs only with ``--quick``, on small clips.

* networks: SlowFast R50 4x16 and 8x8, with weights that both have, in float32 and bfloat16, ours also with
  the channels last and compiled: clips per second of a training step (forward, loss, backward, SGD), memory,
  and the share of the device's peak arithmetic. "efficiency": what ``kineray plan`` assumes for all devices.
* what limits a step: the share of its time in convolutions, batch norms and other kernels, and without any;
* the largest micro-batch, in steps of a batch-norm group of 8 clips;
* decoding: clips of 32 frames of each file, by torchcodec on the GPU and by kineray on a core of the CPU, and
  how many cores the GPU's decoder replaces.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from content import FILES, LARGE_FILES, machine, make_files, table
from models import CLASSES, Network, Ours, PyTorchVideo, random_clips, write_weights
from torch import Tensor, nn
from torch.nn import functional as F

from kineray.planning.assumptions import DEVICES, Assumptions

GROUP = 2 if "--quick" in sys.argv else 8  # clips of a batch-norm group
NETWORKS = (
    Network("slowfast_r50_4x16", alpha=8, kernel=5, side=224),
    Network("slowfast_r50_8x8", alpha=4, kernel=7, side=224),
)
KINDS = {
    "convolutions": ("conv", "gemm", "cutlass", "xmma", "implicit", "cudnn", "addmm", "mm"),
    "batch norms": ("batch_norm", "batchnorm", "bn_"),
}
STREAMS = 8  # decoders of the GPU that work at the same time


@dataclass(frozen=True)
class Way:
    """How a network is trained. ``peer``: PyTorchVideo's network instead of ours."""

    bfloat16: bool = False
    channels_last: bool = False
    compiled: bool = False
    peer: bool = False

    @property
    def name(self) -> str:
        """``kineray, bfloat16, channels last``."""
        words = ["pytorchvideo" if self.peer else "kineray", "bfloat16" if self.bfloat16 else "float32"]
        return ", ".join([*words, *["channels last"] * self.channels_last, *["compiled"] * self.compiled])


WAYS = (
    Way(bfloat16=True),
    Way(bfloat16=True, peer=True),
    Way(),
    Way(peer=True),
    Way(bfloat16=True, channels_last=True),
    Way(bfloat16=True, compiled=True),
    Way(bfloat16=True, channels_last=True, compiled=True),
)


class Trainer:
    """Training steps of a network on noise."""

    def __init__(self, network: Network, way: Way, weights: Path, device: torch.device) -> None:
        if way.peer:
            model: nn.Module = PyTorchVideo(network)
            model.network.load_state_dict(torch.load(weights, weights_only=True)["model_state"])
        else:
            model = Ours(weights, GROUP, False, network)
        self._network, self._way, self._device = network, way, device
        self._layout = torch.channels_last_3d if way.channels_last else torch.contiguous_format
        self._model = model.to(device).train()
        for parameter in self._model.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=self._layout)
        self._run = torch.compile(self._model) if way.compiled else self._model
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4, nesterov=True
        )

    def clips(self, count: int) -> Tensor:
        """Noise on the device."""
        clips = random_clips(min(count, GROUP), self._network).to(self._device)
        return clips.repeat(-(-count // GROUP), 1, 1, 1, 1)[:count].contiguous(memory_format=self._layout)

    def step(self, clips_bcthw: Tensor) -> None:
        """One update."""
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._way.bfloat16):
            logits_bk = self._run(clips_bcthw)
        labels = torch.arange(len(clips_bcthw), device=self._device) % CLASSES
        F.cross_entropy(logits_bk.float(), labels).backward()
        self._optimizer.step()
        if not self._way.peer:
            from kineray.models import commit_batch_norm

            commit_batch_norm(self._model)

    def logits(self) -> Tensor:
        """Of two clips, in evaluation mode and without TF32."""
        self._model.eval()
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            values: Tensor = self._model(self.clips(2)).float().cpu()
        self._model.train()
        return values


@contextmanager
def trainer(network: Network, way: Way, weights: Path, device: torch.device) -> Iterator[Trainer]:
    """A trainer whose memory is free afterwards."""
    torch.manual_seed(0)
    made = Trainer(network, way, weights, device)
    yield made
    del made
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# -- measurements -------------------------------------------------------------------------------------


def now(device: torch.device) -> float:
    """The time when the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def speed(made: Trainer, clips: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Seconds of steps, and memory."""
    batch = made.clips(clips)
    began = now(device)
    made.step(batch)
    first_s = now(device) - began  # includes compilation
    made.step(batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        began = now(device)
        made.step(batch)
        seconds.append(now(device) - began)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {"clips": clips, "first_s": first_s, "step_s": seconds, "peak_bytes": peak}


def limits(made: Trainer, clips: int, device: torch.device) -> dict[str, float]:
    """The shares of a step's time by kind of kernel, and of the time without any."""
    batch = made.clips(clips)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        began = now(device)
        made.step(batch)
        whole_us = (now(device) - began) * 1e6
    shares = dict.fromkeys([*KINDS, "other kernels"], 0.0)
    for event in profile.key_averages():
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        if device.type == "cuda" and not on_gpu:
            continue
        spent_us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        name = event.key.lower()
        kind = next((kind for kind, words in KINDS.items() if any(w in name for w in words)), "other kernels")
        shares[kind] += spent_us / whole_us
    return shares | {"no kernel": max(1 - sum(shares.values()), 0.0)}


def largest(made: Trainer, most: int) -> int:
    """The largest micro-batch, up to ``most``: doubled until it does not fit, then bisected."""
    fits, fails, size = 0, most + GROUP, GROUP
    while fails - fits > GROUP:
        try:
            made.step(made.clips(size))
            fits = size
        except torch.OutOfMemoryError:
            fails = size
            torch.cuda.empty_cache()
        size = min(2 * fits, most) if fails > most else (fits + fails) // 2 // GROUP * GROUP
    return fits


def predicted(network: Network, way: Way, device: str) -> dict[str, float]:
    """What ``kineray plan`` makes of it: FLOPs of a clip, and seconds of one if every kernel were perfect."""
    from kineray.config import DataConfig, Experiment, TrainConfig
    from kineray.models.registry import find_preset
    from kineray.planning.graph import FakeModel
    from kineray.planning.prediction import compute_s
    from kineray.training import ExperimentPlan

    precision = "bfloat16" if way.bfloat16 else "float32"
    side = network.side
    sides = {"short_side": (side, side), "crop": side, "eval_short_side": side, "eval_crop": side}
    experiment = Experiment(
        data=DataConfig(frames=network.frames, **sides),
        model=find_preset(network.preset).config.model_copy(update={"head_pool": network.pool}),
        train=TrainConfig(global_batch=GROUP, bn_group=GROUP, precision=precision),
    )
    task = experiment.task.build({"action": tuple(map(str, range(CLASSES)))})
    model = FakeModel(experiment, task, activation_checkpointing=False)
    graph = model.training(ExperimentPlan(experiment, GROUP).at(0), 1)
    given = replace(Assumptions().filled(DEVICES[device], precision), efficiency=1.0, launch_s=0.0)
    ideal_s = compute_s((*graph.forward, *graph.backward), given) / GROUP
    return {
        "flops_per_clip": graph.flops_per_clip,
        "ideal_clip_s": ideal_s,
        "peak_flops": float(given.peak_flops or 0),
    }


def same_network(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of logits. Ends the program if they are not those of the same network."""
    difference = float((ours - theirs).abs().max())
    if not difference <= 1e-2 * float(ours.abs().max()):
        raise SystemExit(f"the logits differ by {difference:.3g}: not the same network")
    return difference


# -- decoding -----------------------------------------------------------------------------------------


def decoding(name: str, path: Path, device: torch.device, seconds: float) -> dict[str, Any]:
    """Clips per second of torchcodec on the device, and of kineray on one core."""
    from decode import kineray as kineray_arm

    torch.set_num_threads(1)
    arms: dict[str, tuple[Callable[[Path], Callable[[Any], Any]], int]] = {
        "kineray, one core": (lambda file: kineray_arm(file, is_indexed=True), 1),
        f"torchcodec, {device.type}": (lambda file: torchcodec_on(file, device), STREAMS),
    }
    found: dict[str, Any] = {}
    for arm, (make, streams) in arms.items():
        try:
            found[arm] = rate(make, name, path, streams if device.type == "cuda" else 1, seconds)
        except (ImportError, RuntimeError) as error:
            found[arm] = {"absent": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return found


def torchcodec_on(path: Path, device: torch.device) -> Callable[[Any], Any]:
    """Frames decoded on the device, cropped and scaled there."""
    from torchcodec.decoders import VideoDecoder
    from torchvision.transforms.v2.functional import resized_crop

    def read(clip: Any) -> Tensor:
        decoder = VideoDecoder(path, device=device, seek_mode="approximate")
        frames = decoder.get_frames_at(list(clip.numbers)).data
        left, top, width, height = clip.box
        cut: Tensor = resized_crop(frames, top, left, height, width, [clip.side, clip.side], antialias=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return cut

    return read


def rate(
    make: Callable[[Path], Callable[[Any], Any]], name: str, path: Path, streams: int, seconds: float
) -> dict[str, float]:
    """Clips per second of ``streams`` threads, each with a reader, after a first clip that does not count."""
    from decode import draw_clips

    counts, errors = [0] * streams, list[BaseException]()
    start = threading.Barrier(streams + 1, timeout=300)

    def run(stream: int) -> None:
        try:
            read, clips = make(path), draw_clips(name, 64, seed=stream)
            read(clips[0])
            start.wait()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                read(clips[counts[stream] % len(clips)])
                counts[stream] += 1
        except BaseException as error:
            errors.append(error)
            start.abort()

    threads = [threading.Thread(target=run, args=(stream,)) for stream in range(streams)]
    for thread in threads:
        thread.start()
    with suppress(threading.BrokenBarrierError):
        start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return {"clips_per_s": sum(counts) / (time.perf_counter() - began), "streams": streams}


# -- the program --------------------------------------------------------------------------------------


class Report:
    """Prints and keeps what is measured, and knows how much time is left."""

    def __init__(self, out: Path | None, seconds: float) -> None:
        self._out, self._end = out, time.monotonic() + seconds
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        self.result: dict[str, Any] = {"machine": machine() | {"gpu": gpu}, "left_out": []}

    def has_time(self, what: str, needed_s: float) -> bool:
        """Whether there is time for something; it is named if not."""
        if time.monotonic() + needed_s <= self._end:
            return True
        self.result["left_out"].append(what)
        print(f"left out, no time: {what}", flush=True)
        return False

    def add(self, section: str, name: str, values: Mapping[str, Any]) -> None:
        """Keep a measurement, and write all of them."""
        self.result.setdefault(section, {})[name] = dict(values)
        if self._out:
            self._out.write_text(json.dumps(self.result, indent=1) + "\n")


def measure_networks(report: Report, device: torch.device, quick: bool) -> None:
    """All networks in all ways."""
    gpu = (torch.cuda.get_device_name() if device.type == "cuda" else "").lower()
    known = next((name for name in DEVICES if name.partition("_")[0] in gpu), "")
    networks = [replace(NETWORKS[0], side=32)] if quick else list(NETWORKS)
    ways = WAYS[2:4] if quick else WAYS  # bfloat16 is slow on CPUs
    rounds, clips, most = (1, GROUP, GROUP) if quick else (10, 4 * GROUP, 1024)
    for network in networks:
        rows: dict[str, dict[str, Any]] = {}
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder, "weights.pyth")
            write_weights(weights, network)
            logits: list[Tensor] = []
            for way in ways:
                name = f"{network.preset}, {way.name}"
                if not report.has_time(name, 120 if way.compiled else 25):
                    continue
                with trainer(network, way, weights, device) as made:
                    if way in ways[:2]:
                        logits.append(made.logits())
                    row = speed(made, clips, device, rounds)
                    if way in ways[:2]:
                        row["time_in"] = limits(made, clips, device)
                        row["largest_micro_batch"] = largest(made, most)
                row["clips_per_s"] = clips / statistics.median(row["step_s"])
                if known or quick:
                    row |= predicted(network, way, known or "t4")
                    row["share_of_peak"] = row["clips_per_s"] * row["flops_per_clip"] / row["peak_flops"]
                    row["efficiency"] = row["clips_per_s"] * row["ideal_clip_s"]
                rows[way.name] = row
                report.add("networks", name, asdict(way) | row)
        if len(logits) == 2:
            same_network(*logits)
        title = f"{network.preset}, {network.side} pixels, {clips} clips, {device.type}"
        print(f"\n{title}\n\n{network_table(rows)}", flush=True)


def network_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown. "ours is": how many times as fast ours is as the peer at that precision."""
    lines = []
    for name, row in rows.items():
        peer = rows.get(f"pytorchvideo, {name.split(', ')[1]}")
        ratio = row["clips_per_s"] / peer["clips_per_s"] if peer and name.startswith("kineray") else None
        peak, spent = row["peak_bytes"], row.get("time_in", {})
        lines.append(
            {
                "network": name,
                "clips/s": f"{row['clips_per_s']:.3g}",
                "than pytorchvideo": f"{ratio:.2f}x" if ratio else "",
                "of peak": f"{row['share_of_peak']:.1%}" if "share_of_peak" in row else "",
                "efficiency": f"{row['efficiency']:.2f}" if "efficiency" in row else "",
                "GB": f"{peak / 1e9:.1f}" if peak else "",
                "largest micro-batch": row.get("largest_micro_batch", ""),
                "time in": ", ".join(f"{kind} {share:.0%}" for kind, share in spent.items()),
                "first step, s": f"{row['first_s']:.1f}",
            }
        )
    return table(lines)


def measure_decoding(report: Report, device: torch.device, folder: Path, quick: bool) -> None:
    """All files; "cores": how many of the CPU's the GPU replaces."""
    names = list(FILES)[:1] if quick else [*FILES, *LARGE_FILES]
    rows = []
    for name, path in make_files(folder, names).items():
        if not report.has_time(f"decoding {name}", 15):
            continue
        found = decoding(name, path, device, 0.5 if quick else 4.0)
        report.add("decoding", name, found)
        ours, other = found.values()
        rates = [f"{each['clips_per_s']:.1f}" if "clips_per_s" in each else "" for each in (ours, other)]
        is_complete = all(rates)
        rows.append(
            {
                "file": name,
                **dict(zip(found, rates, strict=True)),
                "cores": f"{other['clips_per_s'] / ours['clips_per_s']:.1f}" if is_complete else "",
            }
        )
        for arm, each in found.items():
            if "absent" in each:
                print(f"absent: {arm} ({each['absent']})")
    if rows:
        print(f"\n{table(rows)}", flush=True)


def main() -> None:
    """Measure, print Markdown, and write JSON with --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="takes under a minute, on any machine")
    parser.add_argument("--seconds", type=float, default=540, help="time for everything [default: 540]")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "kineray-benchmarks")
    parser.add_argument("--out", type=Path, help="write all measurements to this file as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.quick:
        raise SystemExit("there is no GPU; --quick shows on the CPU that the program runs")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = Report(options.out, options.seconds)
    measure_networks(report, device, options.quick)
    measure_decoding(report, device, options.folder, options.quick)


if __name__ == "__main__":
    main()
