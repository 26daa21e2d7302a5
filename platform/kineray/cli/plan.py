"""``kineray plan``."""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.launch import Verb, add_options, resolve, with_smoke_data, worker_options
from kineray.cli.output import Size, json_option, note, show, storage_option, table
from kineray.cli.plugins import ExperimentCommand, plugin_option
from kineray.cli.scripts import load_script
from kineray.planning.assumptions import DEVICES, HERE, Assumptions
from kineray.sizes import size_text

if TYPE_CHECKING:
    from kineray.planning.api import PlannedRun
    from kineray.planning.prediction import Prediction
    from kineray.tracking.planned import Comparison

_SHOWN_LOSSES = 0.005  # of the time; smaller ones are left out


class Counts(click.ParamType[tuple[int, ...]]):
    """Numbers of GPUs, written like 8,64,128."""

    name = "counts"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is not a list of numbers, as in 8,64,128", param, ctx)
        return tuple(map(int, parts))


def _assumption_options(command: Verb) -> Verb:
    """One click option for every field of ``Assumptions``; ``command`` gets them as ``assumptions``."""
    fields = dataclasses.fields(Assumptions)

    @functools.wraps(command)
    def with_assumptions(*arguments: Any, **values: Any) -> None:
        given = Assumptions(**{field.name: values.pop(field.name) for field in fields})
        command(*arguments, assumptions=given, **values)

    return add_options(with_assumptions, [_option(field) for field in fields])


def _option(field: "dataclasses.Field[Any]") -> Any:
    unit, whole = field.metadata["unit"], field.type in ("int | None", int | None)
    kind = Size() if unit == "SIZE" else click.INT if whole else click.FLOAT
    flag = f"--{field.name.replace('_', '-').removesuffix('-s')}"
    return click.option(flag, field.name, type=kind, metavar=unit, help=field.metadata["help"])


@click.command(name="plan", cls=ExperimentCommand, short_help="Predict time, cost and limits of a run.")
@click.argument("script")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--gpus",
    type=Counts(),
    metavar="N,N,...",
    help="Numbers of GPUs [default: 8,64,128, or the workers of --run].",
)
@click.option(
    "--device",
    default="h100",
    show_default=True,
    metavar="NAME",
    help=f"{', '.join(DEVICES)}; {' or '.join(HERE)} measures this machine.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="Time for each measurement.",
)
@click.option("--run", metavar="RUN", help="Compare with what this run achieved, and record both there.")
@storage_option
@worker_options
@plugin_option
@click.option("--smoke", is_flag=True, help="Plan the script's small experiment, on video files made for it.")
@_assumption_options
@json_option
def command(
    script: str,
    overrides: tuple[str, ...],
    gpus: tuple[int, ...] | None,
    device: str,
    seconds: float,
    run: str | None,
    storage: str,
    options: Any,
    smoke: bool,
    assumptions: Assumptions,
    as_json: bool,
) -> None:
    """Predict what SCRIPT, with KEY=VALUE changes, takes on some numbers of GPUs.

    It measures what can be measured here: how fast a core decodes the clips of data.manifest, and the
    network's arithmetic, memory and gradients. The rest are assumptions, which it prints; every one is an
    option.
    """
    from kineray.planning.api import plan

    experiment = resolve(load_script(script), overrides, script, smoke)
    if smoke:
        experiment = with_smoke_data(experiment)
    if gpus is None:
        gpus = (8, 64, 128) if run is None else (_workers_of(run, storage),)
    note("measuring ...")
    planned = plan(
        experiment, gpus=gpus, device=device, options=options, assumptions=assumptions, seconds=seconds
    )
    compared = None if run is None else _compared(planned, run, storage)
    words = " ".join([script, *overrides, *["--smoke"] * smoke])
    show(
        planned if compared is None else {**dataclasses.asdict(planned), "run": dataclasses.asdict(compared)},
        "\n".join(
            [*_run(planned), *_assumed(planned), "", _table(planned), *_more(planned), *_beside(compared)]
        ),
        as_json=as_json,
        then=(f"kineray train {words}", f"kineray plan {words} --gpus {','.join(map(str, gpus))} --json"),
    )


def _workers_of(run: str, storage: str) -> int:
    from kineray.tracking.planned import workers_of

    return workers_of(run, storage=storage)


