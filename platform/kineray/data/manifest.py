"""The list of clips of a data set: which video, which span, which labels, which split.

The samples are held as Arrow columns, and a ``Sample`` is made when it is asked for: 300,000 of them take
tens of megabytes, not hundreds. PyArrow is imported where it is used, so that a process that only decodes
can import ``Sample`` without it. What reads a manifest does without ``pa.array``, ``pa.scalar`` and
``to_numpy``: they import pandas wherever it is installed, which takes a second and 50 MB.
"""

import hashlib
import io
import itertools
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from kineray.data import storage
from kineray.errors import ManifestError

if TYPE_CHECKING:
    import pyarrow as pa

FILE_NAME = "manifest.parquet"
ABSENT = -1
_METADATA_KEY = b"kineray.manifest"
_LABEL_PREFIX = "label."
_CHUNK = 8192  # samples that are made or read together
_ABSOLUTE = r"^(/|[A-Za-z][A-Za-z0-9+.-]*://)"


@dataclass(frozen=True)
class BoxLabel:
    """A person in a key frame: corners as parts of the picture's sides, from 0 to 1, and their classes.

    ``labels`` holds class indices of the manifest's first head. ``person_id`` is the same in all key
    frames of a video that show the person; None where it is not known.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    labels: tuple[int, ...]
    person_id: int | None = None


@dataclass(frozen=True)
class Sample:
    """One labelled span of a video, in seconds from its first frame; ``end_s`` None: to its end.

    ``labels`` holds a class index for every head, -1 where it is not known. ``group`` names what must
    not be cut by a split (a source video, a person). A key frame of a detection set has ``start_s`` =
    ``end_s`` = its time, and ``boxes``. ``subsets`` names parts of the split that are scored on their own.
    """

    id: str
    uri: str
    start_s: float
    end_s: float | None
    labels: Mapping[str, int]
    group: str
    split: str
    boxes: tuple[BoxLabel, ...] = ()
    subsets: frozenset[str] = frozenset()


class Samples(Sequence[Sample]):
    """Samples in a fixed order as columns; a Sample is made at every access. A slice shares the columns."""

    def __init__(self, columns: Mapping[str, "pa.Array"], rows: np.ndarray | None = None) -> None:
        """``columns``: one Arrow array for each field, as in the file; ``rows``: int64 [N], the rows
        that count, in their order (None: all)."""
        self._columns = dict(columns)
        self._rows = rows

    @classmethod
    def of(cls, samples: Iterable[Sample], heads: Sequence[str], name: str) -> "Samples":
        """Columns of ``samples``, which are not kept. Raises ManifestError where a label is missing."""
        import pyarrow as pa

        types, expected, iterator = _types(heads), set(heads), iter(samples)
        parts: dict[str, list[pa.Array]] = {column: [] for column in types}
        while chunk := list(itertools.islice(iterator, _CHUNK)):
            for sample in chunk:
                if sample.labels.keys() != expected:
                    raise _wrong_heads(name, sample.id, sample.labels, heads)
            for column, values in _values(chunk, heads).items():
                parts[column].append(pa.array(values, types[column]))
        return cls({column: _one_array(pa.chunked_array(parts[column], types[column])) for column in types})

    @property
    def heads(self) -> list[str]:
        """The heads that the samples have labels for."""
        return [name.removeprefix(_LABEL_PREFIX) for name in self._columns if name.startswith(_LABEL_PREFIX)]

    def column(self, name: str) -> "pa.Array":
        """One field of all samples: ``id``, ``uri``, ``start_s``, ``end_s``, ``group``, ``split``,
        ``boxes``, ``subsets`` or ``label.<head>``."""
        values = self._columns[name]
        if self._rows is None:
            return values
        return values.take(_arrow(self._rows))

    def labels(self, head: str) -> np.ndarray:
        """Class indices of one head: int64 [N]."""
        labels = _numpy(self._columns[_LABEL_PREFIX + head], np.int32)
        return (labels if self._rows is None else labels[self._rows]).astype(np.int64)

    def take(self, rows: np.ndarray) -> "Samples":
        """The samples at ``rows``, int [M], in that order; the columns are shared, not copied."""
        return Samples(self._columns, rows if self._rows is None else self._rows[rows])

    def __len__(self) -> int:
        return len(self._columns["id"]) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "Sample | Samples":
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self)), dtype=np.int64))
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"sample {row} of {len(self)}")
        row %= len(self)
        row = row if self._rows is None else int(self._rows[row])
        return _sample({name: values[row].as_py() for name, values in self._columns.items()}, self.heads)

    def __iter__(self) -> Iterator[Sample]:
        heads, names = self.heads, list(self._columns)
        for start in range(0, len(self), _CHUNK):
            if self._rows is None:
                parts = [self._columns[name].slice(start, _CHUNK) for name in names]
            else:
                rows = _arrow(self._rows[start : start + _CHUNK])
                parts = [self._columns[name].take(rows) for name in names]
            for values in zip(*(part.to_pylist() for part in parts), strict=True):
                yield _sample(dict(zip(names, values, strict=True)), heads)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Samples):
            return bool(self.compact().equals(other.compact()))
        if isinstance(other, tuple | list):
            return len(self) == len(other) and all(own == its for own, its in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} samples>"

    def __reduce__(self) -> tuple[Any, ...]:
        import pyarrow as pa

        table = self.compact()
        sink = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
        with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
            stream.write_table(table)
        return (_from_stream, (sink.getvalue(),))

    def compact(self) -> "pa.Table":
        """A table of these rows alone, its columns in order of name, without those that are empty."""
        import pyarrow as pa

        columns = {name: self.column(name) for name in sorted(self._columns)}
        for name in ("boxes", "subsets"):
            if len(columns[name].flatten()) == 0:
                del columns[name]
        return pa.table(columns)


@dataclass(frozen=True, init=False)
class Manifest:
    """Samples in a fixed order, with the class names of every head.

    ``vocabularies``: head -> class names by index. ``missing``: split -> names of the clips that the
    annotations list but that were not found when the manifest was made. ``evaluated``: head -> indices of
    the classes that the set's metric counts, for the heads where these are not all.
    """

    name: str
    samples: Sequence[Sample]
    vocabularies: Mapping[str, tuple[str, ...]]
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    evaluated: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __init__(
        self,
        name: str,
        samples: Iterable[Sample],
        vocabularies: Mapping[str, tuple[str, ...]],
        missing: Mapping[str, tuple[str, ...]] | None = None,
        evaluated: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """``samples`` may be any iterable: its samples are turned into columns as they come.

        Raises ManifestError for an id that occurs twice, and for labels that the vocabularies do not have.
        """
        columns = samples if isinstance(samples, Samples) else Samples.of(samples, list(vocabularies), name)
        _check(name, columns, vocabularies, evaluated or {})
        self._set(name, columns, vocabularies, missing or {}, evaluated or {})

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
        """The class index of every sample, -1 where it is not known: int64 [N]. Raises ManifestError."""
        if head not in self.vocabularies:
            raise ManifestError(f"{self.name}: has no head '{head}'; it has {', '.join(self.vocabularies)}")
        return self.columns.labels(head)

    @property
    def found(self) -> dict[str, int]:
        """Number of samples in each split."""
        return _counts(self.columns.column("split"))

    @property
    def subsets(self) -> dict[str, int]:
        """Number of samples in each subset, by name."""
        return dict(sorted(_counts(self.columns.column("subsets").flatten()).items()))

    @property
    def listed(self) -> dict[str, int]:
        """Number of clips that the annotations list in each split, found or not."""
        found = self.found
        splits = [*found, *(split for split in self.missing if split not in found)]
        return {split: found.get(split, 0) + len(self.missing.get(split, ())) for split in splits}

    def split(self, name: str) -> "Manifest":
        """The samples of one split, in order. Raises ManifestError if there are none."""
        rows = np.flatnonzero(_equal(self.columns.column("split"), name))
        if not len(rows):
            splits = ", ".join(f"{split} ({count})" for split, count in sorted(self.found.items())) or "none"
            raise ManifestError(f"{self.name}: no samples in split '{name}'; its splits are {splits}")
        missing = {name: self.missing[name]} if name in self.missing else {}
        part = object.__new__(Manifest)  # a part of what was checked needs no check
        part._set(self.name, self.columns.take(rows), self.vocabularies, missing, self.evaluated)
        return part

    @cached_property
    def content_hash(self) -> str:
        """sha256 (hex) of the rows in their order and of the vocabularies.

        A video is known by its sample's id, not by its URI: copies of a data set in two folders, or
        on a disk and in a bucket, have the same hash. Boxes, subsets and ``evaluated`` enter it where
        there are any.
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
        if self.evaluated:
            digest.update(b"\n" + json.dumps(sorted(self.evaluated.items())).encode())
        return digest.hexdigest()


