"""``kineray.data.validate``, ``stats``, ``split``, ``reencode`` and ``flow``.

Each reads the manifest at a URI, does the work in decoding processes, and writes what it makes.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kineray import storage
from kineray.data.clips.decoding import usable_cores
from kineray.data.derive import flow as flows
from kineray.data.derive import reencode as copies
from kineray.data.derive import stats as measures
from kineray.data.derive import validate as checks
from kineray.data.importers.dataset import check_manifest_name
from kineray.data.manifest import division, index_cache
from kineray.data.manifest.index_cache import IndexCache
from kineray.data.manifest.manifest import FILE_NAME, Manifest, load_manifest, save_manifest
from kineray.data.manifest.names import regroup
from kineray.errors import DecodeError
from kineray.video import encode

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class SplitCheck:
    """One split after a check: numbers of usable and bad samples, and of clips that the annotations list."""

    split: str
    usable: int
    bad: int
    listed: int


@dataclass(frozen=True)
class ValidationReport:
    """What ``validate`` found. ``quarantine``: URI of the CSV file of the problems; ``clean``: of the
    manifest without the bad samples, if it was asked for; ``codes``: error code -> number of samples, the
    most frequent first; ``damaged``: where videos of which most can be used are damaged, by URI.
    """

    manifest: str
    quarantine: str
    clean: str | None
    videos: int
    seconds: float
    videos_per_s: float
    bad_samples: int
    codes: Mapping[str, int]
    splits: tuple[SplitCheck, ...]
    problems: tuple[checks.Problem, ...]
    damaged: Mapping[str, str]


@dataclass(frozen=True)
class StatsReport(measures.Stats):
    """``Stats`` of the data set at ``manifest``, whose content has ``hash``."""

    manifest: str
    name: str
    hash: str


@dataclass(frozen=True)
class SplitManifest:
    """The manifest that ``split`` wrote. ``leaks``: divided groups that are in other splits too."""

    manifest: str
    name: str
    hash: str
    splits: tuple[division.SplitReport, ...]
    leaks: tuple[str, ...]


@dataclass(frozen=True)
class ReencodedCopy:
    """What ``reencode`` made, or would make.

    ``manifest``: of the copies, with the ``hash`` of its content (None if nothing was written).
    ``estimate``: None if it was not asked for or nothing is left to do. ``copies``: number of the ``videos``
    of which there is a copy now; ``kept``: of folders of frames, which are not copied. ``failed``: URI ->
    reason; ``damaged``: where copied videos are damaged, by URI: there the copy shows the frame before.
    """

    manifest: str
    hash: str | None
    estimate: copies.Estimate | None
    videos: int
    copies: int
    kept: int
    seconds: float
    failed: Mapping[str, str]
    damaged: Mapping[str, str]


@dataclass(frozen=True)
class FlowCopy:
    """What ``flow`` made: the manifest with the flow of ``videos`` videos. ``failed``: URI -> reason."""

    manifest: str
    hash: str
    videos: int
    seconds: float
    failed: Mapping[str, str]


def validate(
    manifest: str | Path,
    *,
    full: bool = False,
    out: str | None = None,
    clean: str | None = None,
    decoders: int | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Open every video of a manifest, and list the damaged ones and the samples outside their videos.

    ``full``: decode every frame, not only the first, middle and last one. ``out``: the quarantine list, by
    default beside the manifest. ``clean``: the file to which a manifest without the bad samples is written,
    which are missing clips there. ``decoders``: number of processes, by default one per core. ``progress`` is
    called with (videos done, all videos, bad videos). The packet indexes of the good videos are written
    beside the manifests, so that training and evaluation need not compute them. Raises ManifestError,
    StorageError.
    """
    uri = str(manifest)
    if clean is not None:
        check_manifest_name("clean", clean)
    loaded = load_manifest(uri)
    start = time.monotonic()
    found = checks.validate(loaded, full=full, decoders=decoders or usable_cores(), progress=progress)
    seconds = time.monotonic() - start
    quarantine = out or checks.quarantine_path(uri)
    checks.write_quarantine(found.problems, quarantine)
    if found.indexes:
        index_cache.write(uri, found.indexes)
    bad = found.bad_samples
    if clean is not None:
        _write_clean(checks.drop_samples(loaded, bad), clean, found.indexes)
    bad_in = Counter(sample.split for sample in loaded if sample.id in bad) if bad else Counter[str]()
    return ValidationReport(
        manifest=uri,
        quarantine=quarantine,
        clean=clean,
        videos=found.videos,
        seconds=seconds,
        videos_per_s=found.videos / seconds,
        bad_samples=len(bad),
        codes=found.codes,
        splits=tuple(
            SplitCheck(split, loaded.found.get(split, 0) - bad_in[split], bad_in[split], listed)
            for split, listed in loaded.listed.items()
        ),
        problems=found.problems,
        damaged=found.damaged,
    )


