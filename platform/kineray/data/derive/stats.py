"""What a data set contains, split by split, and what it costs to read clips from its videos."""

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

CLIP_S = 2.0  # length of the clips for which the cost of reading is reported
COPY_WORTHWHILE = 2.0  # decoded frames per wanted frame from which a training copy is worthwhile
_PROBES = 33  # clips per video for which the cost is computed


@dataclass(frozen=True)
class VideoFacts:
    """One video. ``key_gaps_s``, ``key_gaps_frames``: median and longest distance between key frames.

    ``decoded_per_wanted``: frames to decode for each frame of a clip of ``CLIP_S`` seconds with a random
    start.
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
    """Minimum, median and maximum of some numbers."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class ClassBalance:
    """One head of one split. ``classes``: number of classes; ``labelled``: number of clips with a known
    label, or of actions of persons in boxes; ``per_class``: clips per class, over the classes that have any;
    ``imbalance``: its max / min; ``absent``: names of the classes without clips."""

    head: str
    classes: int
    labelled: int
    per_class: Range | None
    imbalance: float | None
    absent: tuple[str, ...]


@dataclass(frozen=True)
class SplitStats:
    """One split. ``clips``: number of samples; ``missing``: of clips that were not found; ``measured``: of
    videos that were measured, from which ``sizes``, ``frame_rates`` and ``codecs`` (value -> videos) and all
    below are computed. None if no video was measured.

    ``clip_hours``: total length of all clips, estimated from the measured ones if clips end with their
    videos. ``clip_s``, ``video_s``: lengths of clips and videos in seconds. ``key_gaps_s``,
    ``key_gaps_frames``: the median over the videos of the median distance between key frames, and the longest
    distance of all.
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
    """A data set. ``unreadable``: URI -> reason, of the videos that could not be measured."""

    splits: tuple[SplitStats, ...]
    unreadable: Mapping[str, str]

    @property
    def decoded_per_wanted(self) -> float | None:
        """The mean over the measured videos of all splits."""
        costs = [(split.decoded_per_wanted, split.measured) for split in self.splits]
        total = sum(cost * videos for cost, videos in costs if cost is not None)
        return total / sum(videos for _, videos in costs) if total else None


def stats(
    manifest: Manifest,
    *,
    sample: int | None = None,
    indexes: "IndexCache | None" = None,
    decoders: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Stats:
    """Measure a data set: the packets of its videos are read, and only first frames are decoded.

    ``sample``: measure only this many videos, always the same ones. The files of videos in ``indexes`` are
    not read. ``progress`` is called with (videos done, all videos). Raises StorageError.
    """
    uris = pick_uris(dict.fromkeys(manifest.columns.column("uri").to_pylist()), sample)
    facts: dict[str, VideoFacts] = {}
    unreadable: dict[str, str] = {}

    def arguments(uri: str) -> tuple[str, bytes | None]:
        return uri, indexes.get(uri) if indexes else None

    for outcome in map_in_processes(_measured, uris, decoders=decoders, arguments=arguments):
        if outcome.error is None:
            facts[outcome.item] = VideoFacts(**outcome.result)
        else:
            unreadable[outcome.item] = f"{outcome.error.code}: {outcome.error}"
        if progress:
            progress(outcome.done, len(uris))
    splits = tuple(_split_stats(manifest.split(name), facts) for name in manifest.found)
    return Stats(splits, dict(sorted(unreadable.items())))


def pick_uris(uris: Iterable[str], count: int | None) -> list[str]:
    """``count`` of the URIs (None: all), always the same ones: they are picked by a hash."""
    everything = list(uris)
    if count is None or count >= len(everything):
        return everything

    def by_name(uri: str) -> bytes:
        # Without the folder, so that a copy of the data set gives the same choice.
        return hashlib.sha256(uri.rpartition("/")[2].encode()).digest()

    return sorted(everything, key=by_name)[:count]


def measure(uri: str, index: PacketIndex | None = None) -> VideoFacts:
    """Measure one video without decoding it. Raises DecodeError and StorageError.

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
    """The facts of a folder of frames, in which every frame can be decoded alone."""
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
    """Distances from each key frame to the next, or to the end: seconds, float64 [K]; frames, int64 [K]."""
    keys_s = index.key_frame_times_s
    keys_s = keys_s[keys_s >= 0] if (keys_s >= 0).any() else np.zeros(1)
    frames = np.searchsorted(index.times_s, keys_s - 1e-9)
    return np.diff(keys_s, append=index.duration_s), np.diff(frames, append=index.frames)


def decoded_per_wanted(index: PacketIndex, clip_s: float = CLIP_S) -> float:
    """Decoded frames per frame of a clip of ``clip_s`` seconds, for clips spread evenly over the video.

    It is at least 1, for a clip that begins with a key frame. That a decoder can skip frames to which no
    other refers is not taken into account.
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
    """How the clips of a manifest (usually of one split) are distributed over the classes of every head.

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
    """Length of a clip in seconds, up to the end of its video; None if that is not known."""
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
    """Value -> how often it occurs, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))
