"""From annotations of any format to a manifest, in one call."""

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kineray import storage
from kineray.config.problems import did_you_mean
from kineray.config.variants import find_variant, variants
from kineray.data.importers.base import Importer, Source, folder_of
from kineray.data.importers.files import Files, as_list, logger
from kineray.data.importers.videos import check_utf8
from kineray.data.manifest.manifest import FILE_NAME, Manifest, save_manifest
from kineray.data.manifest.sizes import record_sizes
from kineray.data.manifest.summary import ManifestSummary, summary_of
from kineray.errors import ConfigError, KinerayError, ManifestError
from kineray.video import is_frames_uri


def import_dataset(
    sources: Files,
    *,
    format: str | None = None,
    out: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ManifestSummary:
    """Read the annotations of a data set and write them as one manifest.

    ``sources``, ``format``, ``options``: as in ``read_dataset``. ``out``: the file to write (by default
    manifest.parquet in the folder that the first source is or lies in). In the summary, ``missing`` names the
    clips that are listed and were not found, and ``manifest`` is what ``data.manifest`` and ``load_manifest``
    take. ``progress`` is called with (videos measured, all videos) after the annotations were read.

    Raises ManifestError for annotations that cannot be read and for options that the format does not have,
    StorageError for files that cannot be read or written.
    """
    if out is not None:
        check_manifest_name("out", out)
    manifest = read_dataset(sources, format=format, progress=progress, **options)
    target = out or storage.join(folder_of([str(source) for source in as_list(sources)]), FILE_NAME)
    save_manifest(manifest, target)
    return summary_of(manifest, target)


def read_dataset(
    sources: Files,
    *,
    format: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Manifest:
    """Turn annotation files, or a folder of class folders, into one manifest.

    ``sources``: paths or URIs; give all the annotation files of a data set at once. ``format``: the type of
    an importer (``variants(Importer)``), plug-ins included; None: the importer that recognises the sources.
    ``options``: fields of that importer, such as ``videos``, the folder of the videos; None is ignored.
    ``progress``: as in ``import_dataset``.

    The sizes of the video files are recorded, so a re-encoded copy has another ``content_hash``. Clips that
    are listed and were not found are named in ``Manifest.missing``. Raises ManifestError for sources that
    cannot be read, for options that the format does not have, and for a plug-in's importer that fails.
    """
    named = [str(source) for source in as_list(sources)]
    if not named:
        raise ManifestError(
            "no annotations named", code="not_set", key="sources", remedy="name a file or folder"
        )
    check_utf8(*named)
    given = {name: value for name, value in options.items() if value is not None}
    name = format or format_of(named)
    importer = _importer(name, given, named[0])
    with _one_line_of_plugin(type(importer)):
        manifest: object = importer.read(named)
    if not isinstance(manifest, Manifest):
        raise ManifestError(
            f"read returned {type(manifest).__name__}, not a Manifest",
            code="wrong_type",
            key=_file_of(type(importer)),
            remedy="return kineray.data.Manifest(...)",
        )
    sized = record_sizes(manifest, progress)
    _warn_of_empty(sized)
    return sized


def format_of(sources: Sequence[str]) -> str:
    """The type of the one importer that recognises these files and folders together.

    Raises ManifestError if none or several do.
    """
    given = [Source.at(source) for source in sources]
    found = _recognised(given, fallback=False)
    if not found:
        alone = {source.uri: names for source in given if (names := _recognised([source], fallback=False))}
        if alone:
            first = next(iter(alone))
            other = next((s for s in given if alone.get(s.uri) != alone[first]), given[-1])
            others = alone.get(other.uri) or _recognised([other], fallback=True)
            raise ManifestError(
                f"its format is {' or '.join(others) or 'unknown'}, but {first} is {alone[first][0]}",
                code="mixed_formats",
                key=other.uri,
                remedy="import them one at a time, or give the `format`",
            )
        found = _recognised(given, fallback=True)
    if len(found) != 1:
        problem = f"may be {' or '.join(found)}" if found else "no format has both files and folders"
        raise ManifestError(problem, code="unclear_format", key=sources[0], remedy="give the `format`")
    return found[0]


def _warn_of_empty(manifest: Manifest) -> None:
    uris, recorded = (manifest.columns.column(name).to_pylist() for name in ("uri", "size_bytes"))
    sizes = dict(zip(uris, recorded, strict=True))
    empty = [uri for uri, size in sizes.items() if not size and not is_frames_uri(uri)]
    if empty:
        logger.warning(
            "%d of %d video files are empty or do not exist, such as %s", len(empty), len(sizes), empty[0]
        )


def check_manifest_name(parameter: str, path: str) -> None:
    """Raise ManifestError unless ``path``, given as ``parameter``, ends in .parquet."""
    if not path.endswith(".parquet"):
        raise ManifestError(
            "not the name of a manifest",
            code="wrong_ending",
            key=parameter,
            value=path,
            remedy="give a name that ends in .parquet",
        )


def _recognised(sources: Sequence[Source], *, fallback: bool) -> list[str]:
    found = []
    for name, one in variants(Importer).items():
        with _one_line_of_plugin(one):
            if one.fallback is fallback and one.recognises(sources):
                found.append(name)
    return found


def _importer(name: str, options: dict[str, Any], source: str) -> Importer:
    """The importer ``name`` with its options. Raises ManifestError for an option that it does not have."""
    try:
        kind = find_variant(Importer, name)
    except ConfigError as error:
        raise ManifestError(
            error.problem, code="unknown_variant", key="format", remedy=error.remedy
        ) from None
    fields = [field for field in kind.model_fields if field != "type"]
    for option in options:
        if option in fields:
            continue
        owners = [other for other, one in variants(Importer).items() if option in one.model_fields]
        raise ManifestError(
            f"{source} is read as {name}, which has no such option",
            code="unknown_key",
            key=option,
            remedy=did_you_mean(option, fields)
            or (f"formats that have it: {', '.join(owners)}" if owners else ""),
        )
    try:
        with _one_line_of_plugin(kind):
            return kind(**options)
    except ConfigError as error:
        key = error.key.partition(".")[2] or name
        raise ManifestError(error.problem, code=error.code, key=key) from None


@contextmanager
def _one_line_of_plugin(kind: type[Importer]) -> Iterator[None]:
    """Turn what the code of a plug-in's importer raises into a ManifestError with its file and line."""
    try:
        yield
    except KinerayError:
        raise
    except Exception as error:
        if _package(kind.__module__) == "kineray":
            raise
        raise ManifestError(
            f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": "),
            code="plugin_failed",
            key=_place(error, kind),
            remedy="correct the file (kineray --verbose prints the whole traceback)",
        ) from error


def _place(error: Exception, kind: type[Importer]) -> str:
    """``file:line`` of the innermost call in the importer's own module or package."""
    places = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if _package(frame.f_globals.get("__name__", "")) == _package(kind.__module__)
    ]
    return places[-1] if places else _file_of(kind)


def _file_of(kind: type[Importer]) -> str:
    return getattr(sys.modules.get(kind.__module__), "__file__", None) or kind.__qualname__


def _package(module: str) -> str:
    return module.partition(".")[0]
