"""``kineray data flow``."""

import click

from kineray.cli.output import (
    decoders_option,
    json_option,
    near,
    note_first,
    setting_option,
    show,
)
from kineray.cli.progress import Progress

_SETTINGS = "kineray.data.derive.flow"
_POSITIVE = click.FloatRange(0, min_open=True)


@click.command(name="flow")
@click.argument("manifest")
@click.option("--out", required=True, metavar="FOLDER", help="Folder or s3:// prefix to write the flow to.")
@click.option("--fps", type=_POSITIVE, help="Frames of flow per second [default: the video's own].")
@setting_option(
    "--bound", _POSITIVE, _SETTINGS, "Largest motion that can be stored, in pixels from frame to frame."
)
@setting_option(
    "--short-side",
    click.IntRange(16),
    _SETTINGS,
    "Videos are first scaled down to this short side, in pixels.",
)
@decoders_option
@json_option
def command(
    manifest: str,
    out: str,
    fps: float | None,
    bound: float,
    short_side: int,
    decoders: int | None,
    as_json: bool,
) -> None:
    """Compute the optical flow of the videos of MANIFEST and write it to FOLDER, as images of u and v.

    The manifest that is written there names the videos and their flow, so that models of RGB, of flow and
    of both can be trained with it. Ids, labels, splits and times are unchanged. If interrupted, the same
    command continues where it stopped.
    """
    from kineray.data import flow

    with Progress("flow frames", "videos failed") as progress:
        copy = flow(
            manifest,
            out,
            fps=fps,
            bound=bound,
            short_side=short_side,
            decoders=decoders,
            progress=progress,
        )
    note_first([f"no flow: {uri}: {why}" for uri, why in copy.failed.items()])
    train = (
        f"kineray train experiments/slowfast.py data.manifest={near(copy.manifest)} data.modality=flow"
        " data.mean=0.5,0.5 data.std=0.226,0.226"
    )
    text = f"{copy.manifest}  flow of {copy.videos} videos, {len(copy.failed)} failed"
    show(copy, text, as_json=as_json, then=(train,))
