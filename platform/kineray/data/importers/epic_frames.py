"""Where the frames of EPIC-KITCHENS are: in videos, or in folders of extracted frames or optical flow."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kineray import storage
from kineray.data.importers.files import logger
from kineray.data.importers.videos import by_stem
from kineray.errors import ManifestError

# The folder of a video such as P01_01, as downloaded and as other loaders expect it.
_FOLDERS = (
    "{person}/{kind}_frames/{video}",
    "{person}/{video}",
    "{video}",
    "train/{person}/{video}",
    "test/{person}/{video}",
    "{kind}/train/{person}/{video}",
    "{kind}/test/{person}/{video}",
)
# {kind}, the names of the images in these folders, and of the links that TBN makes in {video}.
_RGB = ("rgb", "frame_%010d.jpg", "img_%010d.jpg")
_FLOW = ("flow", "{u,v}/frame_%010d.jpg", "{x,y}_%010d.jpg")
# Flow is computed over several frames, so the last frames of a video have none.
_FLOW_SHORTER = 3
_SHOWN = 10  # videos that are named in a warning


@dataclass(frozen=True)
class Place:
    """Where the frames of a video are: ``uri``, and the last frame of the video that is there."""

    uri: str
    last_frame: float


def numbered_fps(video: str) -> int:
    """The frame rate at which ``start_frame`` and ``stop_frame`` count. Raises ManifestError."""
    return 60 if _in_epic_55(video) else 50


def video_places(root: str | Path, videos: Iterable[str]) -> dict[str, Place]:
    """The files named after the videos, anywhere below ``root``."""
    files = by_stem(root)
    return {
        video: Place(storage.absolute(storage.join(root, files[video])), math.inf)
        for video in sorted(files.keys() & videos)
    }


def folder_places(
    folder: str | Path, last_frames: Mapping[str, int], persons: Mapping[str, str], *, flow: bool
) -> dict[str, Place]:
    """The folder of frames of each video. Logs the videos without one, and those with too few frames.

    ``last_frames``: video -> the last frame of its segments, counted from 1. Raises ManifestError.
    """
    from kineray.video.frames import frames_uri

    if storage.is_remote(folder):
        raise ManifestError("frames and flow are read from local folders only", code="not_local", key=folder)
    root = Path(folder).absolute()
    places: dict[str, Place] = {}
    absent, short = [], []
    for video in sorted(last_frames):
        stride = 2 if flow and _in_epic_55(video) else 1
        bound = (25 if stride == 2 else 8) if flow else None
        for pattern in _patterns(persons[video], video, flow=flow):
            uri = frames_uri(root / pattern, fps=numbered_fps(video) / stride, bound=bound)
            count = _count(uri)
            if count:
                last = (last_frames[video] - 1) // stride + 1
                missed = count + (_FLOW_SHORTER if flow else 0) < last
                places[video] = Place(uri, count * stride if missed else math.inf)
                if missed:
                    short.append(f"{video} ({count} of {last})")
                break
        else:
            absent.append(video)
    _warn(absent, len(last_frames), "have no folder of frames")
    _warn(short, len(last_frames), "have fewer frames than their segments")
    return places


def _in_epic_55(video: str) -> bool:
    """Names of videos of EPIC-55 end in two digits; those of videos that came with EPIC-100, in three."""
    number = video.rpartition("_")[2]
    if not number.isdecimal() or len(number) not in (2, 3):
        raise ManifestError(
            "not the name of a video of EPIC-KITCHENS, such as P01_01 or P01_101",
            code="bad_name",
            key=video,
        )
    return len(number) == 2


def _patterns(person: str, video: str, *, flow: bool) -> list[str]:
    """Where the images of a video may be."""
    kind, name, linked = _FLOW if flow else _RGB
    folders = [folder.format(person=person, video=video, kind=kind) for folder in _FOLDERS]
    return [*(f"{folder}/{name}" for folder in folders), f"{video}/{linked}"]


def _count(uri: str) -> int:
    """Number of images of a folder of frames; for flow, the smaller number of those of u and of v."""
    from kineray.video.frames import parse_frames_uri

    return min(_images(pattern) for pattern in parse_frames_uri(uri).components)


def _images(pattern: str) -> int:
    """Number of files whose names fit ``pattern``."""
    folder, _, name = pattern.rpartition("/")
    before, after = name.split("%010d")
    try:
        with os.scandir(folder) as entries:
            return sum(
                entry.name.startswith(before)
                and entry.name.endswith(after)
                and entry.name[len(before) : -len(after)].isdecimal()
                for entry in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _warn(videos: Sequence[str], total: int, problem: str) -> None:
    if videos:
        named = ", ".join(videos[:_SHOWN]) + (", ..." if len(videos) > _SHOWN else "")
        logger.warning("%d of %d videos %s: %s", len(videos), total, problem, named)
