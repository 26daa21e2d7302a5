"""Names of weights in the public files of the SlowFast family and of X3D, and ours for them.

Ours is ``slow.res4.block0.conv_a.weight``; theirs are:

    PySlowFast     s4.pathway0_res0.branch2.a.weight
    PyTorchVideo   blocks.3.multipathway_blocks.0.res_blocks.0.branch2.conv_a.weight
    Caffe2         res4_0_branch2a_w

Networks with one pathway have ``backbone.`` instead of ``slow.``. ``head.linear.*`` is the only classifier of
these files.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

ANY_HEAD = "*"

Table = list[tuple[re.Pattern[str], str]]


def table(*rows: tuple[str, str]) -> Table:
    """Compile rows of (regular expression for a whole name, our name)."""
    return [(re.compile(pattern), ours) for pattern, ours in rows]


def rename(name: str, rows: Table) -> str:
    """The new name of ``name``, by the first row that matches; unchanged if none does."""
    for pattern, ours in rows:
        found = pattern.fullmatch(name)
        if found:
            return found.expand(ours)
    return name


# In our names "0:" stands for the Slow pathway, and "1:" for the Fast one, until ``_named``.
_PYSLOWFAST = table(
    (r"s1\.pathway(\d)_stem\.conv\.(.*)", r"\1:stem.conv.\2"),
    (r"s1\.pathway(\d)_stem\.bn\.(.*)", r"\1:stem.norm.\2"),
    (r"s(\d)\.pathway(\d)_res(\d+)\.branch1\.(.*)", r"\2:res\1.block\3.shortcut.0.\4"),
    (r"s(\d)\.pathway(\d)_res(\d+)\.branch1_bn\.(.*)", r"\2:res\1.block\3.shortcut.1.\4"),
    (r"s(\d)\.pathway(\d)_res(\d+)\.branch2\.([abc])\.(.*)", r"\2:res\1.block\3.conv_\4.\5"),
    (r"s(\d)\.pathway(\d)_res(\d+)\.branch2\.([abc])_bn\.(.*)", r"\2:res\1.block\3.norm_\4.\5"),
    (r"s(\d)\.pathway(\d)_nonlocal(\d+)\.conv_(theta|phi|g|out)\.(.*)", r"\2:res\1.nonlocal\3.\4.\5"),
    (r"s(\d)\.pathway(\d)_nonlocal(\d+)\.bn\.(.*)", r"\2:res\1.nonlocal\3.norm.\4"),
    (r"s(\d)_fuse\.conv_f2s\.(.*)", r"laterals.\1.conv.\2"),
    (r"s(\d)_fuse\.bn\.(.*)", r"laterals.\1.norm.\2"),
    (r"head\.projection\.(.*)", rf"head.linear.{ANY_HEAD}.\1"),
)

# For names in which ``_number_stages`` has replaced the number of the block by that of the stage. The first
# rows are those of X3D, whose stem has its two convolutions under each other's names.
_PYTORCHVIDEO = table(
    (r"stem\.(\d)\.conv\.conv_t\.(.*)", r"\1:stem.spatial.\2"),
    (r"stem\.(\d)\.conv\.conv_xy\.(.*)", r"\1:stem.temporal.\2"),
    (r"res(\d)\.(\d)\.res_blocks\.(\d+)\.branch2\.norm_b\.0\.(.*)", r"\2:res\1.block\3.norm_b.\4"),
    (
        r"res(\d)\.(\d)\.res_blocks\.(\d+)\.branch2\.norm_b\.1\.block\.0\.(.*)",
        r"\2:res\1.block\3.se.reduce.\4",
    ),
    (
        r"res(\d)\.(\d)\.res_blocks\.(\d+)\.branch2\.norm_b\.1\.block\.2\.(.*)",
        r"\2:res\1.block\3.se.expand.\4",
    ),
    (r"blocks\.\d\.pool\.pre_(conv|norm)\.(.*)", r"conv5.\1.\2"),
    (r"blocks\.\d\.pool\.post_conv\.(.*)", r"lin5.\1"),
    (r"stem\.(\d)\.(conv|norm)\.(.*)", r"\1:stem.\2.\3"),
    (r"res(\d)\.(\d)\.res_blocks\.(\d+)\.branch1_conv\.(.*)", r"\2:res\1.block\3.shortcut.0.\4"),
    (r"res(\d)\.(\d)\.res_blocks\.(\d+)\.branch1_norm\.(.*)", r"\2:res\1.block\3.shortcut.1.\4"),
    (r"res(\d)\.(\d)\.res_blocks\.(\d+)\.branch2\.(conv|norm)_([abc])\.(.*)", r"\2:res\1.block\3.\4_\5.\6"),
    (r"laterals\.(\d)\.conv_fast_to_slow\.(.*)", r"laterals.\1.conv.\2"),
    (r"blocks\.\d\.proj\.(.*)", rf"head.linear.{ANY_HEAD}.\1"),
)

_CAFFE2 = table(
    (r"(t_|)conv1_w", r"\1:stem.conv.weight"),
    (r"(t_|)res_conv1_bn_(s|b|rm|riv)", r"\1:stem.norm.\2"),
    (r"(t_|)res(\d)_(\d+)_branch1_w", r"\1:res\2.block\3.shortcut.0.weight"),
    (r"(t_|)res(\d)_(\d+)_branch1_bn_(s|b|rm|riv)", r"\1:res\2.block\3.shortcut.1.\4"),
    (r"(t_|)res(\d)_(\d+)_branch2([abc])_w", r"\1:res\2.block\3.conv_\4.weight"),
    (r"(t_|)res(\d)_(\d+)_branch2([abc])_bn_(s|b|rm|riv)", r"\1:res\2.block\3.norm_\4.\5"),
    (r"nonlocal_conv(\d)_(\d+)_(theta|phi|g|out)_(w|b)", r":res\1.nonlocal\2.\3.\4"),
    (r"nonlocal_conv(\d)_(\d+)_bn_(s|b|rm|riv)", r":res\1.nonlocal\2.norm.\3"),
    (r"t_pool1_subsample_w", r"laterals.1.conv.weight"),
    (r"t_pool1_subsample_bn_(s|b|rm|riv)", r"laterals.1.norm.\1"),
    (r"t_res(\d)_\d+_branch2c_bn_subsample_w", r"laterals.\1.conv.weight"),
    (r"t_res(\d)_\d+_branch2c_bn_subsample_bn_(s|b|rm|riv)", r"laterals.\1.norm.\2"),
    (r"pred_(w|b)", rf"head.linear.{ANY_HEAD}.\1"),
)
_CAFFE2_LEAVES = {"s": "weight", "w": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}


def from_pyslowfast(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a PySlowFast checkpoint by our names; unknown names are kept."""
    return _named({name: rename(name, _PYSLOWFAST) for name in tensors}, tensors)