def save_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest as Parquet to a local path or an s3 URI.

    URIs inside the manifest's folder are stored relative to it, so that the folder can be moved.
    """
    import pyarrow.parquet as pq

    folder = _folder_of(str(path))
    table = manifest.columns.compact()
    uris = _relative(table["uri"].combine_chunks(), folder)
    about = {
        "version": 1,
        "name": manifest.name,
        "vocabularies": {head: list(names) for head, names in manifest.vocabularies.items()},
        "missing": {split: list(names) for split, names in manifest.missing.items()},
        "evaluated": {head: list(classes) for head, classes in manifest.evaluated.items()},
    }
    table = table.set_column(table.column_names.index("uri"), "uri", uris)
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(about).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    storage.write_bytes(path, buffer.getvalue())


def load_manifest(uri: str | Path) -> Manifest:
    """Read a manifest from a Parquet file or from the folder that holds ``manifest.parquet``.

    The samples' URIs are absolute afterwards. Raises ManifestError, or StorageError if there is no file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = str(uri)
    if not path:
        raise ManifestError("data.manifest: not set; give the path of a manifest")
    if not path.endswith(".parquet"):
        path = storage.join(path, FILE_NAME)
    if not storage.exists(path):
        raise ManifestError(
            f"{path}: no such manifest; make one with 'kineray data import' or 'kineray data synth'"
        )
    try:
        # Not pq.read_table: its scanner threads can outlive the call and abort a process that is ending.
        table = pq.ParquetFile(pa.BufferReader(storage.read_bytes(path))).read(use_threads=False)
        about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        vocabularies = {head: tuple(names) for head, names in about["vocabularies"].items()}
        columns = _columns_of(table, list(vocabularies))
    except (pa.ArrowException, KeyError, ValueError):
        raise ManifestError(f"{path}: not a kineray manifest; make one with 'kineray data import'") from None
    if about["version"] != 1:
        raise ManifestError(f"{path}: manifest version {about['version']}; this kineray reads version 1")
    columns["uri"] = _absolute(columns["uri"], _folder_of(path))
    missing = {split: tuple(names) for split, names in about["missing"].items()}
    evaluated = {head: tuple(classes) for head, classes in about.get("evaluated", {}).items()}
    manifest = Manifest(about["name"], Samples(columns), vocabularies, missing, evaluated)
    del table
    pa.default_memory_pool().release_unused()  # Arrow would keep what reading and checking took
    return manifest


