"""A copy of a data set for training: small H.264 files with a key frame about every second.

To read a clip of a web video, everything since the last key frame is decoded, often ten seconds or more, at
a size that is then scaled down. The copy is encoded once so that this is not done in every epoch. What is
shown at a timestamp does not change: frames keep their times, and are upright.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, cast

import av

from kineray import storage
from kineray.data.derive.parallel import map_in_processes
from kineray.data.derive.stats import decoded_per_wanted, pick_uris
from kineray.data.derive.validate import drop_samples
from kineray.data.manifest.manifest import FILE_NAME, Manifest
from kineray.data.manifest.sizes import record_sizes
from kineray.errors import DecodeError, ManifestError, StorageError
from kineray.storage import s3
from kineray.storage.os_errors import os_errors_about
from kineray.video import index_video, is_frames_uri
from kineray.video.encode import Settings, encode
from kineray.video.losses import Losses

SETTINGS_FILE = "reencode.json"
TRIED = 6  # videos that are encoded for an estimate
TRIED_S = 10.0  # seconds of each of them
_SPARE = 1.1  # factor by which the free disk space must exceed the estimate
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}


@dataclass(frozen=True)
class Job:
    """One video: its URI, that of its copy, and whether the copy is there already."""

    uri: str
    target: str
    is_done: bool


@dataclass(frozen=True)
class Plan:
    """The copies to make. ``kept``: number of folders of frames, which are not copied."""

    folder: str
    settings: Settings
    jobs: tuple[Job, ...]
    kept: int

    @property
    def remaining(self) -> tuple[Job, ...]:
        """The jobs that are not done."""
        return tuple(job for job in self.jobs if not job.is_done)

    @property
    def manifest(self) -> str:
        """The URI of the manifest of the copies."""
        return storage.join(self.folder, FILE_NAME)


@dataclass(frozen=True)
class Estimate:
    """What the copies of ``videos`` videos will cost and save, estimated from ``tried`` of them.

    ``seconds``: with all decoders; ``decoded_before``, ``decoded_after``: frames that are decoded for each
    wanted frame of a random 2 s clip; ``pixels``: size of the frames of a copy, as a fraction of the
    source's.
    """

    tried: int
    videos: int
    seconds: float
    bytes_before: float
    bytes_after: float
    decoded_before: float
    decoded_after: float
    pixels: float


@dataclass(frozen=True)
class Copies:
    """The result of ``make_copies``: the manifest of the copies, ``PacketIndex.to_bytes`` by URI, the errors
    of videos by URI, and where the sources of others are ``damaged``: the copy shows the frame before."""

    manifest: Manifest
    indexes: Mapping[str, bytes]
    failures: Mapping[str, DecodeError]
    damaged: Mapping[str, str]


def plan(manifest: Manifest, manifest_uri: str, folder: str, settings: Settings) -> Plan:
    """Which videos are copied where below ``folder``, local or on S3. Writes nothing.

    Raises ManifestError if the folder contains the sources, or copies of another data set or with other
    settings.
    """
    uris = list(dict.fromkeys(manifest.columns.column("uri").to_pylist()))
    videos = [uri for uri in uris if not is_frames_uri(uri)]
    if not videos:
        raise ManifestError(
            "all its videos are folders of frames, which need no training copy",
            code="nothing_to_copy",
            key=manifest_uri,
        )
    folder = storage.absolute(folder).rstrip("/")
    source = storage.absolute(manifest_uri)
    root = source.rpartition("/")[0] if source.endswith(".parquet") else source.rstrip("/")
    names = target_names(videos, root)
    targets = {uri: storage.join(folder, names[uri]) for uri in videos}
    taken = set(uris) & set(targets.values())
    if taken or root == folder:
        raise _folder_taken("contains the videos themselves", folder)
    made = _made_with(folder)
    wanted = _about(manifest, settings)
    for name, value in made.items() if made else ():
        if wanted.get(name) != value:
            raise ManifestError(
                f"its copies were made with {name} {value}, not {wanted.get(name)}",
                code="other_settings",
                key="out",
                value=folder,
                remedy=f"give the same `{name}`, or name another folder",
            )
    present = set(storage.list_files(folder))
    if made is None and present & set(names.values()):
        raise _folder_taken("contains videos that are not copies", folder)
    jobs = tuple(Job(uri, targets[uri], names[uri] in present) for uri in videos)
    return Plan(folder, settings, jobs, len(uris) - len(videos))


def target_names(uris: Sequence[str], root: str) -> dict[str, str]:
    """Paths of the copies relative to the new folder: those of the videos below ``root``, but ending in .mp4.

    Videos elsewhere are named from the folder that they all share. If several would have the same name, a
    hash of the URI is added to each.
    """
    outside = [uri.split("/")[:-1] for uri in uris if not uri.startswith(f"{root}/")]
    shared = 0
    while outside and all(len(parts) > shared and parts[shared] == outside[0][shared] for parts in outside):
        shared += 1
    names = {}
    for uri in uris:
        inside = uri.startswith(f"{root}/")
        path = uri.removeprefix(f"{root}/") if inside else "/".join(uri.split("/")[shared:])
        names[uri] = str(PurePosixPath(path).with_suffix(".mp4"))
    counts = Counter(names.values())
    for uri, name in names.items():
        if counts[name] > 1 or name in (FILE_NAME, SETTINGS_FILE):
            digest = hashlib.sha256(uri.encode()).hexdigest()[:12]
            names[uri] = f"{name.removesuffix('.mp4')}-{digest}.mp4"
    return names


def estimate(planned: Plan, *, decoders: int = 1) -> Estimate:
    """Estimate what the copies cost from the first seconds of a few videos, which are encoded.

    Raises ManifestError if none of them can be encoded.
    """
    uris = [job.uri for job in planned.remaining]
    sizes = None if any(map(storage.is_remote, uris)) else {uri: _size(uri) for uri in uris}
    tried: list[dict[str, float]] = []
    failure: DecodeError | None = None
    # More than needed, since some may be bad.
    for batch in _batches(pick_uris(uris, 4 * TRIED), TRIED):
        for outcome in map_in_processes(
            _try, batch, decoders=decoders, arguments=lambda uri: (uri, planned.settings)
        ):
            if outcome.error is None:
                tried.append(outcome.result)
            else:
                failure = outcome.error
        if len(tried) >= TRIED // 2:
            break
    if not tried:
        raise _nothing_copied(planned.folder, failure)

    def total(key: str) -> float:
        return sum(one[key] for one in tried)

    before = float(sum(sizes.values())) if sizes else total("bytes_before") / len(tried) * len(uris)
    scale = before / total("bytes_before")
    return Estimate(
        tried=len(tried),
        videos=len(uris),
        seconds=total("seconds") * scale / max(min(decoders, len(uris)), 1),
        bytes_before=before,
        bytes_after=total("bytes_after") * scale,
        decoded_before=total("decoded_before") / len(tried),
        decoded_after=total("decoded_after") / len(tried),
        pixels=total("pixels") / len(tried),
    )


def check_space(needed: Estimate, folder: str) -> None:
    """Raise StorageError unless the disk of ``folder`` has the space that the copies need."""
    if storage.is_remote(folder):
        return
    existing = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed.bytes_after * _SPARE:
        raise StorageError(
            f"about {needed.bytes_after / 1e9:.1f} GB are needed, but {free / 1e9:.1f} GB are free",
            code="disk_full",
            key=folder,
            remedy="free some space, or name another folder as `out`",
        )


def make_copies(
    manifest: Manifest,
    planned: Plan,
    *,
    decoders: int = 1,
    progress: Callable[[int, int, int], None] | None = None,
) -> Copies:
    """Encode the copies that are not there yet; each one gets its name when it is complete.

    Samples of videos that fail are named in ``missing`` of the new manifest. ``progress`` is called with
    (videos done, all videos, videos failed). Raises ManifestError if no video can be copied.
    """
    about = json.dumps(_about(manifest, planned.settings), indent=2) + "\n"
    storage.write_bytes(storage.join(planned.folder, SETTINGS_FILE), about.encode())
    failures: dict[str, DecodeError] = {}
    indexes: dict[str, bytes] = {}
    damaged: dict[str, str] = {}

    def arguments(job: Job) -> tuple[Any, ...]:
        return job.uri, job.target, job.is_done, planned.settings

    for outcome in map_in_processes(
        _copy, planned.jobs, decoders=decoders, name=lambda job: job.uri, arguments=arguments
    ):
        if outcome.error is not None:
            failures[outcome.item.uri] = outcome.error
            _temporary(outcome.item.target).unlink(missing_ok=True)
        elif outcome.result is not None:
            indexes[outcome.item.target], where = outcome.result
            if where:
                damaged[outcome.item.uri] = where
        if progress:
            progress(outcome.done, len(planned.jobs), len(failures))
    if len(failures) == len(planned.jobs) and not planned.kept:
        raise _nothing_copied(manifest.name, next(iter(failures.values())))
    bad = frozenset(sample.id for sample in manifest if sample.uri in failures)
    left = drop_samples(manifest, bad) if bad else manifest
    targets = {job.uri: job.target for job in planned.jobs}
    samples = (replace(sample, uri=targets.get(sample.uri, sample.uri)) for sample in left)
    return Copies(record_sizes(left.with_samples(samples)), indexes, failures, damaged)


# -- in a child process -----------------------------------------------------------------------------


def _copy(uri: str, target: str, is_done: bool, settings: Settings) -> tuple[bytes, str] | None:
    """Make one copy: its ``PacketIndex.to_bytes``, and where the source is damaged; None if it is on S3."""
    if is_done:
        return None if storage.is_remote(target) else (index_video(target).to_bytes(), "")
    with storage.video_source(uri) as source, _explained(uri, target):
        if storage.is_remote(target):
            with TemporaryDirectory(prefix="kineray-") as folder:
                local = Path(folder, "copy.mp4")
                before, index = encode(source, local, settings)
                bucket, key = s3.bucket_and_key(target)
                s3.call(target, "upload_file", Filename=str(local), Bucket=bucket, Key=key)
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            local = _temporary(target)
            try:
                before, index = encode(source, local, settings)
                local.replace(target)
            finally:
                local.unlink(missing_ok=True)
    losses = Losses(before)
    return index.to_bytes(), str(losses) if losses else ""


def _try(uri: str, settings: Settings) -> dict[str, float]:
    """What encoding the whole of one video would cost, estimated from its first seconds."""
    with (
        storage.video_source(uri) as source,
        TemporaryDirectory(prefix="kineray-") as folder,
        _explained(uri, folder),
    ):
        target = Path(folder, "try.mp4")
        start = time.monotonic()
        before, after = encode(source, target, settings, limit_s=TRIED_S)
        seconds = time.monotonic() - start
        scale = max(before.duration_s / after.duration_s, 1.0) if after.duration_s else 1.0
        return {
            "seconds": seconds * scale,
            "bytes_before": float(_size(source)),
            "bytes_after": target.stat().st_size * scale,
            "decoded_before": decoded_per_wanted(before),
            "decoded_after": decoded_per_wanted(after),
            "pixels": after.width * after.height / (before.width * before.height),
        }


@contextmanager
def _explained(uri: str, target: str) -> Iterator[None]:
    """Distinguish a file that cannot be encoded from a disk that cannot be written."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            with os_errors_about(target):
                raise
        problem = f"cannot be encoded ({error.strerror})"
        raise DecodeError(problem, code="codec_unsupported", key=uri) from None


