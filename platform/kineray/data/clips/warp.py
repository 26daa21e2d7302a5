"""Moving the pixels of whole clips by an affine map, the same for all frames."""

import numpy as np

NO_MOTION = 128  # optical flow of 0 as a pixel, 127.5 rounded up


def warp(
    clip_thwc: np.ndarray,
    rgb_channels: int,
    linear: np.ndarray,
    shift: tuple[float, float] = (0.0, 0.0),
    *,
    centre: tuple[float, float],
) -> np.ndarray:
    """Map every point p of the frames, (x, y) in pixels, to ``linear`` (p - ``centre``) + centre + ``shift``.

    ``clip_thwc``: uint8 [T, H, W, C], of which the first ``rgb_channels`` are RGB and the others u and v of
    optical flow, in turns. ``linear``: [2, 2]. The result shows the nearest pixel, and black or no motion
    where there is none; vectors of flow are mapped too.
    """
    _, height, width, channels = clip_thwc.shape
    y_hw, x_hw = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    moved_2hw = np.stack([x_hw - centre[0] - shift[0], y_hw - centre[1] - shift[1]])
    from_2hw = np.tensordot(np.linalg.inv(linear), moved_2hw, 1)
    column_hw, row_hw = (
        np.rint(axis_hw + middle - 0.5).astype(np.intp)
        for axis_hw, middle in zip(from_2hw, centre, strict=True)
    )
    outside_hw = (column_hw < 0) | (column_hw >= width) | (row_hw < 0) | (row_hw >= height)
    pixels = row_hw.clip(0, height - 1) * width + column_hw.clip(0, width - 1)
    warped_thwc = clip_thwc.reshape(len(clip_thwc), -1, channels)[:, pixels]
    if channels > rgb_channels and not np.array_equal(linear, np.eye(2)):
        _map_vectors(warped_thwc[..., rgb_channels:], linear)
    fill_c = np.where(np.arange(channels) < rgb_channels, 0, NO_MOTION).astype(np.uint8)
    warped_thwc[:, outside_hw] = fill_c
    return warped_thwc


def _map_vectors(flow_thwc: np.ndarray, linear: np.ndarray) -> None:
    """Multiply each (u, v), of which 127.5 means 0, by ``linear``, in place."""
    vectors = flow_thwc.reshape(*flow_thwc.shape[:-1], -1, 2).astype(np.float32) - 127.5
    mapped = (vectors @ linear.T.astype(np.float32) + 127.5).reshape(flow_thwc.shape)
    flow_thwc[...] = np.rint(mapped).clip(0, 255).astype(np.uint8)
