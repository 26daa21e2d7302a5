"""``kineray export``."""

from typing import TYPE_CHECKING

import click

from kineray.cli.output import json_option, near, note, show, storage_option
from kineray.cli.plugins import plugin_option
from kineray.cli.progress import Progress

if TYPE_CHECKING:
    from kineray.evaluation.export import Format


@click.command(
    name="export", short_help="Write a checkpoint's model as ONNX or as a PyTorch exported program."
)
@click.argument("checkpoint")
@click.option(
    "--format", type=click.Choice(["onnx", "pt2"]), help="Format of FILE [default: by its extension]."
)
@click.option("--out", required=True, metavar="FILE", help="File to write; its name ends in .onnx or .pt2.")
@storage_option
@json_option
@plugin_option
def command(checkpoint: str, format: "Format | None", out: str, storage: str, as_json: bool) -> None:
    """Write the model of CHECKPOINT (a checkpoint or run folder, a run's name, or s3://...) as one file.

    Its input is normalised clips, float32 [batch, C, T, H, W] of any batch size; its outputs are the logits
    of each head, by name, which are compared with the model's before the file is written. Its metadata are
    preprocessing.json, labels.json and weights_sha256:

    \b
    onnxruntime.InferenceSession(FILE).get_modelmeta().custom_metadata_map["labels.json"]

    \b
    extra = {"preprocessing.json": "", "labels.json": ""}
    model = torch.export.load(FILE, extra_files=extra).module()
    """
    from kineray.evaluation import export

    def on_start(uri: str) -> None:
        note(f"exporting {near(uri)}; a large model takes minutes")

    with Progress(doing=f"writing {near(out)}, and comparing its answers with the model's"):
        made = export(checkpoint, out, format=format, storage=storage, on_start=on_start)
    outputs = ", ".join(f"{head} [batch, {classes}]" for head, classes in made.heads.items())
    lines = [
        f"{near(made.file)}: {made.bytes / 1e6:.1f} MB, logits within {made.difference:.1g} of the model's",
        f"clips float32 [batch, {', '.join(map(str, made.shape))}] -> {outputs}",
    ]
    then = ("kineray export --help  (how to load it, and where its preprocessing and labels are)",)
    show(made, "\n".join(lines), as_json=as_json, then=then)
