"""``kineray export``."""

from typing import TYPE_CHECKING, cast

import click

from kineray.cli.evaluate import check_writable, find_checkpoint
from kineray.cli.output import json_option, near, note, show, storage_option
from kineray.errors import ExportError

if TYPE_CHECKING:
    from kineray.evaluation.export import Format


@click.command(short_help="Write a checkpoint's model as ONNX or as PyTorch's exported program.")
@click.argument("checkpoint")
@click.option("--format", "file_format", type=click.Choice(["onnx", "pt2"]), required=True)
@click.option("--out", required=True, metavar="FILE", help="Its name ends in .onnx or .pt2.")
@storage_option
@json_option
def export(checkpoint: str, file_format: str, out: str, storage: str, as_json: bool) -> None:
    """Write the model of CHECKPOINT (a checkpoint or run folder, a run's name, or s3://...) as one file.

    It takes normalised clips, float32 [batch, C, T, H, W] of any batch size, and gives the logits of each
    head by its name; before it is written its answers are compared with the model's. It carries
    preprocessing.json, labels.json and weights_sha256:

    \b
    onnxruntime.InferenceSession(FILE).get_modelmeta().custom_metadata_map["labels.json"]

    \b
    extra = {"preprocessing.json": "", "labels.json": ""}
    model = torch.export.load(FILE, extra_files=extra).module()
    """
    if not out.endswith(f".{file_format}"):
        raise ExportError(f"--out {out}: the name of such a file must end in .{file_format}")
    from kineray.evaluation import check_onnx
    from kineray.evaluation import export as run_export
    from kineray.training import load_checkpoint

    if file_format == "onnx":
        check_onnx()
    loaded = load_checkpoint(find_checkpoint(checkpoint, storage))
    check_writable(out)
    note(f"exporting {near(loaded.uri)}; a large model takes minutes")
    made = run_export(loaded, out, cast("Format", file_format))
    result = {
        "file": made.uri,
        "format": made.format,
        "bytes": made.bytes,
        "checkpoint": loaded.uri,
        "weights_sha256": loaded.weights_sha256,
        "input": {"name": "clips", "shape": ["batch", *made.shape], "dtype": "float32"},
        "outputs": {head: ["batch", classes] for head, classes in made.heads.items()},
        "largest_difference": made.difference,
    }
    outputs = ", ".join(f"{head} [batch, {classes}]" for head, classes in made.heads.items())
    lines = [
        f"{near(made.uri)}: {made.bytes / 1e6:.1f} MB, logits within {made.difference:.1g} of the model's",
        f"clips float32 [batch, {', '.join(map(str, made.shape))}] -> {outputs}",
    ]
    then = ("kineray export --help  (how to load it, and where its preprocessing and labels are)",)
    show(result, "\n".join(lines), as_json=as_json, then=then)