def from_pytorchvideo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a PyTorchVideo checkpoint by our names; unknown names are kept."""
    numbered = _number_stages(tensors)
    return _named({name: rename(numbered[name], _PYTORCHVIDEO) for name in tensors}, tensors)


def from_caffe2(blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The blobs of a Caffe2 file by our names; unknown names are kept."""
    names: dict[str, str] = {}
    for name in blobs:
        stem, dot, leaf = rename(name, _CAFFE2).rpartition(".")
        names[name] = f"{stem}{dot}{_CAFFE2_LEAVES.get(leaf, leaf) if dot else leaf}"
        names[name] = re.sub(r"^(t_|):", lambda found: "1:" if found[1] else "0:", names[name])
    tensors = _named(names, blobs)
    classifier = f"head.linear.{ANY_HEAD}.weight"
    if classifier in tensors:  # in some files it is a convolution
        tensors[classifier] = tensors[classifier].flatten(1)
    return tensors


def _named(names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the finished names: pathways by name, laterals counted from 0."""
    has_fast = any(name.startswith("1:") for name in names.values())

    def finished(name: str) -> str:
        name = re.sub(r"^laterals\.(\d)", lambda found: f"laterals.{int(found[1]) - 1}", name)
        name = re.sub(r"^0:", "slow." if has_fast else "backbone.", name)
        return re.sub(r"^1:", "fast.", name)

    return {finished(ours): tensors[name] for name, ours in names.items()}


def _number_stages(names: Iterable[str]) -> dict[str, str]:
    """``blocks.3.multipathway_blocks.1.res_blocks`` -> ``res4.1.res_blocks``.

    The numbers of the blocks depend on the network: c2d and i3d have a pooling block between two stages.
    """
    found = (re.match(r"blocks\.(\d+)\..*\bres_blocks\.", name) for name in names)
    stages = sorted({match[1] for match in found if match}, key=int)
    number = {block: stage for stage, block in enumerate(stages, start=2)}

    def numbered(name: str) -> str:
        parts = name.split(".")
        if parts[0] != "blocks" or len(parts) < 3:
            return name
        block, rest = parts[1], parts[2:]
        if rest[0] == "multipathway_fusion":
            lateral = ".".join(rest[1:])
            return f"laterals.{int(block) + 1}.{lateral}"
        rest = rest[1:] if rest[0] == "multipathway_blocks" else ["0", *rest]
        if block == "0":
            return ".".join(["stem", *rest])
        return ".".join([f"res{number[block]}", *rest]) if block in number else name

    return {name: numbered(name) for name in names}
