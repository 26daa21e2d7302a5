"""Annotations -> manifest -> batches of uint8 clips."""

from kineray.data.manifest import Manifest, Sample, load_manifest, save_manifest
from kineray.data.order import global_order, sample_rng
from kineray.data.synth import synthesize

__all__ = [
    "Manifest",
    "Sample",
    "global_order",
    "load_manifest",
    "sample_rng",
    "save_manifest",
    "synthesize",
]
