"""Open every video of a manifest once, and list those that must not be trained on."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kineray import storage
from kineray.data.derive.parallel import map_in_processes
from kineray.data.manifest.manifest import FILE_NAME, Manifest
from kineray.data.manifest.samples import Sample
from kineray.data.manifest.sizes import changed_sizes
from kineray.errors import DecodeError
from kineray.video import PacketIndex, Source, Video, open_video
from kineray.video.encode import COUNT_TOLERANCE
from kineray.video.losses import Losses, describe
from kineray.video.sequence import every_frame

LATE_END_S = 1.0  # tolerated seconds of a clip after the end of its video: annotations are rounded
_COLUMNS = ("uri", "code", "message", "samples")


@dataclass(frozen=True)
class Problem:
    """Why some samples of one video cannot be used. ``code``: that of a DecodeError, ``span`` (they are not
    inside the video) or ``changed`` (the file is not the one that was imported)."""

    uri: str
    code: str
    message: str
    samples: tuple[str, ...]


@dataclass(frozen=True)
class Validation:
    """The result of ``validate``. ``videos``: number of files that were opened, including folders of flow;
    ``indexes``: URI -> ``PacketIndex.to_bytes``, of files that can be used; ``damaged``: where files of which
    most can be used are damaged, by URI. The frame before is shown there."""

    videos: int
    problems: tuple[Problem, ...]
    indexes: Mapping[str, bytes]
    damaged: Mapping[str, str]

    @property
    def codes(self) -> dict[str, int]:
        """Code -> number of samples, the most frequent first."""
        counts: Counter[str] = Counter()
        for problem in self.problems:
            counts[problem.code] += len(problem.samples)
        return dict(counts.most_common())

    @property
    def bad_samples(self) -> frozenset[str]:
        """Ids of the samples that cannot be used."""
        return frozenset(name for problem in self.problems for name in problem.samples)


def validate(
    manifest: Manifest,
    *,
    full: bool = False,
    decoders: int = 1,
    progress: Callable[[int, int, int], None] | None = None,
) -> Validation:
    """Open every distinct video, and the flow beside it, in a process that it may hang or crash, and check
    the spans of the samples.

    The first, middle and last frame are decoded, or with ``full`` all frames. ``progress`` is called with
    (videos done, all videos, bad videos). Raises StorageError if a bucket cannot be reached.
    """
    columns = manifest.columns
    named = [*columns.column("uri").to_pylist(), *columns.column("flow").to_pylist()]
    uris = list(dict.fromkeys(filter(None, named)))
    failures: dict[str, DecodeError] = {}
    durations_s: dict[str, float] = {}
    indexes: dict[str, bytes] = {}
    spans_s: dict[str, list[tuple[float, float]]] = {}
    for outcome in map_in_processes(_checked, uris, decoders=decoders, arguments=lambda uri: (uri, full)):
        if outcome.error is not None:
            failures[outcome.item] = outcome.error
        else:
            durations_s[outcome.item] = outcome.result["duration_s"]
            if outcome.result["damaged"]:
                spans_s[outcome.item] = outcome.result["damaged"]
            if outcome.result["index"] is not None:
                indexes[outcome.item] = outcome.result["index"]
        if progress:
            progress(outcome.done, len(uris), len(failures))
    changed = changed_sizes(manifest)
    problems: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for sample in manifest:
        bad = next((uri for uri in (sample.uri, sample.flow) if uri in failures), None)
        if bad is not None:
            message = str(failures[bad]).removeprefix(f"{bad}: ")
            problems[bad, failures[bad].code, message].append(sample.id)
        elif sample.uri in changed:
            recorded, current = changed[sample.uri]
            message = f"the file has {current} bytes, but had {recorded} when it was imported"
            problems[sample.uri, "changed", message].append(sample.id)
        elif outside := outside_of(sample, durations_s[sample.uri]):
            problems[sample.uri, "span", outside].append(sample.id)
        elif is_lost(sample, spans_s.get(sample.uri, []), durations_s[sample.uri]):
            problems[sample.uri, "truncated", describe(spans_s[sample.uri])].append(sample.id)
        elif sample.flow and (short := short_of(sample, durations_s[sample.uri], durations_s[sample.flow])):
            problems[sample.flow, "span", short].append(sample.id)
    return Validation(
        len(uris),
        tuple(Problem(*key, tuple(names)) for key, names in problems.items()),
        indexes,
        {uri: describe(spans) for uri, spans in spans_s.items()},
    )


def check_video(source: Source, *, full: bool = False) -> tuple[float, PacketIndex | None]:
    """Decode the first, middle and last frame of a video, or with ``full`` all; (duration in s, index).

    Folders of frames have no index; damage that is found is marked in it. Raises DecodeError, also
    (``wrong_frame_count``) for an AVI file whose number of slots for frames differs by more than 1 % from its
    header, which is often not exact.
    """
    with open_video(source) as video:
        info = video.info
        video.read([0.0, info.duration_s / 2, np.inf], size=(16, 16))
        if not isinstance(video, Video):
            return info.duration_s, None
        index = video.losses.marked()
    announced, slots = index.announced, int(index.shown_pts[-1]) + index.last_duration
    if announced is not None and abs(announced - slots) > max(announced * COUNT_TOLERANCE, 1):
        raise DecodeError(
            f"its header announces {announced} frames, but it has {slots}",
            code="wrong_frame_count",
            key=video.name,
        )
    if full:
        losses = Losses(index)
        decoded = sum(1 for _ in every_frame(source, index, losses))
        losses.check(video.name, index.times_s)
        if decoded != index.frames and not losses:
            raise DecodeError(
                f"{index.frames} frames are stored, but {decoded} can be decoded",
                code="wrong_frame_count",
                key=video.name,
            )
        index = losses.marked()
    return index.duration_s, index


def is_lost(sample: Sample, spans_s: Sequence[tuple[float, float]], duration_s: float) -> bool:
    """Whether more than half of the span of a sample is in damaged stretches of its video."""
    end_s = duration_s if sample.end_s is None else min(sample.end_s, duration_s)
    lost_s = sum(max(min(end, end_s) - max(start, sample.start_s), 0) for start, end in spans_s)
    return lost_s > (end_s - sample.start_s) / 2


def outside_of(sample: Sample, duration_s: float) -> str | None:
    """How the span of a sample is outside its video of ``duration_s`` seconds; None if it is inside."""
    start_s, end_s = sample.start_s, sample.end_s
    if end_s is not None and end_s < start_s:
        return f"the clip ends at {end_s:.2f} s, before its start at {start_s:.2f} s"
    if start_s < 0 or (start_s > 0 and start_s >= duration_s):
        return f"the clip starts at {start_s:.2f} s, but the video lasts {duration_s:.2f} s"
    if end_s is not None and end_s > duration_s + LATE_END_S:
        return f"the clip ends at {end_s:.2f} s, but the video lasts {duration_s:.2f} s"
    return None


def short_of(sample: Sample, duration_s: float, flow_s: float) -> str | None:
    """How the flow of a video of ``duration_s`` seconds ends before the sample does; None if it does not.

    Flow always ends a few frames before its video.
    """
    end_s = duration_s if sample.end_s is None else min(sample.end_s, duration_s)
    if end_s > flow_s + LATE_END_S:
        return f"the clip ends at {end_s:.2f} s, but the flow lasts {flow_s:.2f} s"
    return None


def drop_samples(manifest: Manifest, bad: frozenset[str]) -> Manifest:
    """The manifest without the samples with ids ``bad``, which are named in ``missing`` instead."""
    keep: list[int] = []
    missing = {split: list(names) for split, names in manifest.missing.items()}
    for row, sample in enumerate(manifest):
        if sample.id in bad:
            missing.setdefault(sample.split, []).append(sample.id)
        else:
            keep.append(row)
    samples = manifest.columns.take(np.array(keep, np.int64))
    return replace(
        manifest, samples=samples, missing={split: tuple(names) for split, names in missing.items()}
    )


def quarantine_path(manifest_uri: str | Path) -> str:
    """The URI of the list of a manifest's bad videos: ``<stem of the manifest>.quarantine.csv`` beside it."""
    uri = str(manifest_uri)
    if not uri.endswith(".parquet"):
        uri = storage.join(uri, FILE_NAME)
    return f"{uri.removesuffix('.parquet')}.quarantine.csv"


def write_quarantine(problems: Sequence[Problem], path: str) -> None:
    """Write a CSV with a row for each problem; the ids of its samples are separated by ``|``.

    It is written even if there are no problems, so that an older list is not taken for the new one.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for problem in problems:
        writer.writerow([problem.uri, problem.code, problem.message, " | ".join(problem.samples)])
    storage.write_bytes(path, text.getvalue().encode())


def _checked(uri: str, full: bool) -> dict[str, Any]:
    with storage.video_source(uri) as source:
        duration_s, index = check_video(source, full=full)
    if index is None:
        return {"duration_s": duration_s, "index": None, "damaged": []}
    return {"duration_s": duration_s, "index": index.to_bytes(), "damaged": Losses(index).spans_s()}
