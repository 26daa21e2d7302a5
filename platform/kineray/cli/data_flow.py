"""``kineray data flow``."""

import time

import click

from kineray.cli.data_tools import workers_option
from kineray.cli.output import Progress, json_option, near, note, show, usable_cores


@click.command(name="flow")
@click.argument("manifest")
@click.option("--out", required=True, metavar="FOLDER", help="Where the flow is written.")
@click.option(
    "--fps",
    type=click.FloatRange(0, min_open=True),
    help="Frames of flow per second [default: the video's own].",
)
@click.option(
    "--bound",
    type=click.FloatRange(0, min_open=True),
    default=20.0,
    show_default=True,
    help="Largest motion that can be stored, in pixels per frame.",
)
@click.option(
    "--short-side",
    type=click.IntRange(16),
    default=256,
    show_default=True,
    help="Videos are made this small first.",
)
@workers_option
@json_option
def flow_command(
    manifest: str,
    out: str,
    fps: float | None,
    bound: float,
    short_side: int,
    workers: int | None,
    as_json: bool,
) -> None:
    """Compute the optical flow of the videos of MANIFEST into FOLDER, as pictures of u and v.

    Ids, labels, splits and times stay what they are. The same command again goes on where it stopped.
    """
    from kineray.data import load_manifest, save_manifest
    from kineray.data.flow import Settings, compute_flow
    from kineray.data.manifest import FILE_NAME
    from kineray.data.storage import join

    loaded = load_manifest(manifest)
    start = time.monotonic()
    try:
        with Progress("flow frames") as progress:
            flows = compute_flow(
                loaded,
                manifest,
                out,
                Settings(fps, bound, short_side),
                workers=workers or usable_cores(),
                progress=lambda done, total, failed: progress(done, total, f"  {failed} videos failed"),
            )
    except KeyboardInterrupt:
        note("stopped; the same command goes on from here")
        raise
    target = join(out, FILE_NAME)
    save_manifest(flows.manifest, target)
    for uri, error in list(flows.failures.items())[:10]:
        note(f"no flow: {uri}: {error.code}")
    if len(flows.failures) > 10:
        note(f"... and {len(flows.failures) - 10} more")
    videos = len(set(flows.manifest.columns.column("uri").to_pylist()))
    result = {
        "manifest": target,
        "hash": flows.manifest.content_hash,
        "videos": videos,
        "seconds": time.monotonic() - start,
        "failed": {uri: f"{error.code}: {error}" for uri, error in sorted(flows.failures.items())},
    }
    train = (
        f"kineray train experiments/slowfast.py data.manifest={near(target)} data.modality=flow"
        " data.mean=0.5,0.5 data.std=0.226,0.226"
    )
    text = f"{target}  flow of {videos} videos, {len(flows.failures)} failed"
    show(result, text, as_json=as_json, then=(train,))
