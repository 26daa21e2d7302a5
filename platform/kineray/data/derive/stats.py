"""What a data set holds, split by split, and what it costs to read clips from its videos."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np

from kineray import storage
from kineray.data.derive.parallel import map_in_processes
from kineray.data.manifest.labels import class_counts, known_labels
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.video import PacketIndex, Video, VideoInfo, open_video
from kineray.video.container import damaged

if TYPE_CHECKING:
    from kineray.data.manifest.index_cache import IndexCache

CLIP_S = 2.0  # the clip that the cost of reading is told for
DEAR = 2.0  # decoded frames per wanted frame from which a training copy is worth its making
_PROBES = 33  # clips per video that the cost is measured on


@dataclass(frozen=True)
class VideoFacts:
    """One video. ``key_gaps_s`` and ``key_gaps_frames``: median and longest distance of key frames.

    ``decoded_per_wanted``: how many frames must be decoded for each frame of a clip of ``CLIP_S`` that
    begins anywhere.
    """

    duration_s: float
    fps: float
    width: int
    height: int
    codec: str
    frames: int
    key_gaps_s: Sequence[float]
    key_gaps_frames: Sequence[float]
    decoded_per_wanted: float


@dataclass(frozen=True)
class Range:
    """The least, the median and the greatest of some numbers."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class ClassBalance:
    """One head of one split. ``labelled``: clips whose label is known, and actions of persons in boxes.
    ``per_class``: clips of the classes that have any; ``imbalance``: max / min."""

    head: str
    classes: int
    labelled: int
    per_class: Range | None
    imbalance: float | None
    absent: tuple[str, ...]


@dataclass(frozen=True)
class SplitStats:
    """One split. Counts of sizes, frame rates and codecs are of the measured videos.

    ``clip_hours`` is the sum over all clips, estimated from the measured ones where a clip ends with its
    video. ``key_gaps_s`` and ``key_gaps_frames``: the median over the videos of the median distance of
    their key frames, and the longest of all. None where no video was measured.
    """

    split: str
    clips: int
    missing: int
    groups: int
    videos: int
    measured: int
    clip_hours: float | None
    clip_s: Range | None
    video_s: Range | None
    sizes: Mapping[str, int]
    frame_rates: Mapping[str, int]
    codecs: Mapping[str, int]
    key_gaps_s: tuple[float, float] | None
    key_gaps_frames: tuple[float, float] | None
    decoded_per_wanted: float | None
    heads: tuple[ClassBalance, ...]


@dataclass(frozen=True)
class Stats:
    """A data set. ``unreadable``: URI -> why, of the videos that could not be measured."""

    splits: tuple[SplitStats, ...]
    unreadable: Mapping[str, str]

    @property
    def decoded_per_wanted(self) -> float | None:
        """Mean over the measured videos of all splits."""
        costs = [(split.decoded_per_wanted, split.measured) for split in self.splits]
        total = sum(cost * videos for cost, videos in costs if cost is not None)
        return total / sum(videos for _, videos in costs) if total else None


