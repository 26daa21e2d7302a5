"""``kineray models`` and ``kineray models show``."""

import json
import logging
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.output import json_option, show, table
from kineray.cli.plugins import plugin_option

if TYPE_CHECKING:
    from kineray.models import ModelPreset, Summary

log = logging.getLogger(__name__)

_CLASSES = 400  # of the one head that models are listed with
_UNITS = f"""parameters: millions, with {_CLASSES} classes
GFLOPs: billions of multiply-adds per view in convolutions and linear layers, the number that papers quote
attention: billions of multiply-adds between activations (non-local blocks, attention), not in GFLOPs
stride: distance between the frames of a clip at 30 frames per second, or the data.sampling that spreads them
"""
_COLUMNS = ("name", "parameters", "GFLOPs", "attention", "input", "stride", "study", "source")


class ClipSize(click.ParamType[tuple[int, int]]):
    """Number of frames, and side in pixels, written like 32x256."""

    name = "clip"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        parts = str(value).split("x")
        if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is not FRAMESxSIDE, as in 32x256", param, ctx)
        return int(parts[0]), int(parts[1])


@click.group(invoke_without_command=True, short_help="List the published models, or show one.")
@plugin_option
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models that have a name: parameters, cost, input clips, and source."""
    context.obj = as_json
    if context.invoked_subcommand is not None:
        return
    listed = _listed()
    text = f"{_UNITS}\n{table([_row(model) for model in listed], _COLUMNS)}"
    show({"models": listed}, text, as_json=as_json, then=(f"kineray models show {listed[0]['name']}",))


@models.command(name="show")
@click.argument("name")
@click.option(
    "--classes", type=click.IntRange(1), default=_CLASSES, show_default=True, help="Number of classes."
)
@click.option(
    "--clip",
    type=ClipSize(),
    metavar="FRAMESxSIDE",
    help="Frames and side in pixels of its clips, such as 32x256 [default: those of its publication].",
)
@plugin_option
@json_option
@click.pass_obj
def show_model(
    json_of_group: bool, name: str, classes: int, clip: tuple[int, int] | None, as_json: bool
) -> None:
    """Explain the model NAME block by block: type, output shape, parameters and multiply-adds."""
    from kineray.config import overrides_of
    from kineray.models import find_preset, summarise
    from kineray.models.catalogue import facts

    preset = find_preset(name)
    if clip is not None:
        preset = replace(preset, frames=clip[0], side=clip[1])
    summary = summarise(name, (preset.channels, preset.frames, preset.side, preset.side), classes=classes)
    model = facts(name, preset, summary)
    overrides = overrides_of(preset.config, "model")
    result = {**model, "classes": classes, "overrides": overrides, "parts": _parts(summary)}
    words = ["data.manifest=MANIFEST", *preset.clip_overrides(), *overrides]
    then = (
        f"kineray train experiments/{preset.study or 'SCRIPT'}.py {' '.join(words)}",
        f"python -c \"import kineray; print(kineray.create_model('{name}', heads={{'action': {classes}}}))\"",
        "kineray models",
    )
    text = _explained(model, preset, summary, classes, overrides)
    show(result, text, as_json=as_json or json_of_group, then=then)


def _listed() -> list[dict[str, Any]]:
    """The models of the stored catalogue, and those of plug-ins, whose costs are counted now."""
    from kineray.config import ModelSection, variants

    listed = json.loads(files("kineray").joinpath("models/catalogue.json").read_text())
    if set(variants(ModelSection)) - {model["type"] for model in listed}:
        from kineray.models import list_models
        from kineray.models.catalogue import describe

        names = {model["name"] for model in listed}
        for name in sorted(set(list_models()) - names):
            try:
                listed.append(describe(name))
            except Exception as error:  # whatever a user's network raises for the default clips
                log.warning(
                    "%s is not listed: %s: %s; give its file PRESETS", name, type(error).__name__, error
                )
    return sorted(listed, key=lambda model: model["name"])


def _row(model: dict[str, Any]) -> dict[str, str]:
    return {
        "name": model["name"],
        "parameters": f"{model['parameters'] / 1e6:.2f}",
        "GFLOPs": _giga(model["gflops"]),
        "attention": _giga(model["gflops_attention"]),
        "input": _size(model),
        "stride": str(model["stride"] or model["sampling"]),
        "study": model["study"] or "-",
        "source": model["source"],
    }


def _explained(
    model: dict[str, Any], preset: "ModelPreset", summary: "Summary", classes: int, overrides: list[str]
) -> str:
    row = _row(model)
    has_attention = summary.cost.attention > 0
    more = f", {row['attention']} more in attention" if has_attention else ""
    columns = ["part", "is", "output", "parameters", "GFLOPs", *["attention"] * has_attention]
    rows = [
        {
            "part": part.name,
            "is": part.kind,
            "output": " ".join("x".join(map(str, shape)) for shape in part.outputs) or None,
            "parameters": f"{part.parameters:,}",
            "GFLOPs": _giga(part.cost.weighted / 1e9),
            "attention": _giga(part.cost.attention / 1e9),
        }
        for part in summary.parts
    ]
    study = f"; study: {preset.study}" if preset.study else ""
    lines = [
        f"{row['name']}: {preset.source}{study}",
        f"clip: {row['input']} (channels x frames x height x width), {_stride(preset)}",
        f"{summary.parameters:,} parameters with {classes} classes",
        f"{row['GFLOPs']} GFLOPs (multiply-adds of convolutions and linear layers){more}",
        f"configuration: {' '.join(overrides)}",
        "",
        table(rows, tuple(columns)),
    ]
    return "\n".join(lines)


def _parts(summary: "Summary") -> list[dict[str, Any]]:
    return [
        {
            "name": part.name,
            "kind": part.kind,
            "outputs": part.outputs,
            "parameters": part.parameters,
            "gflops": part.cost.weighted / 1e9,
            "gflops_attention": part.cost.attention / 1e9,
        }
        for part in summary.parts
    ]


def _giga(billions: float) -> str:
    if billions == 0:
        return "-"
    return f"{billions:.2f}" if billions >= 0.005 else "<0.01"


def _size(model: dict[str, Any]) -> str:
    return f"{model['channels']}x{model['frames']}x{model['side']}x{model['side']}"


def _stride(preset: "ModelPreset") -> str:
    if preset.frames == 1:
        return "one frame"
    return f"{preset.sampling} sampling" + (f", frames {preset.stride}/30 s apart" if preset.stride else "")


command = models