# -- small things -----------------------------------------------------------------------------------


def _about(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    return {"version": 1, "dataset": manifest.name, **asdict(settings)}


def _made_with(folder: str) -> dict[str, Any] | None:
    """The settings with which the copies in a folder were made, or None if there are none."""
    path = storage.join(folder, SETTINGS_FILE)
    if not storage.exists(path):
        return None
    try:
        made = json.loads(storage.read_bytes(path))
        return dict(made)
    except (ValueError, TypeError):
        raise ManifestError(
            "not written by kineray",
            code="folder_taken",
            key=path,
            remedy="name another folder as `out`",
        ) from None


def _folder_taken(problem: str, folder: str) -> ManifestError:
    return ManifestError(problem, code="folder_taken", key="out", value=folder, remedy="name another folder")


def _nothing_copied(name: str, error: DecodeError | None) -> ManifestError:
    return ManifestError(
        f"no video can be copied, the first one because of {error}", code="nothing_decodable", key=name
    )


def _temporary(target: str) -> Path:
    path = Path(target)
    return path.with_name(f".{path.name}.tmp")


def _size(source: object) -> int:
    """Size of a file in bytes; 0 if it does not exist."""
    if isinstance(source, str | Path):
        return Path(source).stat().st_size if Path(source).exists() else 0
    file = cast(Any, source)
    return int(file.seek(0, os.SEEK_END))


def _batches(uris: Sequence[str], size: int) -> list[Sequence[str]]:
    return [uris[first : first + size] for first in range(0, len(uris), size)]
