"""Names that people give their files: accents, and persons or source videos in them."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError


def composed(text: str) -> str:
    """``text`` with accented letters as single characters (NFC); macOS stores them as two in file names."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def without_suffix(path: str) -> str:
    """A path without suffix, composed."""
    return composed(str(PurePosixPath(path).with_suffix("")))


def groups_of(pattern: str, paths: Iterable[str]) -> dict[str, str]:
    """Path without suffix -> group: what ``pattern`` finds in it, or its own groups joined by ``/``.

    ``pattern``: a regular expression; ``p[0-9]+`` finds ``p07`` in ``run/p07_cam1``. Raises ManifestError for
    one that is not valid, or finds nothing in some path.
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ManifestError(
            f"not a regular expression ({error})", code="bad_value", key="group_by", value=pattern
        ) from None
    groups = {path: _group(search(path)) for path in paths}
    without = [path for path, group in groups.items() if not group]
    if without:
        raise ManifestError(
            f"found in {len(groups) - len(without)} of {len(groups)} paths, but not in {without[0]}",
            code="no_match",
            key="group_by",
            value=pattern,
            remedy="give a regular expression that finds the person or source video in every path",
        )
    return groups


def regroup(manifest: Manifest, pattern: str) -> Manifest:
    """The manifest with groups by ``pattern`` in the paths of the videos, without suffixes.

    Paths are those below the folder that was imported, where ids are such paths; else they are whole. Raises
    ManifestError.
    """
    group_of = groups_of(pattern, dict.fromkeys(map(_path, manifest)))
    return manifest.with_samples(replace(sample, group=group_of[_path(sample)]) for sample in manifest)


def _group(found: re.Match[str] | None) -> str:
    if found is None:
        return ""
    return "/".join(filter(None, found.groups())) or found[0]


def _path(sample: Sample) -> str:
    path = without_suffix(sample.uri)
    names = (composed(sample.id), without_suffix(sample.id))  # the id of twins has their suffix
    return next((name for name in names if path.endswith(f"/{name}")), path)
