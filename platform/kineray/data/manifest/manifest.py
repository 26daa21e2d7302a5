"""The manifest of a data set: its samples and the names of its classes, and the file that holds them."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kineray import storage
from kineray.data.manifest.labels import ABSENT, multi_hot
from kineray.data.manifest.samples import Sample, Samples, as_numpy, wrong_heads
from kineray.errors import ManifestError

if TYPE_CHECKING:
    import pyarrow as pa

FILE_NAME = "manifest.parquet"
_METADATA_KEY = b"kineray.manifest"
_ABSOLUTE = r"^(/|[A-Za-z][A-Za-z0-9+.-]*://)"
_NOT_RELATIVE = rf"{_ABSOLUTE}|^$"  # the URI of flow is empty if there is none
_URI_COLUMNS = ("uri", "flow")


@dataclass(frozen=True, init=False)
class Manifest:
    """Samples in a fixed order, with the class names of every head.

    ``vocabularies``: head -> class names by index. ``missing``: split -> names of the clips that the
    annotations list but that were not found when the manifest was made. ``evaluated``: head -> indices of
    the classes that the benchmark scores, for heads of which it does not score all. ``multi_label``: the
    heads for which a clip has any number of classes (``Sample.labels`` holds tuples).
    """

    name: str
    samples: Sequence[Sample]
    vocabularies: Mapping[str, tuple[str, ...]]
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    evaluated: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    multi_label: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str,
        samples: Iterable[Sample],
        vocabularies: Mapping[str, tuple[str, ...]],
        missing: Mapping[str, tuple[str, ...]] | None = None,
        evaluated: Mapping[str, tuple[int, ...]] | None = None,
        multi_label: Iterable[str] = (),
    ) -> None:
        """``samples`` may be any iterable, such as a generator: they are turned into columns one by one.

        Raises ManifestError for an id that occurs twice, and for labels that are not in the vocabularies.
        """
        tuple_heads = frozenset(multi_label)
        if isinstance(samples, Samples):
            columns, tuple_heads = samples, samples.multi_label
        else:
            columns = Samples.of(samples, list(vocabularies), name, tuple_heads)
        _check(name, columns, vocabularies, evaluated or {})
        self._set(name, columns, vocabularies, missing or {}, evaluated or {}, tuple_heads)

    def _set(self, *values: object) -> None:
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def columns(self) -> Samples:
        """The samples as columns."""
        assert isinstance(self.samples, Samples)
        return self.samples

    def labels(self, head: str) -> np.ndarray:
        """The class index of every sample, -1 if it is not known: int64 [N].

        For a multi-label head uint8 [N, C] as ``labels.label_array`` makes it: 1 for the classes of a sample,
        255 throughout if they are not known. Raises ManifestError.
        """
        if head not in self.vocabularies:
            raise ManifestError(
                f"has no head '{head}'",
                code="unknown_value",
                key=self.name,
                remedy=f"its heads are {', '.join(self.vocabularies)}",
            )
        if head in self.multi_label:
            return multi_hot(*self.columns.label_lists(head), len(self.vocabularies[head]))
        return self.columns.labels(head)

    @property
    def found(self) -> dict[str, int]:
        """Number of samples in each split."""
        return self.columns.counts("split")

    @property
    def subsets(self) -> dict[str, int]:
        """Number of samples in each subset, by name."""
        return dict(sorted(self.columns.counts("subsets").items()))

    @property
    def listed(self) -> dict[str, int]:
        """Number of clips that the annotations list in each split, found or not."""
        found = self.found
        splits = [*found, *(split for split in self.missing if split not in found)]
        return {split: found.get(split, 0) + len(self.missing.get(split, ())) for split in splits}

    def split(self, name: str) -> "Manifest":
        """The samples of one split, in order. Raises ManifestError if there are none."""
        rows = self.columns.where("split", name)
        if not len(rows):
            splits = ", ".join(f"{split} ({count})" for split, count in sorted(self.found.items())) or "none"
            raise ManifestError(
                f"no samples in split '{name}'",
                code="empty_split",
                key=self.name,
                remedy=f"its splits are {splits}",
            )
        missing = {name: self.missing[name]} if name in self.missing else {}
        part = object.__new__(Manifest)  # a part of a checked manifest needs no check
        part._set(
            self.name, self.columns.take(rows), self.vocabularies, missing, self.evaluated, self.multi_label
        )
        return part

    def with_samples(self, samples: Iterable[Sample]) -> "Manifest":
        """A manifest with the same classes and missing clips, but other samples. Raises ManifestError."""
        return Manifest(self.name, samples, self.vocabularies, self.missing, self.evaluated, self.multi_label)

    @cached_property
    def content_hash(self) -> str:
        """sha256 (hex) of the samples in their order and of the vocabularies.

        Videos enter it by the ids of their samples, not by their URIs: copies of a data set in two folders,
        or on a disk and in a bucket, have the same hash. Boxes, subsets, flow (its frame rate and bound), the
        sizes of the video files and ``evaluated`` enter it if there are any: a re-encoded copy, whose files
        have other sizes, has another hash.
        """
        digest = hashlib.sha256()
        vocabularies = {head: list(names) for head, names in sorted(self.vocabularies.items())}
        digest.update(json.dumps(vocabularies).encode())
        for sample in self.samples:
            end_s = None if sample.end_s is None else float(sample.end_s)
            row = [sample.id, float(sample.start_s), end_s, sample.group, sample.split]
            digest.update(b"\n" + json.dumps([*row, sorted(sample.labels.items())]).encode())
            if sample.boxes or sample.subsets:
                boxes = [[box.x1, box.y1, box.x2, box.y2, box.labels, box.person_id] for box in sample.boxes]
                digest.update(json.dumps([boxes, sorted(sample.subsets)]).encode())
            if sample.flow:
                digest.update(json.dumps(sample.flow.rpartition("#")[2]).encode())
            if sample.size_bytes:
                digest.update(json.dumps({"bytes": sample.size_bytes}).encode())
        if self.evaluated:
            digest.update(b"\n" + json.dumps(sorted(self.evaluated.items())).encode())
        return digest.hexdigest()


def save_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest as Parquet to a local path or an s3 URI.

    URIs inside the manifest's folder are stored relative to it, so that the folder can be moved.
    """
    import pyarrow.parquet as pq

    folder = _folder_of(str(path))
    table = _with_uris(manifest.columns.compact(), _relative, folder)
    about = {
        "version": 1,
        "name": manifest.name,
        "vocabularies": {head: list(names) for head, names in manifest.vocabularies.items()},
        "missing": {split: list(names) for split, names in manifest.missing.items()},
        "evaluated": {head: list(classes) for head, classes in manifest.evaluated.items()},
        "multi_label": sorted(manifest.multi_label),
    }
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(about).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    storage.write_bytes(path, buffer.getvalue())


