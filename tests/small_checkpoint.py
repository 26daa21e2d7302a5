"""A checkpoint of a small SlowFast with random weights whose predictions clearly differ between clips."""

import numpy as np
import torch

from kineray.config import CosineConfig, DataConfig, Experiment, SlowFastConfig, TrainConfig
from kineray.config.data import clip_parts
from kineray.data import Preprocessing
from kineray.data.derive.synth import DRIFTS, drifting_texture
from kineray.models import build_model
from kineray.training import CheckpointStore, build_optimizer
from kineray.training.state import TrainingState

CLASSES = ("drift_left", "drift_right", "drift_up", "drift_down")


def save_small_checkpoint(uri, *, seed=0, heads=None, frames=8, eval_crop=32, name="small", modality="rgb"):
    """Write it into ``uri`` (a run's ``checkpoints`` folder); returns the URI of the checkpoint itself."""
    values = sum(clip_parts(modality, 1))
    heads = heads or {"action": CLASSES}
    experiment = Experiment(
        name=name,
        data=DataConfig(
            frames=frames,
            stride=1,
            fps=15,
            short_side=(32, 40),
            crop=32,
            eval_short_side=eval_crop + 4,
            eval_crop=eval_crop,
            modality=modality,
            mean=(0.45,) * values,
            std=(0.225,) * values,
        ),
        model=SlowFastConfig(
            stage_blocks=(1, 1, 1, 1), width=8, alpha=4, beta_inv=4, head_pool=1, dropout=0.0
        ),
        schedule=CosineConfig(warmup_epochs=0),
        train=TrainConfig(epochs=1, global_batch=8),
    )
    preprocessing = Preprocessing.from_config(experiment.data, heads)
    torch.manual_seed(seed)
    classes = {head: len(names) for head, names in heads.items()}
    model = build_model(experiment.model, classes, preprocessing.channels).eval()
    _spread(model, preprocessing, np.random.default_rng(seed))
    uri, _ = CheckpointStore(uri).save(
        TrainingState.of(model, build_optimizer(model, experiment.optim), experiment, {"step": 1}),
        preprocessing,
        score=0.5,
    )
    return uri


def _spread(model, preprocessing, rng):
    """Scale the classifier so that logits differ by about one between clips and between classes."""
    side = preprocessing.eval_crop
    drifts = list(DRIFTS.values()) * 4
    clips = [
        drifting_texture(rng, size=side, frames=preprocessing.frames, velocity=(2 * x, 2 * y), smoothness=3.0)
        for x, y in drifts
    ]
    clips = torch.from_numpy(np.stack(clips))
    clips = clips[..., torch.arange(preprocessing.channels) % 3]
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.normal_(layer.weight)
        for head, logits in model(preprocessing.normalise(clips)).items():
            layer = model.head.linear[head]
            scale = logits.std(dim=0)
            layer.weight /= scale[:, None]
            layer.bias.copy_((layer.bias - logits.mean(dim=0)) / scale)
