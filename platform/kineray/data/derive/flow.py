"""Optical flow of a data set, computed once and stored as folders of images in the layout of EPIC-KITCHENS.

    OUT/P01_01/u/frame_0000000001.jpg     motion to the right from frame 1 to frame 2
    OUT/P01_01/v/frame_0000000001.jpg     motion down
    OUT/P01_01/flow.json                  how it was made
    OUT/manifest.parquet                  the same clips as before, with their flow

A motion of f pixels is stored as the grey value round(255 * (f + bound) / (2 * bound)). The method is that of
Farneback (SCIA 2003) in OpenCV, which is about as fast as decoding; TV-L1, with which published flow was
computed, is some ten times slower and slightly sharper.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kineray import storage
from kineray.data.derive.parallel import map_in_processes
from kineray.data.derive.reencode import target_names
from kineray.data.derive.validate import drop_samples
from kineray.data.manifest.manifest import Manifest
from kineray.errors import ConfigError, DecodeError, ManifestError, StorageError
from kineray.storage.os_errors import os_errors_about
from kineray.video import Video, VideoInfo, frames_uri, is_frames_uri, open_video, scaled_size
from kineray.video.frames import parse_frames_uri

ABOUT_FILE = "flow.json"
_NAME = "frame_%010d.jpg"
_PIECE_PIXELS = 60e6  # pixels of flow per call, some 10 s: well below the time limit of a call
_CHUNK = 32  # frames that are read at a time
_QUALITY = 95  # of JPEG


@dataclass(frozen=True)
class Settings:
    """How flow is computed and stored.

    ``fps``: frames per second, None for the frame rate of the video. ``bound``: motion from one frame to the
    next, in pixels, that the ends of the grey scale represent. ``short_side``: in pixels, to which larger
    videos are scaled down first.
    """

    fps: float | None = None
    bound: float = 20.0
    short_side: int = 256


@dataclass(frozen=True)
class Job:
    """One video: its URI, and the folder of its flow."""

    uri: str
    folder: Path

    @property
    def unfinished(self) -> Path:
        """The folder while it is being filled."""
        return self.folder.with_name(f"{self.folder.name}.part")


@dataclass(frozen=True)
class Piece:
    """Flow frames ``first`` to ``last`` (counted from 1) of a video that is read at ``fps``."""

    job: Job
    fps: float
    first: int
    last: int

    @property
    def frames(self) -> int:
        """Number of flow frames."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Flows:
    """The result of ``compute_flow``: the manifest with flow, and the errors of videos by URI."""

    manifest: Manifest
    failures: Mapping[str, DecodeError]


def compute_flow(
    manifest: Manifest,
    manifest_uri: str,
    folder: str | Path,
    settings: Settings,
    *,
    decoders: int = 1,
    progress: Callable[[int, int, int], None] | None = None,
) -> Flows:
    """Write the flow of every video of a manifest below ``folder``, which must be local.

    The folder of a video gets its name when it is complete, and is kept by later calls, so that the same call
    continues where one was stopped. In the new manifest samples have ``flow`` beside their video; samples of
    videos that fail are named in its ``missing``. ``progress`` is called with (flow frames done, all flow
    frames, videos failed). Raises ConfigError without OpenCV, ManifestError for a folder with other flow,
    StorageError.
    """
    opencv()
    jobs = plan(manifest, manifest_uri, folder)
    made = {job: about for job in jobs if (about := _made(job, settings)) is not None}
    failures: dict[str, DecodeError] = {}
    pieces: list[Piece] = []
    for job, measured in _measured([job for job in jobs if job not in made], settings, decoders):
        shutil.rmtree(job.unfinished, ignore_errors=True)
        if isinstance(measured, DecodeError):
            failures[job.uri] = measured
        else:
            made[job] = {**asdict(settings), "fps": measured.fps, "frames": measured.count}
            pieces += _pieces(measured)
    total, done = sum(piece.frames for piece in pieces), 0
    left = Counter(piece.job for piece in pieces)
    for piece, error in _written(pieces, settings, decoders):
        job, done = piece.job, done + piece.frames
        if error is not None:
            failures.setdefault(job.uri, error)
        left[job] -= 1
        if left[job] == 0 and job.uri in failures:
            shutil.rmtree(job.unfinished, ignore_errors=True)
        elif left[job] == 0:
            _finish(job, made[job])
        if progress:
            progress(done, total, len(failures))
    if len(failures) == len(jobs):
        raise ManifestError(
            f"no flow could be computed, the first video because of {next(iter(failures.values()))}",
            code="nothing_decodable",
            key=manifest.name,
        )
    bad = frozenset(sample.id for sample in manifest if sample.uri in failures)
    uris = {job.uri: _flow_uri(job, made[job]) for job in jobs if job.uri not in failures}
    rest = drop_samples(manifest, bad) if bad else manifest
    samples = (replace(sample, flow=uris[sample.uri]) for sample in rest)
    return Flows(rest.with_samples(samples), failures)


