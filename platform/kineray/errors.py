"""What went wrong, in one line that a user can act on."""


class KinerayError(Exception):
    """A problem that the user can fix. The command line prints it as one line and exits with code 2.

    The message names the file or key, what is wrong with it, and what to do.
    """


class ConfigError(KinerayError):
    """An experiment value, key or override that is not valid."""


class ManifestError(KinerayError):
    """A manifest or an annotation file that cannot be used."""


class StorageError(KinerayError):
    """A folder, file or bucket that cannot be read or written."""


class TrackingError(KinerayError):
    """MLflow cannot be reached, or it has no such run or model version."""


class CheckpointError(KinerayError):
    """A checkpoint folder that is missing, incomplete or of another model."""


class ExportError(KinerayError):
    """A model that cannot be written as a file of another format."""


class ServingError(KinerayError):
    """A service that cannot be started or reached, or a version that it cannot be given."""


class DecodeError(KinerayError):
    """A video that cannot be decoded.

    ``code`` is stable and machine readable: ``not_found``, ``not_a_video``, ``no_video_stream``,
    ``codec_unsupported``, ``truncated``, ``empty``, ``wrong_frame_count``, ``too_large``, ``too_long``,
    ``timeout`` (libav did not come back) or ``crashed`` (it ended its process).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[str, str]]:
        return (type(self), (self.code, str(self)))


class NonFiniteLossError(KinerayError):
    """The loss became NaN or infinite; the message names the step and the sample ids."""


class ErrorBudgetError(KinerayError):
    """More clips than the error budget allows could not be decoded; the message lists the files."""
