"""What all importers have in common: each format of annotations is a variant, in a module of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, Field

from kineray import storage
from kineray.config.variants import Variant
from kineray.data.importers.files import class_names, file_name, visible_names
from kineray.data.manifest.manifest import Manifest
from kineray.errors import ConfigError, ManifestError

_LONGEST_LINE = 65536
_REMEDY = "name a folder of class folders, a CSV or a list"

Folder = Annotated[str, BeforeValidator(str)]
Videos = Annotated[Folder, Field(description="Folder of the videos [default: that of SOURCE].")]
Classes = Annotated[
    tuple[str, ...],
    BeforeValidator(class_names),
    Field(description="Class names: a FILE with one a line, or A,B; mini-kinetics: the classes to keep."),
]
GroupBy = Annotated[
    str,
    Field(
        description="Regular expression that finds the person or source video in each path, such as"
        " 'p[0-9]+'; a (part) in parentheses is what counts [default: every video for itself]."
    ),
]
SplitNumber = Annotated[int, Field(ge=1, le=3, description="Which of the three splits.")]


@dataclass(frozen=True)
class Source:
    """A file or folder of annotations that a user names.

    ``names``: of the files and folders directly in a folder; empty for a file.
    """

    uri: str
    is_folder: bool
    names: tuple[str, ...]

    @classmethod
    def at(cls, uri: str | Path) -> Self:
        """The file or folder at a path or URI. Raises StorageError."""
        names = tuple(visible_names(uri))
        is_folder = bool(names) or (not storage.is_remote(uri) and Path(uri).is_dir())
        return cls(str(uri), is_folder, names)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return file_name(self.uri)

    @cached_property
    def first_line(self) -> str:
        """The first line of a file, at most 64 KiB of it; "" for a folder. Raises ManifestError."""
        if self.is_folder:
            return ""
        try:
            if storage.is_remote(self.uri):
                start = storage.read_bytes(self.uri)[:_LONGEST_LINE].partition(b"\n")[0]
            else:
                with Path(self.uri).open("rb") as file:
                    start = file.readline(_LONGEST_LINE)
            line = start.decode("utf-8-sig", "ignore" if len(start) == _LONGEST_LINE else "strict")
        except FileNotFoundError:
            raise ManifestError(
                "no such file or folder", code="not_found", key=self.uri, remedy=_REMEDY
            ) from None
        except OSError as error:
            raise ManifestError(
                str(error.strerror), code="not_readable", key=self.uri, remedy=_REMEDY
            ) from None
        except UnicodeDecodeError:
            raise ManifestError(
                "not a text file in UTF-8", code="not_text", key=self.uri, remedy=_REMEDY
            ) from None
        if "\0" in line:
            raise ManifestError("not a text file", code="not_text", key=self.uri, remedy=_REMEDY)
        return line.strip()


class Importer(Variant, home="kineray.data.importers"):
    """Base of all importers, which turn annotation files, or folders named after classes, into a Manifest.

    Each format of annotations is a subclass whose ``type`` is the name of the format:

        class ToyImporter(Importer, type="toy"):
            videos: Videos = ""                                       # an option

            @classmethod
            def recognises(cls, sources):
                return all(source.name.endswith(".toy") for source in sources)

            def read(self, sources):
                return Manifest(...)

    Its fields are options of ``import_dataset`` and of ``kineray data import``.
    """

    fallback: ClassVar[bool] = False
    """Whether it is asked only if no other importer recognises the sources."""

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """Whether these files and folders, all together, are annotations of this format."""
        return False

    def read(self, sources: Sequence[str]) -> Manifest:
        """The manifest of the annotations in ``sources``, paths or URIs. Raises ManifestError."""
        raise ConfigError(
            "defines no read",
            code="no_implementation",
            key=f"{type(self).__module__}.{type(self).__qualname__}",
            remedy="define read(self, sources), which returns a Manifest",
        )

    def one_of(self, sources: Sequence[str]) -> str:
        """The only source. Raises ManifestError if there are several."""
        if len(sources) > 1:
            raise ManifestError(
                f"a second source, but {self.type} reads only one",
                code="several_sources",
                key=sources[1],
                remedy="import them one at a time",
            )
        return sources[0]


def folder_of(sources: Sequence[str]) -> str:
    """The folder that the first source is or lies in, where videos are looked for by default."""
    first = Source.at(sources[0])
    return first.uri if first.is_folder else first.uri.rpartition("/")[0] or "."