def plan(manifest: Manifest, manifest_uri: str, folder: str | Path) -> list[Job]:
    """Where the flow of each distinct video goes. Raises ManifestError and StorageError."""
    if storage.is_remote(folder):
        raise StorageError(
            "folders of frames must be on a local disk", code="not_local", key="out", value=folder
        )
    folder = Path(folder).absolute()
    uris = list(dict.fromkeys(manifest.columns.column("uri").to_pylist()))
    # The flow of a folder of frames is named after the folder, not after its images.
    videos = {uri: uri for uri in uris}
    for uri in filter(is_frames_uri, uris):
        parsed = parse_frames_uri(uri)
        if parsed.bound is not None:
            raise ManifestError(
                "already optical flow", code="wrong_modality", key=uri, remedy="name a manifest of RGB videos"
            )
        videos[uri] = parsed.pattern.rpartition("/")[0]
    source = storage.absolute(manifest_uri)
    root = source.rpartition("/")[0] if source.endswith(".parquet") else source.rstrip("/")
    if root == str(folder):
        raise ManifestError(
            "contains the manifest of the videos",
            code="folder_taken",
            key="out",
            value=folder,
            remedy="name another folder",
        )
    names = target_names(list(dict.fromkeys(videos.values())), root)
    jobs = []
    for uri in uris:
        # Braces have a meaning in patterns of frames: {u,v}.
        name = names[videos[uri]].removesuffix(".mp4").replace("{", "(").replace("}", ")")
        jobs.append(Job(uri, folder / name))
    for job_folder, count in Counter(job.folder for job in jobs).items():
        if count > 1:
            raise ManifestError(
                f"would contain the flow of {count} videos",
                code="folder_taken",
                key=job_folder,
                remedy="rename one of the videos",
            )
    return jobs


def opencv() -> Any:
    """The cv2 module. Raises ConfigError if it is not installed."""
    try:
        import cv2
    except ImportError:
        raise ConfigError(
            "optical flow needs OpenCV",
            code="missing_package",
            key="cv2",
            remedy="pip install 'kineray[flow]'",
        ) from None
    return cv2


def farneback(frames_thwc: np.ndarray) -> np.ndarray:
    """Motion from each RGB frame to the next in pixels, right and down: float32 [T - 1, H, W, 2]."""
    cv2 = opencv()
    cv2.setNumThreads(1)  # several videos are computed in parallel
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames_thwc]
    flow = [
        cv2.calcOpticalFlowFarneback(
            before,
            after,
            None,
            pyr_scale=0.5,
            levels=5,
            winsize=15,
            iterations=3,
            poly_n=5,
            poly_sigma=1.1,
            flags=0,
        )
        for before, after in pairwise(grey)
    ]
    return np.stack(flow) if flow else np.zeros((0, *frames_thwc.shape[1:3], 2), np.float32)


def to_grey(flow: np.ndarray, bound: float) -> np.ndarray:
    """Motion in pixels -> the grey values that represent it: uint8; no motion is 127.5."""
    return np.rint(255 * (flow + bound) / (2 * bound)).clip(0, 255).astype(np.uint8)


def _pieces(measured: "_Measured") -> list[Piece]:
    job, fps, count = measured.job, measured.fps, measured.count
    length = max(int(_PIECE_PIXELS / measured.pixels), 1)
    return [Piece(job, fps, first, min(first + length - 1, count)) for first in range(1, count + 1, length)]


@dataclass(frozen=True)
class _Measured:
    """A video from which ``count`` frames of flow with ``pixels`` each will be computed."""

    job: Job
    fps: float
    count: int
    pixels: int