def _types(heads: Sequence[str]) -> dict[str, Any]:
    """Arrow type of every column."""
    import pyarrow as pa

    corners = [(name, pa.float64()) for name in ("x1", "y1", "x2", "y2")]
    box = pa.struct([*corners, ("labels", pa.list_(pa.int32())), ("person_id", pa.int64())])
    return {
        "id": pa.string(),
        "uri": pa.string(),
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "group": pa.string(),
        "split": pa.string(),
        **{_LABEL_PREFIX + head: pa.int32() for head in heads},
        "boxes": pa.list_(box),
        "subsets": pa.list_(pa.string()),
    }


def _values(samples: Sequence[Sample], heads: Sequence[str]) -> dict[str, list[Any]]:
    """Column -> its values."""
    plain = ("id", "uri", "start_s", "end_s", "group", "split")
    return {
        **{name: [getattr(sample, name) for sample in samples] for name in plain},
        **{_LABEL_PREFIX + head: [sample.labels[head] for sample in samples] for head in heads},
        "boxes": [[vars(box) for box in sample.boxes] for sample in samples],
        "subsets": [sorted(sample.subsets) for sample in samples],
    }


def _sample(row: Mapping[str, Any], heads: Sequence[str]) -> Sample:
    return Sample(
        row["id"],
        row["uri"],
        row["start_s"],
        row["end_s"],
        {head: row[_LABEL_PREFIX + head] for head in heads},
        row["group"],
        row["split"],
        tuple(BoxLabel(**box | {"labels": tuple(box["labels"])}) for box in row["boxes"]),
        frozenset(row["subsets"]),
    )


def _columns_of(table: "pa.Table", heads: Sequence[str]) -> dict[str, "pa.Array"]:
    """The columns of a file. Raises KeyError and ValueError where they are not a manifest's."""
    import pyarrow as pa

    columns = {}
    for name, kind in _types(heads).items():
        if name in ("boxes", "subsets") and name not in table.column_names:
            columns[name] = _empty_lists(kind, len(table))
            continue
        columns[name] = _one_array(table[name].cast(kind))
        if columns[name].null_count and name != "end_s":
            raise pa.ArrowInvalid(f"{name}: has nulls")
    return columns


def _empty_lists(kind: Any, count: int) -> "pa.Array":
    import pyarrow as pa

    offsets = pa.Array.from_buffers(
        pa.int32(), count + 1, [None, pa.py_buffer(np.zeros(count + 1, np.int32))]
    )
    return pa.ListArray.from_arrays(offsets, pa.nulls(0, kind.value_type), type=kind)


def _one_array(values: "pa.ChunkedArray") -> "pa.Array":
    """One array, so that a row is found at once."""
    import pyarrow as pa

    whole = values.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)


def _from_stream(data: bytes) -> Samples:
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(use_threads=False)
    with pa.ipc.open_stream(pa.py_buffer(data), options=options) as stream:
        table = stream.read_all()
    heads = [
        name.removeprefix(_LABEL_PREFIX) for name in table.column_names if name.startswith(_LABEL_PREFIX)
    ]
    return Samples(_columns_of(table, heads))


