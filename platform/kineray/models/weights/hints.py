"""The configuration that weights of SlowFast, 3D ResNets and X3D were trained with, as far as it shows."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_TEMPORAL = re.compile(r"res(\d)\.block\d+\.conv_a\.weight")
_NON_LOCAL = re.compile(r"res(\d)\.nonlocal(\d+)\.theta\.weight")
_STAGES = (2, 3, 4, 5)


def overrides_for(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, str]:
    """``{"fusion_kernel": "7"}``: fields of our configuration that do not fit the shapes of ``theirs``."""
    wanted, present = _seen_in_shapes(theirs), _seen_in_shapes(ours)
    if "type" in wanted and wanted["type"] != present.get("type"):
        return wanted
    if wanted.get("block") == "basic" and "block" not in present:
        return {}  # there are no such blocks in this architecture
    return {key: value for key, value in wanted.items() if present.get(key, value) != value}


def public_settings(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Settings that do not show in the shapes, but are the same in all public networks of these shapes.

    SlowFast R101, and R50 with laterals of 7 frames, are 8x8 or 16x8 networks: alpha is 4. The non-local
    blocks of C2D and I3D use the softmax, those of SlowFast dot products.
    """
    lateral = tensors.get("laterals.0.conv.weight")
    has_nonlocal = any(".nonlocal" in name for name in tensors)
    if lateral is not None:
        is_r101 = "slow.res4.block22.conv_a.weight" in tensors
        alpha = {"alpha": "4"} if is_r101 or lateral.shape[2] == 7 else {}
        return alpha | ({"nonlocal_form": "dot_product"} if has_nonlocal else {})
    if has_nonlocal and _variant(tensors) != "slow":
        return {"nonlocal_form": "softmax"}
    return {}


def _seen_in_shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Fields of SlowFastConfig, ResNet3dConfig or X3DConfig, as in overrides; empty for other networks."""
    is_slowfast = "fast.stem.conv.weight" in tensors
    main = "slow." if "slow.stem.conv.weight" in tensors else "backbone."
    slow = _temporal_kernels(tensors, main)
    if set(slow) != set(_STAGES):
        return {}
    is_x3d = f"{main}stem.spatial.weight" in tensors
    stem = tensors[f"{main}stem.{'spatial' if is_x3d else 'conv'}.weight"]
    width = stem.shape[0]
    seen = {"stage_blocks": _joined(len(slow[stage]) for stage in _STAGES), "width": str(width)}
    if is_x3d:
        return seen | {"type": "x3d"}
    if f"{main}res2.block0.conv_c.weight" not in tensors:
        seen["block"] = "basic"
    elif main == "slow.":
        seen["block"] = "bottleneck"
    if stem.ndim == 4:  # an image network
        return seen
    seen["type"] = "slowfast" if is_slowfast else "resnet3d"
    for stage in (3, 4):
        seen[f"nonlocal_res{stage}"] = _joined(_nonlocal_blocks(tensors, main, stage))
    if not is_slowfast:
        return seen | {"variant": _variant(tensors)}
    lateral = tensors["laterals.0.conv.weight"].shape
    seen["beta_inv"] = str(width // tensors["fast.stem.conv.weight"].shape[0])
    seen["fusion_ratio"] = str(lateral[0] // lateral[1])
    seen["fusion_kernel"] = str(lateral[2])
    for pathway, kernels in (("slow", slow), ("fast", _temporal_kernels(tensors, "fast."))):
        seen[f"temporal_kernels_{pathway}"] = _joined(kernels[stage][0] for stage in _STAGES)
        counts = [kernels[stage].count(kernels[stage][0]) for stage in _STAGES]
        everywhere = counts == [len(kernels[stage]) for stage in _STAGES]
        seen[f"temporal_blocks_{pathway}"] = "none" if everywhere else _joined(counts)
    return seen


def _variant(tensors: Mapping[str, Tensor]) -> str:
    if tensors["backbone.stem.conv.weight"].shape[2] > 1:
        return "i3d"
    return "slow" if 3 in _temporal_kernels(tensors, "backbone.")[4] else "c2d"


def _temporal_kernels(tensors: Mapping[str, Tensor], prefix: str) -> dict[int, list[int]]:
    """{stage: temporal kernel size of the first convolution of each block (1 in image networks)}."""
    kernels: dict[int, list[int]] = {}
    for name, tensor in tensors.items():
        found = _TEMPORAL.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if found:
            kernels.setdefault(int(found[1]), []).append(tensor.shape[2] if tensor.ndim == 5 else 1)
    return kernels


def _nonlocal_blocks(tensors: Mapping[str, Tensor], prefix: str, stage: int) -> list[int]:
    matches = (_NON_LOCAL.fullmatch(name.removeprefix(prefix)) for name in tensors if name.startswith(prefix))
    return sorted(int(found[2]) for found in matches if found and int(found[1]) == stage)


def _joined(numbers: Iterable[int]) -> str:
    return ",".join(str(number) for number in numbers)
