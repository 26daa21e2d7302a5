"""Checks shared by the configurations of networks with residual stages res2 to res5."""

from collections.abc import Sequence
from typing import Literal

from kineray.config.clip_checks import check_sides

BlockName = Literal["bottleneck", "basic", "r2plus1d"]


def check_nonlocal(
    stage_blocks: Sequence[int], nonlocal_res3: Sequence[int], nonlocal_res4: Sequence[int]
) -> None:
    """Raise ValueError unless res3 and res4 have the blocks that non-local ones follow."""
    for stage, blocks, wanted in ((3, stage_blocks[1], nonlocal_res3), (4, stage_blocks[2], nonlocal_res4)):
        outside = [block for block in wanted if not 0 <= block < blocks]
        if outside:
            raise ValueError(
                f"nonlocal_res{stage} {outside[0]} is not one of the {blocks} blocks of res{stage}"
            )


def check_nonlocal_sides(
    crop: int, eval_crop: int, nonlocal_res3: Sequence[int], nonlocal_res4: Sequence[int]
) -> None:
    """Raise ConfigError for clips whose feature maps are smaller than 2 x 2 in front of a non-local block.

    The maps have 1/8 of the clip's side in res3, and 1/16 in res4.
    """
    smallest = 17 if nonlocal_res4 else 9 if nonlocal_res3 else 1
    check_sides(crop, eval_crop, smallest, "too small for the non-local blocks, which pool 2 x 2")
