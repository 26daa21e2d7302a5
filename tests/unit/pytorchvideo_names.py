"""pytorchvideo as a second implementation of SlowFast and 3D ResNets: its names for our tensors."""

import re

import torch


def as_pytorchvideo(state, pooled=False):
    """Our state dict under pytorchvideo's names. ``pooled``: a 3D ResNet with a pool after res2."""
    single = any(key.startswith("backbone.") for key in state)

    def stage(match):
        pathway, number = match[1], int(match[2])
        if single:
            return f"blocks.{number if pooled and number > 2 else number - 1}.res_blocks."
        return f"blocks.{number - 1}.multipathway_blocks.{int(pathway == 'fast')}.res_blocks."

    head = 6 if pooled or not single else 5
    renamed = {}
    for key, value in state.items():
        k = key.replace("backbone.stem.", "blocks.0.").replace("head.linear.action", f"blocks.{head}.proj")
        k = k.replace("slow.stem.", "blocks.0.multipathway_blocks.0.")
        k = k.replace("fast.stem.", "blocks.0.multipathway_blocks.1.")
        k = re.sub(r"^laterals\.(\d)\.conv", r"blocks.\1.multipathway_fusion.conv_fast_to_slow", k)
        k = re.sub(r"^laterals\.(\d)\.norm", r"blocks.\1.multipathway_fusion.norm", k)
        k = re.sub(r"^(slow|fast|backbone)\.res(\d)\.block", stage, k)
        k = k.replace("shortcut.0", "branch1_conv").replace("shortcut.1", "branch1_norm")
        renamed[re.sub(r"\.(conv|norm)_([abc])\.", r".branch2.\1_\2.", k)] = value
    assert len(renamed) == len(state)
    return renamed


def randomise(model, inputs):
    """Random values for every parameter and buffer; running statistics are those of ``inputs``."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.5)
        if name.startswith("head.linear") and value.ndim == 2:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.05)
    for module in model.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(inputs)
    model.eval()