def _measured(
    jobs: Sequence[Job], settings: Settings, decoders: int
) -> Iterator[tuple[Job, _Measured | DecodeError]]:
    """The measures of each video, or its error, in the order of ``jobs``."""
    outcomes = map_in_processes(
        _measure, jobs, decoders=decoders, name=lambda job: job.uri, arguments=lambda job: (job.uri, settings)
    )
    found = {outcome.item: outcome for outcome in outcomes}
    for job in jobs:
        error, result = found[job].error, found[job].result
        yield job, error if error is not None else _Measured(job, *result)


def _written(
    pieces: Sequence[Piece], settings: Settings, decoders: int
) -> Iterator[tuple[Piece, DecodeError | None]]:
    for outcome in map_in_processes(
        _write,
        pieces,
        decoders=decoders,
        name=lambda piece: piece.job.uri,
        arguments=lambda piece: (piece, settings),
    ):
        yield outcome.item, outcome.error


def _measure(uri: str, settings: Settings) -> tuple[float, int, int]:
    """In a child: (frames per second, number of flow frames, pixels of one)."""
    with storage.video_source(uri) as source, open_video(source) as video:
        info = video.info
        fps = settings.fps or info.fps
        if not fps:
            raise DecodeError("no frame rate in the file", code="not_a_video", key=uri, remedy="give `fps`")
        height, width = _flow_size(info, settings)
        # A video of a single frame has one frame of flow, without motion.
        return fps, max(round(info.duration_s * fps) - 1, 1), height * width


def _write(piece: Piece, settings: Settings) -> None:
    """In a child: compute and write the images of a piece."""
    with storage.video_source(piece.job.uri) as source, open_video(source) as video:
        size = _flow_size(video.info, settings)
        # A video that can only be decoded from its start is decoded in one pass.
        at_once = piece.frames if isinstance(video, Video) and not video.index.is_exact else _CHUNK
        for first in range(piece.first, piece.last + 1, at_once):
            numbers = np.arange(first, min(first + at_once, piece.last + 1))
            # In the middle of the time for which a frame is shown, so that rounding does not matter.
            times_s = (np.append(numbers, numbers[-1] + 1) - 0.5) / piece.fps
            grey_thwc = to_grey(farneback(video.read(times_s, size=size)), settings.bound)
            for number, grey_hwc in zip(numbers, grey_thwc, strict=True):
                for channel, name in enumerate("uv"):
                    _save(piece.job.unfinished / name / (_NAME % number), grey_hwc[..., channel])


def _flow_size(info: VideoInfo, settings: Settings) -> tuple[int, int]:
    side = min(settings.short_side, info.height, info.width)
    return scaled_size(info.height, info.width, side)


def _save(path: Path, grey_hw: np.ndarray) -> None:
    cv2 = opencv()
    data = cv2.imencode(".jpg", grey_hw, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    with os_errors_about(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())


def _made(job: Job, settings: Settings) -> dict[str, Any] | None:
    """How the flow in the folder of a job was made; None if there is no folder.

    Raises ManifestError for flow of other settings, and for a folder that does not contain flow.
    """
    if not job.folder.exists():
        return None
    try:
        about = json.loads((job.folder / ABOUT_FILE).read_bytes())
        made = {"fps": float(about["fps"]), "bound": float(about["bound"]), "short_side": about["short_side"]}
    except (OSError, ValueError, TypeError, KeyError):
        raise ManifestError(
            "exists, but does not contain flow",
            code="folder_taken",
            key=job.folder,
            remedy="name another folder as `out`",
        ) from None
    wanted = asdict(settings)
    for name, value in made.items():
        if wanted[name] not in (None, value):
            raise ManifestError(
                f"was made with {name} {value:g}, not {wanted[name]:g}",
                code="other_settings",
                key=job.folder,
                remedy=f"give the same `{name}`, or another folder as `out`",
            )
    return made


def _finish(job: Job, about: Mapping[str, Any]) -> None:
    (job.unfinished / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n")
    job.unfinished.rename(job.folder)


def _flow_uri(job: Job, about: Mapping[str, Any]) -> str:
    return frames_uri(job.folder / "{u,v}" / _NAME, fps=about["fps"], bound=about["bound"])