def _compared(planned: "PlannedRun", run: str, storage: str) -> "Comparison":
    from kineray.tracking.planned import compare_with_run

    return compare_with_run(planned, run, storage=storage)


def _beside(compared: "Comparison | None") -> list[str]:
    if compared is None:
        return []
    return [
        f"run {compared.run} with {compared.workers} workers: {compared.predicted:.4g} clips/s predicted, "
        f"{compared.measured:.4g} measured ({compared.predicted / compared.measured:.2f}x)"
    ]


def _run(planned: "PlannedRun") -> list[str]:
    lines = [
        planned.experiment,
        *(f"{name}: {text}" for name, text in planned.shape.lines().items()),
        f"network: {planned.parameters:,} parameters, {planned.flops / 1e9:.4g} GFLOP for a clip, forward and"
        f" backward; {size_text(planned.gradients)} of gradients in {planned.buckets} buckets",
        f"checkpoints: {planned.checkpoints} of {size_text(planned.checkpoint)}",
    ]
    rate = planned.assumptions.decode_clips_per_core
    how = f"measured on {planned.decoded} clips" if planned.decoded else "not measured"
    return [
        *lines,
        f"decoding: {rate:.3g} clips per second on a core ({how}), {size_text(planned.clip_bytes)} each",
    ]


def _assumed(planned: "PlannedRun") -> list[str]:
    """The assumptions, by where they are from."""
    lines = []
    for origin in dict.fromkeys(planned.origins.values()):
        shown = [
            f"{field.name} {_value(field, getattr(planned.assumptions, field.name))}"
            for field in dataclasses.fields(Assumptions)
            if planned.origins.get(field.name) == origin
            and getattr(planned.assumptions, field.name) is not None
        ]
        if shown:
            title = "assumed" if origin == "usual" else origin
            lines.append(f"{title}: {', '.join(shown)}")
    return lines


def _value(field: "dataclasses.Field[Any]", value: float) -> str:
    unit, is_rate = field.metadata["unit"], "bandwidth" in field.name
    if unit == "SIZE":
        return size_text(value) + "/s" * is_rate
    return f"{value:.3g}" + {"FLOPS": " FLOP/s", "SECONDS": " s", "USD": " USD"}.get(unit, "")


def _table(planned: "PlannedRun") -> str:
    rows = [_row(each) for each in planned.predictions]
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return table(rows, tuple(columns))


def _row(each: "Prediction") -> dict[str, Any]:
    limit = (
        f"{each.bound} ({each.compute_limit})"
        if each.compute_limit and each.bound == "compute"
        else each.bound
    )
    return {
        "GPUs": each.gpus,
        "clips each": each.clips_per_gpu,
        "step ms": f"{each.step_s * 1e3:.4g}",
        "limit": limit,
        "exposed ms": f"{each.exposed_s * 1e3:.3g}",
        "clips/s": f"{each.clips_per_s:.4g}",
        "of peak": None if each.share_of_peak is None else f"{each.share_of_peak:.1%}",
        "cores/GPU": f"{each.cores_per_gpu:.3g}",
        "memory": size_text(each.memory),
        "micro-batch up to": each.largest_micro_batch,
        "hours": None if each.hours is None else f"{each.hours:.3g}",
        "GPU-hours": None if each.gpu_hours is None else f"{each.gpu_hours:.4g}",
        "cost": None if each.cost is None else f"{each.cost:,.0f}",
        "goodput": f"{each.goodput:.1%}",
    }


def _more(planned: "PlannedRun") -> list[str]:
    """What the table has no room for."""
    lines = []
    for each in planned.predictions:
        lost = [f"{cause} {share:.1%}" for cause, share in each.lost.items() if share >= _SHOWN_LOSSES]
        reduced = f"all-reduce {each.ring_s * 1e3:.3g} ms in a ring, {each.tree_s * 1e3:.3g} in a tree; "
        lines.append(f"{each.gpus}: {reduced if each.gpus > 1 else ''}lost: {', '.join(lost) or 'nothing'}")
        if not each.largest_micro_batch:
            lines.append(
                f"{each.gpus}: a batch-norm group does not fit: use --activation-checkpointing, or a smaller"
                " train.bn_group"
            )
    written = planned.predictions[0].checkpoint_bytes
    lines.append(f"checkpoints write {size_text(written)} in all")
    if planned.knee is not None:
        lines.append(f"knee: {planned.knee.gpus} GPUs ({planned.knee.why})")
    return lines
