"""What the configurations of networks with residual stages res2 to res5 have in common."""

from collections.abc import Sequence
from typing import Literal

BlockName = Literal["bottleneck", "basic", "r2plus1d"]


def check_nonlocal(
    stage_blocks: Sequence[int], nonlocal_res3: Sequence[int], nonlocal_res4: Sequence[int]
) -> None:
    """Raise ValueError unless res3 and res4 have the blocks that are to be followed by non-local ones."""
    for stage, blocks, wanted in ((3, stage_blocks[1], nonlocal_res3), (4, stage_blocks[2], nonlocal_res4)):
        outside = [block for block in wanted if not 0 <= block < blocks]
        if outside:
            raise ValueError(f"nonlocal_res{stage} {outside[0]} is not one of the {blocks} res{stage} blocks")


def smallest_side(nonlocal_res3: Sequence[int], nonlocal_res4: Sequence[int]) -> int:
    """Of a clip, in pixels: the maps of non-local blocks need 2 x 2, and are 1/8 in res3, 1/16 in res4."""
    if nonlocal_res4:
        return 17
    return 9 if nonlocal_res3 else 1


def check_side(key: str, side: int, smallest: int) -> None:
    """Raise ValueError for clips whose maps in front of a non-local block are smaller than 2 x 2."""
    if side < smallest:
        raise ValueError(
            f"{key} {side} is too small for the non-local blocks, which pool 2 x 2; take {smallest} or more"
        )
