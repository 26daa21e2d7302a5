"""Annotations -> manifest -> batches of uint8 clips."""

from kineray.data.formats import from_folders, from_kinetics_csv, from_path_label_list
from kineray.data.loader import Batch, EvalClips, Failure, eval_clips, steps_per_epoch, train_batches
from kineray.data.manifest import Manifest, Sample, load_manifest, save_manifest
from kineray.data.order import global_order, sample_rng
from kineray.data.preprocessing import Preprocessing
from kineray.data.synth import synthesize

__all__ = [
    "Batch",
    "EvalClips",
    "Failure",
    "Manifest",
    "Preprocessing",
    "Sample",
    "eval_clips",
    "from_folders",
    "from_kinetics_csv",
    "from_path_label_list",
    "global_order",
    "load_manifest",
    "sample_rng",
    "save_manifest",
    "steps_per_epoch",
    "synthesize",
    "train_batches",
]
