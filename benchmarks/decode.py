"""Clips per second on one core, compared with other ways to read the same clips from the same files.

    python benchmarks/decode.py [--quick] [--out FILE] [--folder FOLDER]

A clip is 32 frames, every 2nd of 64, from a random start; a random 224x224 crop of the frames, scaled to a
short side of 256 to 320. The arms read the same clips in turn, each in a separate process; all processes are
bound to one core and every library to one thread. README.md describes the arms.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from content import ALL_FILES, FILES, FPS, SECONDS, machine, make_files, table

FRAMES, STRIDE, CROP = 32, 2, 224
SHORT_SIDE = (256, 320)
VIEWS, CROPS, EVAL_SIDE = 10, 3, 256
REPEATS = 4  # clips of one video in repeated augmentation
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
OURS = "kineray, cached index"
FLOOR = "libav alone (floor)"


@dataclass(frozen=True)
class Clip:
    """A clip to read. ``start``: number of the first frame. ``height`` and ``width``: of the source.

    ``short_side``: of the scaled frame, in which the crop of ``side`` pixels is at ``top`` and ``left``.
    """

    start: int
    height: int
    width: int
    short_side: int
    side: int
    top: int
    left: int
    mirror: bool

    @property
    def numbers(self) -> range:
        """The numbers of the wanted frames."""
        return range(self.start, self.start + FRAMES * STRIDE, STRIDE)

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width of the scaled frame."""
        shorter = min(self.height, self.width)
        return round(self.height * self.short_side / shorter), round(self.width * self.short_side / shorter)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of the crop in pixels of the source."""
        ratio = min(self.height, self.width) / self.short_side
        left, top = round(self.left * ratio), round(self.top * ratio)
        right, bottom = round((self.left + self.side) * ratio), round((self.top + self.side) * ratio)
        return left, top, min(right, self.width) - left, min(bottom, self.height) - top


@dataclass(frozen=True)
class Read:
    """``pixels``: uint8 [T, H, W, 3] or float32 [3, T, H, W]. ``decoded``: number of frames, if it is known.

    ``is_asked_crop``: False if the arm draws the position of the crop itself.
    """

    pixels: Any
    decoded: int | None = None
    is_asked_crop: bool = True


Arm: TypeAlias = Callable[[Clip], Read]
"""Reads a clip from the file that the arm was made for."""


# -- ours -------------------------------------------------------------------------------------------


def kineray(path: Path, *, is_indexed: bool) -> Arm:
    """``Video.read``, called as ``Preprocessing.train_clips`` calls it."""
    from kineray.video import PacketIndex, index_video, open_video

    stored = index_video(path).to_bytes() if is_indexed else None
    count = _count_decoded()

    def read(clip: Clip) -> Read:
        index = PacketIndex.from_bytes(stored) if stored else None
        before = count[0]
        with open_video(path, index=index) as video:
            size = (clip.side, clip.side)
            times_s = np.array(clip.numbers) / FPS
            pixels = video.read(times_s, box=clip.box, size=size, mirror=clip.mirror)
        return Read(pixels, count[0] - before)

    return read


def _count_decoded() -> list[int]:
    """A counter, in a list of one, of the frames that libav returns to kineray from now on."""
    from kineray.video.decode import _IndexedDecoder

    count = [0]
    decoded = _IndexedDecoder._decoded

    def counting(self: _IndexedDecoder, *args: Any) -> Iterator[av.VideoFrame]:
        for frame in decoded(self, *args):
            count[0] += 1
            yield frame

    _IndexedDecoder._decoded = counting  # type: ignore[method-assign]
    return count


# -- the others -------------------------------------------------------------------------------------


def floor(path: Path) -> Arm:
    """Decode from the key frame to the last wanted frame and discard the frames."""

    def read(clip: Clip) -> Read:
        decoded = 0
        with av.open(str(path)) as container:
            stream = _one_thread(container)
            per_frame = round(1 / FPS / stream.time_base)
            container.seek(clip.numbers[0] * per_frame, stream=stream)
            for frame in container.decode(stream):
                decoded += 1
                if frame.pts >= clip.numbers[-1] * per_frame:
                    break
        return Read(None, decoded)

    return read


def pyslowfast(path: Path) -> Arm:
    """The usual pipeline, as in PySlowFast: every frame of the span is converted to RGB, then to float."""
    _torch()

    def read(clip: Clip) -> Read:
        images, decoded = [], 0
        with av.open(str(path)) as container:
            stream = _one_thread(container)
            per_frame = round(1 / FPS / stream.time_base)
            first, last = clip.start * per_frame, (clip.start + FRAMES * STRIDE - 1) * per_frame
            container.seek(first, stream=stream, any_frame=False, backward=True)
            for frame in container.decode(stream):
                decoded += 1
                if first <= frame.pts <= last:
                    images.append(frame.to_rgb().to_ndarray())
                if frame.pts >= last:
                    break
        return Read(_as_floats(np.stack(images)[::STRIDE], clip), decoded)

    return read


def pytorchvideo(path: Path) -> Arm:
    """``EncodedVideo`` decodes the span to float; every second frame is then processed as in PySlowFast."""
    torch = _torch()
    from pytorchvideo.data.encoded_video import EncodedVideo

    def read(clip: Clip) -> Read:
        video = EncodedVideo.from_path(str(path), decode_audio=False)
        # The end is exclusive; half a frame at either end avoids effects of rounding.
        span = video.get_clip((clip.start - 0.5) / FPS, (clip.start + FRAMES * STRIDE - 0.5) / FPS)
        video.close()
        chosen = torch.linspace(0, span["video"].shape[1] - 1, FRAMES).long()  # UniformTemporalSubsample
        chosen = torch.arange(0, FRAMES * STRIDE, STRIDE) if span["video"].shape[1] == 64 else chosen
        return Read(_as_floats(span["video"][:, chosen].permute(1, 2, 3, 0), clip))

    return read


def torchcodec(path: Path, *, seek_mode: str, own_transforms: bool = False) -> Arm:
    """uint8 frames, cropped and scaled by torchvision, or by the decoder, which draws its own crop."""
    _torch()
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import RandomCrop, Resize
    from torchvision.transforms.v2.functional import resized_crop

    def read(clip: Clip) -> Read:
        transforms = [Resize(clip.scaled), RandomCrop((clip.side, clip.side))] if own_transforms else None
        decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode=seek_mode, transforms=transforms)
        frames = decoder.get_frames_at(list(clip.numbers)).data
        if not own_transforms:
            left, top, width, height = clip.box
            frames = resized_crop(frames, top, left, height, width, [clip.side, clip.side], antialias=True)
        frames = frames.flip(-1) if clip.mirror else frames
        return Read(frames.permute(0, 2, 3, 1), is_asked_crop=not own_transforms)

    return read


def opencv(path: Path) -> Arm:
    """``VideoCapture``: seek by frame, grab all frames, retrieve the wanted ones, crop, ``cv2.resize``."""
    import cv2

    cv2.setNumThreads(1)

    def read(clip: Clip) -> Read:
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        capture.set(cv2.CAP_PROP_POS_FRAMES, clip.start)
        left, top, width, height = clip.box
        out = np.empty((FRAMES, clip.side, clip.side, 3), np.uint8)
        for number in range(FRAMES * STRIDE - 1):
            if not capture.grab():
                raise RuntimeError(f"OpenCV has no frame {clip.start + number}")
            if number % STRIDE == 0:
                image = capture.retrieve()[1][top : top + height, left : left + width]
                image = cv2.resize(image, (clip.side, clip.side), interpolation=cv2.INTER_LINEAR)
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                out[number // STRIDE] = cv2.flip(image, 1) if clip.mirror else image
        capture.release()
        return Read(out)

    return read


def _one_thread(container: av.container.InputContainer) -> av.VideoStream:
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    stream.thread_type = "NONE"
    return stream


def _torch() -> Any:
    import torch

    torch.set_num_threads(1)
    return torch


def _as_floats(frames_thwc: Any, clip: Clip) -> Any:
    """Normalise, scale bilinearly, crop, mirror: float32 [3, T, side, side]."""
    torch = _torch()
    frames = torch.as_tensor(frames_thwc).float() / 255
    frames = (frames - torch.tensor(MEAN)) / torch.tensor(STD)
    frames = frames.permute(3, 0, 1, 2)
    frames = torch.nn.functional.interpolate(frames, size=clip.scaled, mode="bilinear", align_corners=False)
    frames = frames[..., clip.top : clip.top + clip.side, clip.left : clip.left + clip.side]
    return (frames.flip(-1) if clip.mirror else frames).contiguous()


ARMS: dict[str, Callable[[Path], Arm]] = {
    OURS: lambda path: kineray(path, is_indexed=True),
    "kineray, no index": lambda path: kineray(path, is_indexed=False),
    "PyAV, PySlowFast's way": pyslowfast,
    "torchcodec, exact": lambda path: torchcodec(path, seek_mode="exact"),
    "torchcodec, approximate": lambda path: torchcodec(path, seek_mode="approximate"),
    "torchcodec, own transforms": lambda path: torchcodec(path, seek_mode="approximate", own_transforms=True),
    "OpenCV": opencv,
    "pytorchvideo": pytorchvideo,
    FLOOR: floor,
}


# -- thirty views in evaluation ---------------------------------------------------------------------


def eval_in_one_read(path: Path) -> Arm:
    """``Preprocessing.eval_views``, which decodes every frame once for all views and crops."""
    from kineray.config import DataConfig
    from kineray.data.clips.preprocessing import Preprocessing
    from kineray.video import PacketIndex, index_video

    preprocessing = Preprocessing.from_config(DataConfig(), {"action": ("a", "b")})
    stored = index_video(path).to_bytes()
    count = _count_decoded()

    def read(_: Clip) -> Read:
        before = count[0]
        index = PacketIndex.from_bytes(stored)
        clips, _times = preprocessing.eval_views(path, views=VIEWS, crops=CROPS, index=index)
        return Read(clips, count[0] - before)

    return read


def eval_in_many_reads(path: Path, make: Callable[[Path], Arm]) -> Arm:
    """A separate read for each view and crop, as a data set of (video, view, crop) does it."""
    read_one = make(path)

    def read(first: Clip) -> Read:
        decoded, clips = 0, []
        for clip in _views(first):
            one = read_one(clip)
            clips.append(one.pixels)
            decoded += one.decoded or 0
        return Read(clips, decoded)

    return read


def _views(like: Clip) -> Iterator[Clip]:
    scaled = asdict(like) | {"short_side": EVAL_SIDE, "side": EVAL_SIDE, "mirror": False}
    height, width = Clip(**scaled).scaled
    last = FPS * SECONDS - FRAMES * STRIDE
    for view in range(VIEWS):
        for crop in range(CROPS):
            place = {"top": (height - EVAL_SIDE) // 2, "left": (width - EVAL_SIDE) * crop // (CROPS - 1)}
            yield Clip(**scaled | place | {"start": round(last * view / (VIEWS - 1))})


EVAL_ARMS: dict[str, Callable[[Path], Arm]] = {
    "kineray, one read": eval_in_one_read,
    "kineray, 30 reads": lambda path: eval_in_many_reads(path, ARMS[OURS]),
    "PyAV, PySlowFast's way, 30 reads": lambda path: eval_in_many_reads(path, pyslowfast),
}


# -- several training clips of one video --------------------------------------------------------------


def repeats_in_one_pass(path: Path) -> Arm:
    """``Preprocessing.train_clips`` for all clips at once, as with ``data.clips_per_sample``."""
    return _repeats(path, lambda read, rngs: [read(rngs)])


def repeats_in_many_passes(path: Path) -> Arm:
    """``Preprocessing.train_clips`` for one clip after the other."""
    return _repeats(path, lambda read, rngs: [read([rng]) for rng in rngs])


def _repeats(path: Path, run: Callable[..., list[np.ndarray]]) -> Arm:
    from kineray.config import DataConfig
    from kineray.data import Sample
    from kineray.data.clips.preprocessing import Preprocessing
    from kineray.video import PacketIndex, index_video

    preprocessing = Preprocessing.from_config(DataConfig(), {"action": ("a", "b")})
    sample = Sample("a", str(path), 0.0, None, {}, "a", "train")
    stored = index_video(path).to_bytes()
    count = _count_decoded()

    def read_some(rngs: Sequence[np.random.Generator]) -> np.ndarray:
        index = PacketIndex.from_bytes(stored)
        return preprocessing.train_clips(path, sample, rngs, index=index)

    def read(clip: Clip) -> Read:
        before = count[0]
        clips = run(read_some, [np.random.default_rng([clip.start, n]) for n in range(REPEATS)])
        return Read(clips, count[0] - before, is_asked_crop=False)

    return read


REPEAT_ARMS: dict[str, Callable[[Path], Arm]] = {
    "kineray, one pass": repeats_in_one_pass,
    f"kineray, {REPEATS} passes": repeats_in_many_passes,
}


# -- a process for each arm -------------------------------------------------------------------------


class Process:
    """An arm in a separate process, which reads on request."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        command = [sys.executable, __file__, "--arm", name, "--folder", str(path)]
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | single
        )
        self.absent: str | None = self._answer()["absent"]

    def read(self, clip: Clip) -> dict[str, Any]:
        """Read a clip: seconds, decoded frames, bytes, and thumbnails that identify the frames."""
        assert self._child.stdin
        self._child.stdin.write(json.dumps(asdict(clip)) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def close(self) -> dict[str, Any]:
        """End the process; returns its memory."""
        if self.absent is None:
            assert self._child.stdin
            self._child.stdin.write("\n")
            self._child.stdin.flush()
        answer = self._answer() if self.absent is None else {}
        self._child.communicate()
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: its process ended with {self._child.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(name: str, path: Path) -> None:
    """Read the requested clips until an empty line arrives; runs in the process of an arm."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout

    def answer(**values: object) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        arm = (ARMS | EVAL_ARMS | REPEAT_ARMS)[name](path)
    except (ImportError, OSError, RuntimeError) as error:
        answer(absent=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        return
    answer(absent=None)
    before = peak = _memory_mib("VmRSS")
    for line in iter(sys.stdin.readline, "\n"):
        if not line:
            return  # the benchmark has ended
        clip = Clip(**json.loads(line))
        began = time.perf_counter()
        read = arm(clip)
        seconds = time.perf_counter() - began
        peak = _memory_mib("VmHWM")  # before the frames are compared
        answer(s=seconds, decoded=read.decoded, bytes=_bytes(read.pixels), thumbnails=_thumbnails(read))
        del read  # so that its memory is free while the next one is read
    answer(imported_mib=before, peak_mib=peak)


def _memory_mib(key: str) -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    found = re.search(rf"{key}:\s+(\d+) kB", status.read_text())
    return int(found[1]) / 1024 if found else 0.0


def _bytes(pixels: Any) -> int:
    if isinstance(pixels, list):
        return sum(map(_bytes, pixels))
    return 0 if pixels is None else int(pixels.nbytes)


def _thumbnails(read: Read) -> list[int] | None:
    """The means of 7x7 blocks of every frame: enough to see whether two arms returned the same frames."""
    if not read.is_asked_crop or getattr(read.pixels, "ndim", 0) != 4:
        return None
    means: list[int] = []
    is_float = read.pixels.shape[-1] != 3
    for number in range(FRAMES):  # one after the other, so that this does not set the memory's peak
        if is_float:
            image = np.moveaxis(np.asarray(read.pixels[:, number]), 0, -1) * STD + MEAN
            image *= 255
        else:
            image = np.asarray(read.pixels[number], np.float32)
        height, width = image.shape[0] // 7, image.shape[1] // 7
        blocks = image[: height * 7, : width * 7].reshape(7, height, 7, width, 3)
        means += blocks.mean(axis=(1, 3)).round().astype(int).ravel().tolist()
    return means


# -- measuring --------------------------------------------------------------------------------------


def draw_clips(name: str, count: int, seed: int = 0) -> list[Clip]:
    """``count`` random clips of a file, the same in every run."""
    file, rng = ALL_FILES[name], random.Random(seed)
    clips = []
    for _ in range(count):
        start, short_side = rng.randint(0, FPS * SECONDS - FRAMES * STRIDE), rng.randint(*SHORT_SIDE)
        whole = Clip(start, file.height, file.width, short_side, CROP, 0, 0, rng.random() < 0.5)
        height, width = whole.scaled
        place = {"top": rng.randint(0, height - CROP), "left": rng.randint(0, width - CROP)}
        clips.append(Clip(**asdict(whole) | place))
    return clips


def measure(path: Path, arms: Sequence[str], clips: Sequence[Clip], rounds: int) -> dict[str, dict[str, Any]]:
    """Measure each arm on ``clips``; they take turns at every clip, in another order each time."""
    processes = [Process(arm, path) for arm in arms]
    results: dict[str, dict[str, Any]] = {
        process.name: {"absent": process.absent} for process in processes if process.absent
    }
    there = [process for process in processes if not process.absent]
    seconds: dict[str, list[list[float]]] = {process.name: [[] for _ in clips] for process in there}
    reads: dict[str, list[dict[str, Any]]] = {process.name: [] for process in there}
    for process in there:
        process.read(clips[0])  # one-time work
    for turn in range(rounds):
        for number, clip in enumerate(clips):
            shift = (turn + number) % len(there)
            for process in [*there[shift:], *there[:shift]]:
                answer = process.read(clip)
                seconds[process.name][number].append(answer["s"])
                if turn == 0:
                    reads[process.name].append(answer)
    for process in processes:
        memory = process.close()
        if process.absent:
            continue
        medians = [statistics.median(times) for times in seconds[process.name]]
        decoded = [read["decoded"] for read in reads[process.name]]
        results[process.name] = {
            "clips_per_s": len(clips) / sum(medians),
            "median_s": statistics.median(medians),
            "decoded": None if None in decoded else statistics.mean(decoded),
            "bytes": reads[process.name][0]["bytes"],
            "seconds": seconds[process.name],
            **memory,
        }
    _compare(results, reads)
    return results


def _compare(results: dict[str, dict[str, Any]], reads: Mapping[str, list[dict[str, Any]]]) -> None:
    """Add the distance of each arm's frames from ours, in levels of 255: the mean of the worst clip."""
    if OURS not in reads:
        return
    for name, answers in reads.items():
        pairs = [
            (mine["thumbnails"], other["thumbnails"])
            for mine, other in zip(reads[OURS], answers, strict=True)
            if other["thumbnails"]
        ]
        distances = [float(np.abs(np.subtract(mine, other)).mean()) for mine, other in pairs]
        results[name]["distance"] = max(distances) if distances else None


def report(
    results: Mapping[str, Mapping[str, Any]], ours: str, *, unit: str, wanted: int
) -> list[dict[str, object]]:
    """The rows of the printed table. ``wanted``: number of frames that are wanted per ``unit``."""
    best = results[ours]["clips_per_s"]
    rows: list[dict[str, object]] = []
    for name, result in results.items():
        if "absent" in result:
            continue
        decoded, distance = result["decoded"], result.get("distance")
        rows.append(
            {
                "arm": name,
                f"{unit}/s": f"{result['clips_per_s']:.3g}",
                "ours is": "" if name == ours else f"{best / result['clips_per_s']:.2f}x",
                "decoded/wanted": "" if decoded is None else f"{decoded / wanted:.2f}",
                "MB to the trainer": f"{result['bytes'] / 1e6:.1f}" if result["bytes"] else "",
                "peak MiB": f"{result['peak_mib']:.0f}",
                "of it imports": f"{result['imported_mib']:.0f}",
                "off by": "" if distance is None else f"{distance:.1f}",
            }
        )
    return rows


def main() -> None:
    """Measure, print Markdown, and write JSON with --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="takes under a minute: only to see that it runs")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "kineray-benchmarks")
    parser.add_argument("--out", type=Path, help="write all measurements to this file as JSON")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        serve(options.arm, options.folder)
        return
    here = machine()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # children inherit it
    names = list(FILES)[:1] if options.quick else list(FILES)
    clips, rounds, eval_rounds = (2, 1, 1) if options.quick else (8, 3, 3)
    eval_arms = list(EVAL_ARMS)[:2] if options.quick else list(EVAL_ARMS)
    paths = make_files(options.folder, names)
    measured: dict[str, Any] = {
        "machine": here,
        "clips": clips,
        "rounds": rounds,
        "train": {},
        "repeats": {},
        "eval": {},
    }
    for name in names:
        drawn = draw_clips(name, clips)
        train = measured["train"][name] = measure(paths[name], list(ARMS), drawn, rounds)
        print(
            f"\n{name}: training clips\n\n{table(report(train, OURS, unit='clips', wanted=FRAMES))}",
            flush=True,
        )
        repeats = measured["repeats"][name] = measure(paths[name], list(REPEAT_ARMS), drawn, rounds)
        rows = report(repeats, next(iter(REPEAT_ARMS)), unit="videos", wanted=REPEATS * FRAMES)
        print(f"{name}: {REPEATS} training clips of each video, videos\n\n{table(rows)}", flush=True)
        several = measured["eval"][name] = measure(paths[name], eval_arms, drawn[:1], eval_rounds)
        rows = report(several, eval_arms[0], unit="videos", wanted=VIEWS * CROPS * FRAMES)
        print(f"{name}: {VIEWS} views x {CROPS} crops of {EVAL_SIDE}, videos\n\n{table(rows)}", flush=True)
        for arm, result in (train | several).items():
            if "absent" in result:
                print(f"absent: {arm} ({result['absent']})", flush=True)
    if options.out:
        options.out.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
