"""A copy of a data set for training: small H.264 files with a key frame every second or so.

A clip of a web video is read by decoding everything since the last key frame, often ten seconds and more,
at a size that is then thrown away. The copy is encoded once so that this need not be done in every epoch.
What a clip shows at a time does not change: frames keep their times, and stand upright.
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
from kineray.data.derive.stats import decoded_per_wanted, some
from kineray.data.derive.validate import drop_samples
from kineray.data.manifest.manifest import FILE_NAME, Manifest
from kineray.data.manifest.sizes import record_sizes
from kineray.errors import DecodeError, ManifestError, StorageError
from kineray.storage import s3
from kineray.video import index_video, is_frames_uri
from kineray.video.encode import Settings, encode

SETTINGS_FILE = "reencode.json"
TRIED = 6  # videos that are encoded for an estimate
TRIED_S = 10.0  # of each of them
_SPARE = 1.1  # how much more disk space than estimated must be free
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}


@dataclass(frozen=True)
class Job:
    """One video: where it lies, where its copy goes, and whether that is there already."""

    uri: str
    target: str
    is_done: bool


@dataclass(frozen=True)
class Plan:
    """What is to be done. ``kept``: frame folders, of which no copy is made."""

    folder: str
    settings: Settings
    jobs: tuple[Job, ...]
    kept: int

    @property
    def todo(self) -> tuple[Job, ...]:
        """The jobs that are not done."""
        return tuple(job for job in self.jobs if not job.is_done)

    @property
    def manifest(self) -> str:
        """Where the manifest of the copies is written."""
        return storage.join(self.folder, FILE_NAME)


@dataclass(frozen=True)
class Estimate:
    """What the jobs to do will cost and save, from ``tried`` videos.

    ``seconds`` with all workers; ``decoded_before`` and ``decoded_after``: frames that are decoded for
    each wanted frame of a random 2 s clip; ``pixels``: size of a copy's frames, of the source's.
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
    """The outcome: a manifest of the copies, URI -> ``PacketIndex.to_bytes``, and the videos that failed."""

    manifest: Manifest
    indexes: Mapping[str, bytes]
    failures: Mapping[str, DecodeError]


def plan(manifest: Manifest, manifest_uri: str, folder: str, settings: Settings) -> Plan:
    """Which videos are copied to where below ``folder``, local or on S3. Writes nothing.

    Raises ManifestError where the folder holds the sources, or copies of another set or other settings.
    """
    uris = list(dict.fromkeys(manifest.columns.column("uri").to_pylist()))
    videos = [uri for uri in uris if not is_frames_uri(uri)]
    if not videos:
        raise ManifestError(f"{manifest_uri}: its videos are folders of frames, which need no training copy")
    folder = storage.absolute(folder).rstrip("/")
    source = storage.absolute(manifest_uri)
    root = source.rpartition("/")[0] if source.endswith(".parquet") else source.rstrip("/")
    names = target_names(videos, root)
    targets = {uri: storage.join(folder, names[uri]) for uri in videos}
    taken = set(uris) & set(targets.values())
    if taken or root == folder:
        raise ManifestError(f"--out {folder}: the videos themselves lie there; choose another folder")
    made = _made_with(folder)
    wanted = _about(manifest, settings)
    for key, value in made.items() if made else ():
        if wanted.get(key) != value:
            raise ManifestError(
                f"--out {folder}: its copies were made with {key} {value}, not {wanted.get(key)};"
                " choose the same, or another folder"
            )
    present = set(storage.list_files(folder))
    if made is None and present & set(names.values()):
        raise ManifestError(f"--out {folder}: holds videos that are no copies; choose another folder")
    jobs = tuple(Job(uri, targets[uri], names[uri] in present) for uri in videos)
    return Plan(folder, settings, jobs, len(uris) - len(videos))


