"""Annotations -> manifest -> batches of uint8 clips.

The names below are imported when they are first used: a process that only decodes needs no torch.
"""

from typing import TYPE_CHECKING

from kineray.lazy import lazy_names

_WHERE = {
    "Batch": "batches.loader",
    "BatchSpec": "batches.spec",
    "ClipDataset": "batches.dataset",
    "ClipShape": "batches.spec",
    "EvalClips": "batches.loader",
    "Failure": "batches.spec",
    "FlowCopy": "derive.api",
    "Importer": "importers.base",
    "Manifest": "manifest.manifest",
    "ManifestSummary": "manifest.summary",
    "Preprocessing": "clips.preprocessing",
    "ReencodedCopy": "derive.api",
    "Sample": "manifest.samples",
    "Source": "importers.base",
    "SplitManifest": "derive.api",
    "StatsReport": "derive.api",
    "ValidationReport": "derive.api",
    "describe": "manifest.summary",
    "eval_clips": "batches.loader",
    "flow": "derive.api",
    "global_order": "batches.order",
    "import_dataset": "importers.dataset",
    "load_batches": "batches.loader",
    "load_manifest": "manifest.manifest",
    "read_dataset": "importers.dataset",
    "reencode": "derive.api",
    "sample_rng": "clips.seeds",
    "save_manifest": "manifest.manifest",
    "split": "derive.api",
    "stats": "derive.api",
    "steps_per_epoch": "batches.order",
    "synthesize": "derive.synth",
    "training_batches": "batches.training",
    "validate": "derive.api",
}

__all__ = sorted(_WHERE)  # noqa: PLE0605 - a list of strings, made from the table above

if TYPE_CHECKING:
    from kineray.data.batches.dataset import ClipDataset as ClipDataset
    from kineray.data.batches.loader import Batch as Batch
    from kineray.data.batches.loader import EvalClips as EvalClips
    from kineray.data.batches.loader import eval_clips as eval_clips
    from kineray.data.batches.loader import load_batches as load_batches
    from kineray.data.batches.order import global_order as global_order
    from kineray.data.batches.order import steps_per_epoch as steps_per_epoch
    from kineray.data.batches.spec import BatchSpec as BatchSpec
    from kineray.data.batches.spec import ClipShape as ClipShape
    from kineray.data.batches.spec import Failure as Failure
    from kineray.data.batches.training import training_batches as training_batches
    from kineray.data.clips.preprocessing import Preprocessing as Preprocessing
    from kineray.data.clips.seeds import sample_rng as sample_rng
    from kineray.data.derive.api import FlowCopy as FlowCopy
    from kineray.data.derive.api import ReencodedCopy as ReencodedCopy
    from kineray.data.derive.api import SplitManifest as SplitManifest
    from kineray.data.derive.api import StatsReport as StatsReport
    from kineray.data.derive.api import ValidationReport as ValidationReport
    from kineray.data.derive.api import flow as flow
    from kineray.data.derive.api import reencode as reencode
    from kineray.data.derive.api import split as split
    from kineray.data.derive.api import stats as stats
    from kineray.data.derive.api import validate as validate
    from kineray.data.derive.synth import synthesize as synthesize
    from kineray.data.importers.base import Importer as Importer
    from kineray.data.importers.base import Source as Source
    from kineray.data.importers.dataset import import_dataset as import_dataset
    from kineray.data.importers.dataset import read_dataset as read_dataset
    from kineray.data.manifest.manifest import Manifest as Manifest
    from kineray.data.manifest.manifest import load_manifest as load_manifest
    from kineray.data.manifest.manifest import save_manifest as save_manifest
    from kineray.data.manifest.samples import Sample as Sample
    from kineray.data.manifest.summary import ManifestSummary as ManifestSummary
    from kineray.data.manifest.summary import describe as describe

__getattr__, __dir__ = lazy_names(__name__, _WHERE)