def _counts(values: "pa.Array") -> dict[str, int]:
    """Value -> how often, in order of first occurrence."""
    return {entry["values"].as_py(): entry["counts"].as_py() for entry in values.value_counts()}


def _equal(values: "pa.Array", text: str) -> np.ndarray:
    """Which values are ``text``: bool [N]."""
    encoded = values.dictionary_encode()
    codes = [code for code, value in enumerate(encoded.dictionary.to_pylist()) if value == text]
    return np.isin(_numpy(encoded.indices, np.int32), codes)


def _numpy(values: "pa.Array", kind: Any) -> np.ndarray:
    """A column of numbers without nulls, not copied: [N]."""
    if not len(values):
        return np.empty(0, kind)
    return np.frombuffer(values.buffers()[1], kind, len(values), values.offset * np.dtype(kind).itemsize)


def _arrow(rows: np.ndarray) -> "pa.Array":
    """Indices, int64 [N], as Arrow has them; not copied."""
    import pyarrow as pa

    rows = np.ascontiguousarray(rows, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)])


def _wrong_heads(name: str, sample: str, own: Iterable[str], heads: Iterable[str]) -> ManifestError:
    return ManifestError(
        f"{name}: {sample} has labels for {sorted(own)}, the vocabularies are {sorted(heads)}"
    )


def _check(
    name: str,
    samples: Samples,
    vocabularies: Mapping[str, tuple[str, ...]],
    evaluated: Mapping[str, tuple[int, ...]],
) -> None:
    import pyarrow.compute as pc

    ids = samples.column("id")
    if pc.count_distinct(ids).as_py() < len(ids):
        repeated = next(value for value, count in _counts(ids).items() if count > 1)
        raise ManifestError(f"{name}: the id {repeated} occurs more than once; ids must be unique")
    if len(samples) and set(samples.heads) != vocabularies.keys():
        raise _wrong_heads(name, samples[0].id, samples.heads, vocabularies)
    for head, names in vocabularies.items():
        labels = samples.labels(head) if len(samples) else np.empty(0, np.int64)
        outside = np.flatnonzero((labels < ABSENT) | (labels >= len(names)))
        if len(outside):
            raise ManifestError(
                f"{name}: {samples[int(outside[0])].id} has {head}={labels[outside[0]]}, but there are"
                f" {len(names)} classes"
            )
    for head, classes in evaluated.items():
        if head not in vocabularies or not all(0 <= index < len(vocabularies[head]) for index in classes):
            raise ManifestError(f"{name}: the evaluated classes of '{head}' are not in its vocabulary")
    _check_boxes(name, samples, len(next(iter(vocabularies.values()), ())))


def _check_boxes(name: str, samples: Samples, classes: int) -> None:
    per_sample = samples.column("boxes")
    boxes = per_sample.flatten()
    if not len(boxes):
        return
    x1, y1, x2, y2 = (_numpy(corner, np.float64) for corner in boxes.flatten()[:4])
    fits = (x1 >= 0) & (y1 >= 0) & (x1 <= x2) & (y1 <= y2) & (x2 <= 1) & (y2 <= 1)
    if not fits.all():
        index = int(np.flatnonzero(~fits)[0])
        owner = _numpy(per_sample.value_parent_indices(), np.int64)[index]
        raise ManifestError(
            f"{name}: {samples[int(owner)].id} has the box {x1[index]:g}, {y1[index]:g},"
            f" {x2[index]:g}, {y2[index]:g}; expected x1 <= x2 and y1 <= y2 in 0 to 1"
        )
    labels = _numpy(boxes.flatten()[4].flatten(), np.int32)
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise ManifestError(f"{name}: a box has the class {outside[0]}, but there are {classes} classes")


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0] if storage.is_remote(path) else str(Path(path).absolute().parent)


def _relative(uris: "pa.Array", folder: str) -> "pa.Array":
    """``uris``, those below ``folder`` relative to it and all others absolute."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pc.all(pc.match_substring_regex(uris, _ABSOLUTE), min_count=0).as_py():
        absolute = re.compile(_ABSOLUTE)
        texts = [uri if absolute.match(uri) else str(Path(uri).absolute()) for uri in uris.to_pylist()]
        uris = pa.array(texts, pa.string())
    inside = pc.starts_with(uris, f"{folder}/")
    return pc.if_else(inside, pc.utf8_slice_codeunits(uris, len(folder) + 1), uris)


def _absolute(uris: "pa.Array", folder: str) -> "pa.Array":
    import pyarrow.compute as pc

    inside = pc.invert(pc.match_substring_regex(uris, _ABSOLUTE))
    return pc.if_else(inside, pc.binary_replace_slice(uris, 0, 0, f"{folder}/"), uris)
