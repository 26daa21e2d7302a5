"""What a manifest contains, in numbers: the result of ``kineray data show``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kineray.data.manifest.labels import known_labels
from kineray.data.manifest.manifest import Manifest, load_manifest


@dataclass(frozen=True)
class SplitSummary:
    """One split. ``found``: number of samples; ``listed``: of clips in the annotations, found or not;
    ``groups``: of source videos or persons."""

    split: str
    found: int
    listed: int
    groups: int


@dataclass(frozen=True)
class ManifestSummary:
    """A manifest in numbers.

    ``manifest``: its URI; ``hash``: its ``content_hash``. ``classes``: head -> class names by index;
    ``labelled``: head -> number of samples with a label; ``evaluated``: head -> number of classes that the
    benchmark scores, if these are not all. ``subsets``: name -> number of samples; ``boxes``: number of boxes
    of persons; ``flow``: number of samples with optical flow. ``missing``: split -> clips that are listed in
    the annotations and were not found.
    """

    manifest: str
    name: str
    hash: str
    samples: int
    splits: tuple[SplitSummary, ...]
    classes: Mapping[str, tuple[str, ...]]
    labelled: Mapping[str, int]
    evaluated: Mapping[str, int]
    subsets: Mapping[str, int]
    boxes: int
    flow: int
    missing: Mapping[str, tuple[str, ...]]


def describe(manifest: str | Path) -> ManifestSummary:
    """Count what the manifest at ``manifest`` (a file or its folder, local or s3://) contains.

    Raises ManifestError or StorageError if it cannot be read.
    """
    return summary_of(load_manifest(manifest), str(manifest))


def summary_of(manifest: Manifest, uri: str) -> ManifestSummary:
    """The summary of a manifest that is stored at ``uri``."""
    found = manifest.found
    splits = tuple(
        SplitSummary(split, found.get(split, 0), listed, _groups(manifest, split) if split in found else 0)
        for split, listed in manifest.listed.items()
    )
    return ManifestSummary(
        manifest=uri,
        name=manifest.name,
        hash=manifest.content_hash,
        samples=len(manifest),
        splits=splits,
        classes={head: tuple(names) for head, names in manifest.vocabularies.items()},
        labelled={head: int(known_labels(manifest.labels(head)).sum()) for head in manifest.vocabularies},
        evaluated={head: len(classes) for head, classes in manifest.evaluated.items()},
        subsets=dict(manifest.subsets),
        boxes=len(manifest.columns.column("boxes").flatten()),
        flow=len(manifest) - manifest.columns.counts("flow").get("", 0),
        missing={split: tuple(names) for split, names in manifest.missing.items() if names},
    )


def _groups(manifest: Manifest, split: str) -> int:
    return len(manifest.split(split).columns.column("group").unique())
