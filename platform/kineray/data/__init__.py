"""Annotations -> manifest -> batches of uint8 clips.

The names below are imported when they are first used: a process that only decodes needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Batch": "loader",
    "EvalClips": "loader",
    "Failure": "loader",
    "Manifest": "manifest",
    "Preprocessing": "preprocessing",
    "Sample": "samples",
    "eval_clips": "loader",
    "from_folders": "formats",
    "from_kinetics_csv": "formats",
    "from_path_label_list": "formats",
    "global_order": "order",
    "load_manifest": "manifest",
    "sample_rng": "order",
    "save_manifest": "manifest",
    "steps_per_epoch": "loader",
    "synthesize": "synth",
    "train_batches": "loader",
}

__all__ = sorted(_WHERE)  # noqa: PLE0605 - a list of strings, made from the table above

if TYPE_CHECKING:
    from kineray.data.formats import from_folders as from_folders
    from kineray.data.formats import from_kinetics_csv as from_kinetics_csv
    from kineray.data.formats import from_path_label_list as from_path_label_list
    from kineray.data.loader import Batch as Batch
    from kineray.data.loader import EvalClips as EvalClips
    from kineray.data.loader import Failure as Failure
    from kineray.data.loader import eval_clips as eval_clips
    from kineray.data.loader import steps_per_epoch as steps_per_epoch
    from kineray.data.loader import train_batches as train_batches
    from kineray.data.manifest import Manifest as Manifest
    from kineray.data.manifest import load_manifest as load_manifest
    from kineray.data.manifest import save_manifest as save_manifest
    from kineray.data.order import global_order as global_order
    from kineray.data.order import sample_rng as sample_rng
    from kineray.data.preprocessing import Preprocessing as Preprocessing
    from kineray.data.samples import Sample as Sample
    from kineray.data.synth import synthesize as synthesize


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"kineray.data.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'kineray.data' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