def stats(
    manifest: str | Path,
    *,
    sample: int | None = None,
    decoders: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> StatsReport:
    """Measure a data set: hours, sizes, frame rates, classes, key frames. Only first frames are decoded.

    ``sample``: measure only this many videos, always the same ones. Indexes beside the manifest are used.
    ``decoders``: number of processes, by default one per core. ``progress`` is called with (videos done, all
    videos). Raises ManifestError, StorageError.
    """
    uri = str(manifest)
    loaded = load_manifest(uri)
    found = measures.stats(
        loaded,
        sample=sample,
        indexes=IndexCache.beside(uri),
        decoders=decoders or usable_cores(),
        progress=progress,
    )
    return StatsReport(found.splits, found.unreadable, uri, loaded.name, loaded.content_hash)


def split(
    manifest: str | Path,
    out: str,
    *,
    val: float = 0.1,
    test: float = 0.0,
    source: Sequence[str] = ("train",),
    group_by: str | None = None,
    seed: int = 0,
) -> SplitManifest:
    """Write to ``out`` the manifest divided into train, val and test so that no group is in two of them.

    ``val`` and ``test``: shares of the samples of the splits ``source``, the first of which keeps the rest;
    classes are distributed as evenly as the groups (videos, persons) allow. ``group_by``: a regular
    expression; what it finds in the path of a video, or its own groups, becomes the group (None: as
    imported). Raises ManifestError, StorageError.
    """
    check_manifest_name("out", out)
    loaded = load_manifest(manifest)
    grouped = regroup(loaded, group_by) if group_by else loaded
    divided = division.divide(grouped, {"val": val, "test": test}, source=source, seed=seed)
    made = divided.manifest
    save_manifest(made, out)
    return SplitManifest(out, made.name, made.content_hash, divided.splits, divided.leaks)


def reencode(
    manifest: str | Path,
    out: str,
    *,
    short_side: int = encode.Settings.short_side,
    key_frames: int = encode.Settings.key_frames,
    crf: int = encode.Settings.crf,
    decoders: int | None = None,
    dry_run: bool = False,
    confirm: Callable[[copies.Estimate], bool] | None = None,
    progress: Progress | None = None,
) -> ReencodedCopy:
    """Make a training copy of a data set in the folder ``out``: small H.264 files with many key frames.

    ``short_side``: in pixels, smaller videos are not enlarged; ``key_frames``: frames from one key frame to
    the next; ``crf``: the quality of x264, lower is better. Ids, labels, splits and times stay the same. If
    the call is repeated, it continues where it stopped. ``dry_run``: only estimate, by encoding parts of a
    few videos, what the copies would cost and save. ``confirm`` is called with that estimate; if it returns
    False, nothing is written. ``decoders``: number of processes, by default one per core. ``progress`` is
    called with (videos done, all videos, videos failed). Raises ManifestError, and StorageError, also if
    there is not enough space.
    """
    uri, decoders = str(manifest), decoders or usable_cores()
    loaded = load_manifest(uri)
    plan = copies.plan(loaded, uri, out, encode.Settings(short_side, key_frames, crf))
    is_asked_for = dry_run or confirm is not None
    estimate = copies.estimate(plan, decoders=decoders) if is_asked_for and plan.remaining else None
    if dry_run or (estimate and confirm and not confirm(estimate)):
        done = len(plan.jobs) - len(plan.remaining)
        return ReencodedCopy(plan.manifest, None, estimate, len(plan.jobs), done, plan.kept, 0.0, {}, {})
    if estimate:
        copies.check_space(estimate, plan.folder)
    start = time.monotonic()
    made = copies.make_copies(loaded, plan, decoders=decoders, progress=progress)
    save_manifest(made.manifest, plan.manifest)
    if made.indexes:
        index_cache.write(plan.manifest, made.indexes)
    return ReencodedCopy(
        manifest=plan.manifest,
        hash=made.manifest.content_hash,
        estimate=estimate,
        videos=len(plan.jobs),
        copies=len(plan.jobs) - len(made.failures),
        kept=plan.kept,
        seconds=time.monotonic() - start,
        failed=_reasons(made.failures),
        damaged=made.damaged,
    )


def flow(
    manifest: str | Path,
    out: str,
    *,
    fps: float | None = flows.Settings.fps,
    bound: float = flows.Settings.bound,
    short_side: int = flows.Settings.short_side,
    decoders: int | None = None,
    progress: Progress | None = None,
) -> FlowCopy:
    """Compute the optical flow of the videos of a manifest, as images of u and v in the folder ``out``.

    ``fps``: frames of flow per second, by default the frame rate of the video; ``bound``: the largest motion
    that can be stored, in pixels per frame; ``short_side``: in pixels, to which larger videos are scaled down
    first. The manifest that is written in ``out`` names the videos and their flow, so it can be used to train
    models of RGB, of flow and of both. If the call is repeated, it continues where it stopped. ``decoders``:
    number of processes, by default one per core. ``progress`` is called with (flow frames done, all flow
    frames, videos failed). Raises ConfigError without OpenCV, ManifestError, StorageError.
    """
    uri, start = str(manifest), time.monotonic()
    settings = flows.Settings(fps, bound, short_side)
    made = flows.compute_flow(
        load_manifest(uri), uri, out, settings, decoders=decoders or usable_cores(), progress=progress
    )
    target = storage.join(out, FILE_NAME)
    save_manifest(made.manifest, target)
    return FlowCopy(
        manifest=target,
        hash=made.manifest.content_hash,
        videos=len(set(made.manifest.columns.column("flow").to_pylist())),
        seconds=time.monotonic() - start,
        failed=_reasons(made.failures),
    )


def _write_clean(good: Manifest, uri: str, indexes: Mapping[str, bytes]) -> None:
    save_manifest(good, uri)
    if indexes:
        remaining = set(good.columns.column("uri").to_pylist()) & indexes.keys()
        index_cache.write(uri, {video: indexes[video] for video in remaining})


def _reasons(failures: Mapping[str, DecodeError]) -> dict[str, str]:
    return {uri: f"{error.code}: {error}" for uri, error in sorted(failures.items())}