def target_names(uris: Sequence[str], root: str) -> dict[str, str]:
    """Paths of the copies, relative to the new folder: those of the videos below ``root``, as .mp4.

    Videos that lie elsewhere are named from the folder on that they all share. What would have the name of
    another gets a hash of its URI into its own.
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


def estimate(todo: Plan, *, workers: int = 1) -> Estimate:
    """Encode the beginnings of some videos and reckon what all will take.

    Raises ManifestError where not one of them can be encoded.
    """
    uris = [job.uri for job in todo.todo]
    sizes = None if any(map(storage.is_remote, uris)) else {uri: _size(uri) for uri in uris}
    tried: list[dict[str, float]] = []
    failure: DecodeError | None = None
    # More than are needed, as some may be bad.
    for batch in _batches(some(uris, 4 * TRIED), TRIED):
        for outcome in map_in_processes(
            _try, batch, workers=workers, arguments=lambda uri: (uri, todo.settings)
        ):
            if outcome.error is None:
                tried.append(outcome.result)
            else:
                failure = outcome.error
        if len(tried) >= TRIED // 2:
            break
    if not tried:
        raise ManifestError(f"{todo.folder}: no video can be encoded, such as {failure}")

    def total(key: str) -> float:
        return sum(one[key] for one in tried)

    before = float(sum(sizes.values())) if sizes else total("bytes_before") / len(tried) * len(uris)
    scale = before / total("bytes_before")
    return Estimate(
        tried=len(tried),
        videos=len(uris),
        seconds=total("seconds") * scale / max(min(workers, len(uris)), 1),
        bytes_before=before,
        bytes_after=total("bytes_after") * scale,
        decoded_before=total("decoded_before") / len(tried),
        decoded_after=total("decoded_after") / len(tried),
        pixels=total("pixels") / len(tried),
    )


def check_space(needed: Estimate, folder: str) -> None:
    """Raise StorageError if the disk of ``folder`` has not the space that the copies need."""
    if storage.is_remote(folder):
        return
    existing = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed.bytes_after * _SPARE:
        raise StorageError(
            f"{folder}: about {needed.bytes_after / 1e9:.1f} GB are needed, but {free / 1e9:.1f} GB are free"
        )


def make_copies(
    manifest: Manifest,
    todo: Plan,
    *,
    workers: int = 1,
    progress: Callable[[int, int, int], None] | None = None,
) -> Copies:
    """Encode what is not there yet; each copy appears under its name when it is whole.

    Samples of videos that fail are named in the new manifest's ``missing``. ``progress`` is called with
    (done, of all, failed). Raises ManifestError where not one video can be copied.
    """
    about = json.dumps(_about(manifest, todo.settings), indent=2) + "\n"
    storage.write_bytes(storage.join(todo.folder, SETTINGS_FILE), about.encode())
    failures: dict[str, DecodeError] = {}
    indexes: dict[str, bytes] = {}

    def arguments(job: Job) -> tuple[Any, ...]:
        return job.uri, job.target, job.is_done, todo.settings

    for outcome in map_in_processes(
        _copy, todo.jobs, workers=workers, name=lambda job: job.uri, arguments=arguments
    ):
        if outcome.error is not None:
            failures[outcome.item.uri] = outcome.error
            _temporary(outcome.item.target).unlink(missing_ok=True)
        elif outcome.result is not None:
            indexes[outcome.item.target] = outcome.result
        if progress:
            progress(outcome.done, len(todo.jobs), len(failures))
    if len(failures) == len(todo.jobs) and not todo.kept:
        raise ManifestError(f"{manifest.name}: no video could be copied, such as {_first(failures)}")
    bad = frozenset(sample.id for sample in manifest if sample.uri in failures)
    left = drop_samples(manifest, bad) if bad else manifest
    targets = {job.uri: job.target for job in todo.jobs}
    samples = (replace(sample, uri=targets.get(sample.uri, sample.uri)) for sample in left)
    return Copies(record_sizes(left.with_samples(samples)), indexes, failures)


# -- in a child process -----------------------------------------------------------------------------


def _copy(uri: str, target: str, is_done: bool, settings: Settings) -> bytes | None:
    """Make one copy; returns the bytes of its packet index, or None for one that lies on S3 already."""
    if is_done:
        return None if storage.is_remote(target) else index_video(target).to_bytes()
    with storage.video_source(uri) as source, _explained(uri, target):
        if storage.is_remote(target):
            with TemporaryDirectory(prefix="kineray-") as folder:
                local = Path(folder, "copy.mp4")
                _, index = encode(source, local, settings)
                bucket, key = s3.bucket_and_key(target)
                s3.call(target, "upload_file", Filename=str(local), Bucket=bucket, Key=key)
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            local = _temporary(target)
            try:
                _, index = encode(source, local, settings)
                local.replace(target)
            finally:
                local.unlink(missing_ok=True)
    return index.to_bytes()


def _try(uri: str, settings: Settings) -> dict[str, float]:
    """What encoding the whole of one video would take, from its beginning."""
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
            raise StorageError(f"{target}: {error.strerror}") from None
        problem = f"cannot be encoded ({error.strerror})"
        raise DecodeError(problem, code="codec_unsupported", key=uri) from None


# -- small things -----------------------------------------------------------------------------------


def _about(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    return {"version": 1, "dataset": manifest.name, **asdict(settings)}


def _made_with(folder: str) -> dict[str, Any] | None:
    """What the settings file of a folder says, or None if there is none."""
    path = storage.join(folder, SETTINGS_FILE)
    if not storage.exists(path):
        return None
    try:
        made = json.loads(storage.read_bytes(path))
        return dict(made)
    except (ValueError, TypeError):
        raise ManifestError(f"{path}: not written by kineray; choose another folder") from None


def _temporary(target: str) -> Path:
    path = Path(target)
    return path.with_name(f".{path.name}.tmp")


def _size(source: object) -> int:
    """Bytes of a file; 0 for one that is not there."""
    if isinstance(source, str | Path):
        return Path(source).stat().st_size if Path(source).exists() else 0
    file = cast(Any, source)
    return int(file.seek(0, os.SEEK_END))


def _batches(uris: Sequence[str], size: int) -> list[Sequence[str]]:
    return [uris[first : first + size] for first in range(0, len(uris), size)]


def _first(failures: Mapping[str, DecodeError]) -> str:
    return str(next(iter(failures.values())))
