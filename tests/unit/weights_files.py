"""Files of weights as others publish them, and random models to compare.

The public files are made here: our weights, by the names of PySlowFast and Caffe2. The names are written from
their documentation, independently of the tables that are tested.
"""

import pickle
import re

import numpy as np
import pytest
import torch

from kineray.config import SlowFastConfig
from kineray.errors import CheckpointError, KinerayError
from kineray.models import build_model, load_weights

SLOWFAST = SlowFastConfig(
    stage_blocks=(1, 2, 2, 1), width=8, alpha=4, beta_inv=4, head_pool=1, nonlocal_res4=(1,)
)


def built(config=SLOWFAST, classes=5, *, seed=0, channels=3):
    """A model whose values are all random, batch norms included, so that no mix-up goes unnoticed."""
    torch.manual_seed(seed)
    model = build_model(config, {"action": classes}, channels).eval()
    randomise(model)
    return model


def randomise(model):
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand_like(value) + (0.5 if name.endswith("var") else 0))


def clips(frames=8, channels=3):
    return torch.randn(2, channels, frames, 32, 32, generator=torch.Generator().manual_seed(1))


def logits(model, inputs=None):
    with torch.no_grad():
        return model(clips() if inputs is None else inputs)["action"]


def saved(content, path):
    torch.save(content, path)
    return path


def refused(model, init, **options):
    """The error of ``load_weights``, one line; the model stays as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KinerayError) as error:
        load_weights(model, str(init), **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(error.value) is CheckpointError
    message = str(error.value)
    assert error.value.key == str(init) and "\n" not in message and len(message) < 600
    return error.value


# -- names of our weights in other projects -----------------------------------------------------------


def parts(name):
    """``slow.res4.block0.conv_a.weight`` -> (pathway 0 or 1, stage, "block", 0, "conv_a", "weight")."""
    found = re.fullmatch(
        r"(slow|fast|backbone)\.res(\d)\.(block|nonlocal)(\d+)\.(\w+)((?:\.\d)?)\.(\w+)", name
    )
    pathway = {"slow": 0, "backbone": 0, "fast": 1}[found[1]]
    return pathway, int(found[2]), found[3], int(found[4]), found[5] + found[6], found[7]


def pyslowfast_name(name, _):
    if name.startswith("head."):
        return f"head.projection.{name.rpartition('.')[2]}"
    if name.startswith("laterals."):
        _, index, layer, leaf = name.split(".")
        return f"s{int(index) + 1}_fuse.{ {'conv': 'conv_f2s', 'norm': 'bn'}[layer] }.{leaf}"
    if ".stem." in name:
        pathway, _, layer, leaf = name.split(".")
        return f"s1.pathway{int(pathway == 'fast')}_stem.{ {'conv': 'conv', 'norm': 'bn'}[layer] }.{leaf}"
    pathway, stage, kind, index, layer, leaf = parts(name)
    if kind == "nonlocal":
        return (
            f"s{stage}.pathway{pathway}_nonlocal{index}.{'bn' if layer == 'norm' else f'conv_{layer}'}.{leaf}"
        )
    place = {"shortcut.0": "branch1", "shortcut.1": "branch1_bn"}
    place |= {f"conv_{letter}": f"branch2.{letter}" for letter in "abc"}
    place |= {f"norm_{letter}": f"branch2.{letter}_bn" for letter in "abc"}
    return f"s{stage}.pathway{pathway}_res{index}.{place[layer]}.{leaf}"


def caffe2_name(name, config):
    kind, _, leaf = name.rpartition(".")
    is_norm = re.search(r"norm(_[abc])?$|shortcut\.1$", kind)
    end = {"weight": "w", "bias": "b"}
    if is_norm:
        end = {"weight": "bn_s", "bias": "bn_b", "running_mean": "bn_rm", "running_var": "bn_riv"}
    if leaf not in end:
        return None  # counters
    end = end[leaf]
    if name.startswith("head."):
        return f"pred_{end}"
    if name.startswith("laterals."):
        stage = int(name.split(".")[1]) + 1
        last = config.stage_blocks[stage - 2] - 1
        return (
            f"t_pool1_subsample_{end}" if stage == 1 else f"t_res{stage}_{last}_branch2c_bn_subsample_{end}"
        )
    if ".stem." in name:
        return f"{'t_' if name.startswith('fast') else ''}{'res_' if is_norm else ''}conv1_{end}"
    pathway, stage, kind, index, layer, _ = parts(name)
    if kind == "nonlocal":
        return f"nonlocal_conv{stage}_{index}_{end if layer == 'norm' else f'{layer}_{end}'}"
    branch = "1" if layer.startswith("shortcut") else f"2{layer[-1]}"
    return f"{'t_' if pathway else ''}res{stage}_{index}_branch{branch}_{end}"


def save(model, path, config=SLOWFAST, cfg=None):
    """The weights of a model as a public file: by the suffix of ``path``, PySlowFast's or Caffe2's."""
    state = model.state_dict()
    if path.suffix == ".pyth":
        weights = {pyslowfast_name(name, config): value for name, value in state.items()}
        torch.save({"epoch": 195, "model_state": weights, "optimizer_state": {}, "cfg": cfg or ""}, path)
    else:
        blobs = {caffe2_name(name, config): value.numpy() for name, value in state.items()}
        del blobs[None]
        blobs |= {f"{name}_momentum": value for name, value in list(blobs.items())}
        blobs |= {"lr": np.float32([0.1]), "model_iter": np.int64([12])}
        path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    return str(path)