def load_manifest(uri: str | Path) -> Manifest:
    """Read a manifest from a Parquet file or from the folder that holds ``manifest.parquet``.

    The URIs of its samples are absolute. Raises ManifestError for a file that does not exist or is not a
    manifest, StorageError for one that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = str(uri)
    if not path:
        raise ManifestError(
            "not set", code="not_set", key="data.manifest", remedy="give the path of a manifest"
        )
    if not path.endswith(".parquet"):
        path = storage.join(path, FILE_NAME)
    if not storage.exists(path):
        raise ManifestError(
            "no such manifest",
            code="not_found",
            key=path,
            remedy="make one with 'kineray data import' or 'kineray data synth'",
        )
    try:
        # Not pq.read_table: its scanner threads can outlive the call and abort a process that is ending.
        table = pq.ParquetFile(pa.BufferReader(storage.read_bytes(path))).read(use_threads=False)
        about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        vocabularies = {head: tuple(names) for head, names in about["vocabularies"].items()}
        table = _with_uris(table, _absolute, _folder_of(path))
        samples = Samples.from_table(table, list(vocabularies), about.get("multi_label", ()))
    except (pa.ArrowException, KeyError, ValueError):
        raise ManifestError(
            "not a kineray manifest",
            code="not_a_manifest",
            key=path,
            remedy="make one with 'kineray data import'",
        ) from None
    if about["version"] != 1:
        raise ManifestError(
            f"manifest version {about['version']}; this kineray reads version 1",
            code="other_format",
            key=path,
            remedy="make it again with 'kineray data import'",
        )
    missing = {split: tuple(names) for split, names in about["missing"].items()}
    evaluated = {head: tuple(classes) for head, classes in about.get("evaluated", {}).items()}
    manifest = Manifest(about["name"], samples, vocabularies, missing, evaluated)
    del table
    pa.default_memory_pool().release_unused()  # Arrow would keep the memory that reading and checking took
    return manifest


def _check(
    name: str,
    samples: Samples,
    vocabularies: Mapping[str, tuple[str, ...]],
    evaluated: Mapping[str, tuple[int, ...]],
) -> None:
    import pyarrow.compute as pc

    ids = samples.column("id")
    if pc.count_distinct(ids).as_py() < len(ids):
        repeated = next(value for value, count in samples.counts("id").items() if count > 1)
        raise ManifestError(f"the id {repeated} occurs more than once", code="repeated_id", key=name)
    if len(samples) and set(samples.heads) != vocabularies.keys():
        raise wrong_heads(name, samples[0].id, samples.heads, vocabularies)
    for head, names in vocabularies.items():
        if not len(samples):
            break
        owners = np.arange(len(samples))
        if head in samples.multi_label:
            labels, lengths = samples.label_lists(head)
            owners, lowest = np.repeat(owners, lengths.clip(0)), 0
        else:
            labels, lowest = samples.labels(head), ABSENT
        outside = np.flatnonzero((labels < lowest) | (labels >= len(names)))
        if len(outside):
            first = int(outside[0])
            raise ManifestError(
                f"{samples[int(owners[first])].id} has {head}={labels[first]}, but there are"
                f" {len(names)} classes",
                code="out_of_range",
                key=name,
            )
    for head, classes in evaluated.items():
        if head not in vocabularies or not all(0 <= index < len(vocabularies[head]) for index in classes):
            raise ManifestError(
                f"the evaluated classes of '{head}' are not in its vocabulary",
                code="unknown_value",
                key=name,
            )
    _check_boxes(name, samples, len(next(iter(vocabularies.values()), ())))


def _check_boxes(name: str, samples: Samples, classes: int) -> None:
    per_sample = samples.column("boxes")
    boxes = per_sample.flatten()
    if not len(boxes):
        return
    x1, y1, x2, y2 = (as_numpy(corner, np.float64) for corner in boxes.flatten()[:4])
    fits = (x1 >= 0) & (y1 >= 0) & (x1 <= x2) & (y1 <= y2) & (x2 <= 1) & (y2 <= 1)
    if not fits.all():
        index = int(np.flatnonzero(~fits)[0])
        owner = as_numpy(per_sample.value_parent_indices(), np.int64)[index]
        raise ManifestError(
            f"{samples[int(owner)].id} has the box {x1[index]:g}, {y1[index]:g}, {x2[index]:g},"
            f" {y2[index]:g}",
            code="out_of_range",
            key=name,
            remedy="give x1 <= x2 and y1 <= y2 as fractions of the sides, from 0 to 1",
        )
    labels = as_numpy(boxes.flatten()[4].flatten(), np.int32)
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        box = as_numpy(boxes.flatten()[4].value_parent_indices(), np.int64)[outside[0]]
        owner = as_numpy(per_sample.value_parent_indices(), np.int64)[box]
        raise ManifestError(
            f"a box of {samples[int(owner)].id} has the class {labels[outside[0]]}, but there are"
            f" {classes} classes",
            code="out_of_range",
            key=name,
        )


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0] if storage.is_remote(path) else str(Path(path).absolute().parent)


def _with_uris(
    table: "pa.Table", change: Callable[["pa.ChunkedArray", str], "pa.ChunkedArray"], folder: str
) -> "pa.Table":
    for name in _URI_COLUMNS:
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, change(table[name], folder))
    return table


def _relative(uris: "pa.ChunkedArray", folder: str) -> "pa.ChunkedArray":
    """``uris`` with those below ``folder`` relative to it and all others absolute."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pc.all(pc.match_substring_regex(uris, _NOT_RELATIVE), min_count=0).as_py():
        kept = re.compile(_NOT_RELATIVE)
        texts = [uri if kept.match(uri) else str(Path(uri).absolute()) for uri in uris.to_pylist()]
        uris = pa.chunked_array([texts], pa.string())
    inside = pc.starts_with(uris, f"{folder}/")
    return pc.if_else(inside, pc.utf8_slice_codeunits(uris, len(folder) + 1), uris)


def _absolute(uris: "pa.ChunkedArray", folder: str) -> "pa.ChunkedArray":
    """``uris`` with relative ones taken from ``folder``."""
    import pyarrow.compute as pc

    inside = pc.invert(pc.match_substring_regex(uris, _NOT_RELATIVE))
    return pc.if_else(inside, pc.binary_replace_slice(uris, 0, 0, f"{folder}/"), uris)