def stats(
    manifest: Manifest,
    *,
    sample: int | None = None,
    indexes: "IndexCache | None" = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Stats:
    """Measure a data set: the packets of its videos are read, nothing is decoded but first frames.

    ``sample``: measure so many videos only, always the same ones. The files of videos that are in
    ``indexes`` are not read. ``progress`` is called with (done, of all). Raises StorageError.
    """
    uris = some(dict.fromkeys(manifest.columns.column("uri").to_pylist()), sample)
    facts: dict[str, VideoFacts] = {}
    unreadable: dict[str, str] = {}

    def arguments(uri: str) -> tuple[str, bytes | None]:
        return uri, indexes.get(uri) if indexes else None

    for outcome in map_in_processes(_measured, uris, workers=workers, arguments=arguments):
        if outcome.error is None:
            facts[outcome.item] = VideoFacts(**outcome.result)
        else:
            unreadable[outcome.item] = f"{outcome.error.code}: {outcome.error}"
        if progress:
            progress(outcome.done, len(uris))
    splits = tuple(_split_stats(manifest.split(name), facts) for name in manifest.found)
    return Stats(splits, dict(sorted(unreadable.items())))


def some(uris: Iterable[str], count: int | None) -> list[str]:
    """``count`` of the URIs, picked by a hash and so always the same; all of them for None."""
    whole = list(uris)
    if count is None or count >= len(whole):
        return whole
    # The name without its folder: a copy of the set elsewhere gives the same choice.
    return sorted(whole, key=lambda uri: hashlib.sha256(uri.rpartition("/")[2].encode()).digest())[:count]


def measure(uri: str, index: PacketIndex | None = None) -> VideoFacts:
    """What there is to know of one video without decoding it. Raises DecodeError and StorageError.

    ``index``: of this video; without it the packets are read.
    """
    with ExitStack() as opened:
        if index is None:
            source = opened.enter_context(storage.video_source(uri))
            video = opened.enter_context(open_video(source))
            if not isinstance(video, Video):
                return _of_frame_folder(video.info)
            index = video.index
    if index.truncated:
        raise damaged(uri)
    width, height = index.upright_size
    seconds, frames = key_gaps(index)
    return VideoFacts(
        duration_s=index.duration_s,
        fps=index.fps,
        width=width,
        height=height,
        codec=index.codec,
        frames=index.frames,
        key_gaps_s=_median_and_max(seconds),
        key_gaps_frames=_median_and_max(frames),
        decoded_per_wanted=decoded_per_wanted(index),
    )


def _of_frame_folder(info: VideoInfo) -> VideoFacts:
    """Every frame is a file of its own."""
    return VideoFacts(
        duration_s=info.duration_s,
        fps=info.fps,
        width=info.width,
        height=info.height,
        codec=info.codec,
        frames=info.frames,
        key_gaps_s=(1 / info.fps, 1 / info.fps),
        key_gaps_frames=(1.0, 1.0),
        decoded_per_wanted=1.0,
    )


def _measured(uri: str, index: bytes | None) -> dict[str, Any]:
    return asdict(measure(uri, None if index is None else PacketIndex.from_bytes(index)))


def key_gaps(index: PacketIndex) -> tuple[np.ndarray, np.ndarray]:
    """From each key frame to the next, or to the end: seconds, float64 [K], and frames, int64 [K]."""
    keys_s = index.key_frame_times_s
    keys_s = keys_s[keys_s >= 0] if (keys_s >= 0).any() else np.zeros(1)
    frames = np.searchsorted(index.times_s, keys_s - 1e-9)
    return np.diff(keys_s, append=index.duration_s), np.diff(frames, append=index.frames)


def decoded_per_wanted(index: PacketIndex, clip_s: float = CLIP_S) -> float:
    """Decoded frames per frame of a clip of ``clip_s`` seconds, over clips spread evenly over the video.

    1 is the least: a clip that begins with a key frame. What a decoder saves by leaving out frames that
    no other refers to is not counted.
    """
    starts_s = np.linspace(0, max(index.duration_s - clip_s, 0), _PROBES)
    firsts = np.searchsorted(index.times_s, starts_s + 1e-9, side="right") - 1
    ends = np.maximum(np.searchsorted(index.times_s, starts_s + clip_s - 1e-9), firsts + 1)
    decoded = wanted = 0
    for first, end in zip(firsts, ends, strict=True):
        positions = index.shown[first:end]
        decoded += int(positions.max()) - index.key_frame_before(int(positions.min())) + 1
        wanted += len(positions)
    return decoded / wanted


def class_balance(manifest: Manifest) -> tuple[ClassBalance, ...]:
    """How the clips of a manifest (usually of one split) are spread over the classes of every head.

    The boxes of a detection set count as clips of the first head.
    """
    balances = []
    for position, (head, names) in enumerate(manifest.vocabularies.items()):
        labels = manifest.labels(head)
        labelled = int(known_labels(labels).sum())
        counts = class_counts(labels, len(names))
        boxes = manifest.columns.column("boxes").flatten()
        if position == 0 and len(boxes):
            in_boxes = np.bincount(np.asarray(boxes.field("labels").flatten()), minlength=len(names))
            counts, labelled = counts + in_boxes, labelled + int(in_boxes.sum())
        present = counts[counts > 0]
        balances.append(
            ClassBalance(
                head=head,
                classes=len(names),
                labelled=labelled,
                per_class=_range(present) if len(present) else None,
                imbalance=float(present.max() / present.min()) if len(present) else None,
                absent=tuple(name for name, count in zip(names, counts, strict=True) if not count),
            )
        )
    return tuple(balances)


def _split_stats(manifest: Manifest, facts: Mapping[str, VideoFacts]) -> SplitStats:
    (split,) = manifest.found
    columns = manifest.columns
    videos = set(columns.column("uri").to_pylist())
    measured = [facts[uri] for uri in sorted(videos & facts.keys())]
    clips_s = [length for length in (_clip_s(sample, facts) for sample in manifest) if length is not None]
    costs = [video.decoded_per_wanted for video in measured]
    return SplitStats(
        split=split,
        clips=len(manifest),
        missing=len(manifest.missing.get(split, ())),
        groups=len(set(columns.column("group").to_pylist())),
        videos=len(videos),
        measured=len(measured),
        clip_hours=fmean(clips_s) * len(manifest) / 3600 if clips_s else None,
        clip_s=_range(clips_s) if clips_s else None,
        video_s=_range([video.duration_s for video in measured]) if measured else None,
        sizes=_counts(f"{video.width}x{video.height}" for video in measured),
        frame_rates=_counts(f"{video.fps:.5g}" for video in measured),
        codecs=_counts(video.codec for video in measured),
        key_gaps_s=_over_videos([video.key_gaps_s for video in measured]),
        key_gaps_frames=_over_videos([video.key_gaps_frames for video in measured]),
        decoded_per_wanted=fmean(costs) if costs else None,
        heads=class_balance(manifest),
    )


def _clip_s(sample: Sample, facts: Mapping[str, VideoFacts]) -> float | None:
    """Length of a clip, as far as its video has it; None where the video was not measured."""
    video = facts.get(sample.uri)
    if sample.end_s is None:
        return max(video.duration_s - sample.start_s, 0.0) if video else None
    end_s = min(sample.end_s, video.duration_s) if video else sample.end_s
    return max(end_s - sample.start_s, 0.0)


def _range(values: Sequence[float] | np.ndarray) -> Range:
    return Range(float(np.min(values)), float(np.median(values)), float(np.max(values)))


def _median_and_max(values: np.ndarray) -> tuple[float, float]:
    return float(np.median(values)), float(np.max(values))


def _over_videos(gaps: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    if not gaps:
        return None
    return median(middle for middle, _ in gaps), max(longest for _, longest in gaps)


def _counts(values: Iterable[str]) -> dict[str, int]:
    """Value -> how often, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))
