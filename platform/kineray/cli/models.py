"""``kineray models`` and ``kineray models show``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.output import json_option, note, show, table

if TYPE_CHECKING:
    from kineray.models import Cost, ModelPreset, Summary

_UNITS = """parameters: millions, with 400 classes
GFLOPs: billions of multiply-adds of one view in convolutions and linear layers, which papers quote
attention: further ones, between activations (non-local blocks, attention)
stride: from frame to frame of a clip, at 30 a second; or how they are spread (data.sampling)
"""
_COLUMNS = ("name", "parameters", "GFLOPs", "attention", "input", "stride", "study", "source")


@click.group(invoke_without_command=True, short_help="List the published models, or show one.")
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models that are known by name: size, cost, the clips they take, where they are from."""
    context.obj = as_json
    if context.invoked_subcommand is not None:
        return
    from kineray.models import MODEL_PRESETS, list_models, summarise

    if as_json:
        found = [_facts(name, MODEL_PRESETS[name], summarise(name)) for name in list_models()]
        show({"models": found}, "", as_json=True)
        return
    click.echo(_UNITS)
    # A network takes a fraction of a second: rows are printed as they are ready, in columns for all of them.
    known = {name: _row(name, preset) for name, preset in MODEL_PRESETS.items()}
    widths = [max(len(column), *(len(row[column]) for row in known.values())) for column in _COLUMNS]
    _echo_row(_COLUMNS, widths)
    for name in list_models():
        row = known[name] | _costs(summarise(name))
        _echo_row([row[column] for column in _COLUMNS], widths)
    note("next:")
    note(f"  kineray models show {list_models()[0]}")


@models.command(name="show")
@click.argument("name")
@json_option
@click.pass_obj
def show_model(json_of_group: bool, name: str, as_json: bool) -> None:
    """Explain the model NAME block by block: what it is, its shapes, parameters and multiply-adds."""
    from kineray.config import overrides_of
    from kineray.models import find_preset, summarise

    preset = find_preset(name)
    summary = summarise(name)
    overrides = overrides_of(preset.config, "model")
    rows = [
        {
            "part": part.name,
            "is": part.kind,
            "output": " ".join("x".join(map(str, shape)) for shape in part.outputs) or None,
            "parameters": f"{part.parameters:,}",
            "GFLOPs": _giga(part.cost.weighted),
            "attention": _giga(part.cost.attention),
        }
        for part in summary.parts
    ]
    costs = _costs(summary)
    more = f", {costs['attention']} more in attention" if summary.cost.attention else ""
    columns = (
        "part",
        "is",
        "output",
        "parameters",
        "GFLOPs",
        *(("attention",) if summary.cost.attention else ()),
    )
    lines = [
        f"{name}: {preset.source}; study: {preset.study}",
        f"clip: {_size(preset)} (channels x frames x height x width), {_stride(preset)}",
        f"{summary.parameters:,} parameters with 400 classes",
        f"{costs['GFLOPs']} GFLOPs (multiply-adds of convolutions and linear layers){more}",
        f"configuration: {' '.join(overrides)}",
        "",
        table(rows, columns),
    ]
    parts = [
        {
            "name": part.name,
            "kind": part.kind,
            "outputs": part.outputs,
            "parameters": part.parameters,
            **_gflops(part.cost),
        }
        for part in summary.parts
    ]
    result = _facts(name, preset, summary) | {"overrides": overrides, "parts": parts}
    words = ["data.manifest=MANIFEST", *preset.clip_overrides(), *overrides]
    then = (
        f"kineray train experiments/{preset.study}.py {' '.join(words)}",
        f"python -c \"import kineray; print(kineray.create_model('{name}', heads={{'action': 400}}))\"",
        "kineray models",
    )
    show(result, "\n".join(lines), as_json=as_json or json_of_group, then=then)


def _facts(name: str, preset: "ModelPreset", summary: "Summary") -> dict[str, Any]:
    return {
        "name": name,
        "parameters": summary.parameters,
        **_gflops(summary.cost),
        "channels": preset.channels,
        "frames": preset.frames,
        "side": preset.side,
        "sampling": preset.sampling,
        "stride": preset.stride,
        "source": preset.source,
        "study": preset.study,
    }


def _gflops(cost: "Cost") -> dict[str, float]:
    return {"gflops": cost.weighted / 1e9, "gflops_attention": cost.attention / 1e9}


def _row(name: str, preset: "ModelPreset") -> dict[str, str]:
    """What is known without building the network."""
    return {
        "name": name,
        "parameters": "",
        "GFLOPs": "",
        "attention": "",
        "input": _size(preset),
        "stride": str(preset.stride) if preset.stride else preset.sampling,
        "study": preset.study,
        "source": preset.source,
    }


def _costs(summary: "Summary") -> dict[str, str]:
    return {
        "parameters": f"{summary.parameters / 1e6:.2f}",
        "GFLOPs": _giga(summary.cost.weighted),
        "attention": _giga(summary.cost.attention),
    }


def _giga(count: int) -> str:
    if count == 0:
        return "-"
    return f"{count / 1e9:.2f}" if count >= 0.005e9 else "<0.01"


def _size(preset: "ModelPreset") -> str:
    return f"{preset.channels}x{preset.frames}x{preset.side}x{preset.side}"


def _stride(preset: "ModelPreset") -> str:
    if preset.frames == 1:
        return "one picture"
    return f"{preset.sampling} sampling" + (f", frames {preset.stride}/30 s apart" if preset.stride else "")


def _echo_row(cells: Sequence[str], widths: Sequence[int]) -> None:
    padded = (text.ljust(width) for text, width in zip(cells, widths, strict=True))
    click.echo("  ".join(padded).rstrip())


command = models
