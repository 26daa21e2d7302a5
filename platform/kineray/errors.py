"""What went wrong, in one line that a user can act on."""

import json
from typing import Any


class KinerayError(Exception):
    """A problem that the user can fix. The command line prints it as one line and exits with code 2.

    ``problem``: what is wrong. ``code``: stable and machine readable, such as ``unknown_key``; tests and
    programs compare it, never the text. ``key``: the dotted key, parameter, file or URI that it is about;
    ``value``: what the key was given as, if that is the problem. ``remedy``: what to do, in terms of
    parameters: one between backticks (```micro_batch```) is shown by the command line as its flag. The
    message is ``key=value: problem; remedy``, as far as each is given.
    """

    def __init__(
        self, problem: str, *, code: str, key: object = "", value: object = None, remedy: str = ""
    ) -> None:
        self.problem, self.code, self.key = problem, code, str(key)
        self.value, self.remedy = value, remedy
        shown = self.key if value is None else f"{key}={value}"
        super().__init__(f"{shown}: " * bool(self.key) + problem + f"; {remedy}" * bool(remedy))

    def __reduce__(self) -> tuple[Any, ...]:
        return (restored, (type(self), self.args, self.__dict__))


class ConfigError(KinerayError):
    """An experiment value, key or override that is not valid."""


class ManifestError(KinerayError):
    """A manifest or an annotation file that cannot be used."""


class StorageError(KinerayError):
    """A folder, file or bucket that cannot be read or written."""

    @property
    def is_transient(self) -> bool:
        """Whether the same may succeed later, without anything that the user does."""
        return self.code in {"unreachable", "io_error", "replaced"}


class TrackingError(KinerayError):
    """MLflow cannot be reached, or it has no such run or model version."""


class CheckpointError(KinerayError):
    """A checkpoint folder that is missing, incomplete or of another model."""


class ExportError(KinerayError):
    """A model that cannot be written as a file of another format."""


class ServingError(KinerayError):
    """A service that cannot be started or reached, or a version that it cannot be given."""


class DecodeError(KinerayError):
    """A video that cannot be decoded; ``key`` is the file.

    ``code``: ``not_found``, ``not_a_video``, ``no_video_stream``, ``codec_unsupported``, ``truncated``,
    ``empty``, ``wrong_frame_count``, ``joined`` (several files in one), ``too_large``, ``too_long``,
    ``timeout`` (libav did not return) or ``crashed`` (libav ended its process).
    """


class NonFiniteLossError(KinerayError):
    """The loss became NaN or infinite; the message names the step and the sample ids."""


class ErrorBudgetError(KinerayError):
    """More clips than the error budget allows could not be decoded; the message lists the files."""


def restored(kind: type[KinerayError], args: tuple[Any, ...], state: dict[str, Any]) -> KinerayError:
    """An error that crossed a process border, from its class, its ``args`` and its ``__dict__``."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def to_json(error: KinerayError) -> str:
    """An error as text, for a process that is reached by a pipe; ``from_json`` makes an error of it again."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__)
    return json.dumps([kind, error.args, error.__dict__], default=str)


def from_json(text: str) -> KinerayError:
    """The error that ``to_json`` wrote."""
    kind, args, state = json.loads(text)
    return restored(globals()[kind], tuple(args), state)


class Terminated(KeyboardInterrupt):
    """The process got SIGTERM, as a scheduler sends it before it takes the host away."""
