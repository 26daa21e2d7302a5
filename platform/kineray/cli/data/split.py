"""``kineray data split``."""

from collections.abc import Mapping

import click

from kineray.cli.output import json_option, near, note, show, table
from kineray.cli.progress import Progress

_SHARE = click.FloatRange(0, 1, max_open=True)


@click.command(name="split")
@click.argument("manifest")
@click.option("--out", required=True, metavar="FILE", help="The manifest to write.")
@click.option("--val", type=_SHARE, default=0.1, show_default=True, help="Share of the samples for val.")
@click.option("--test", type=_SHARE, default=0.0, show_default=True, help="Share of the samples for test.")
@click.option(
    "--from",
    "source",
    multiple=True,
    default=("train",),
    show_default=True,
    metavar="SPLIT",
    help="Divide this split; may be repeated. The first one keeps the remaining samples.",
)
@click.option(
    "--group-by",
    metavar="PATTERN",
    help="Regular expression that finds the person or source video in each path, such as 'p[0-9]+'; a (part)"
    " in parentheses is what counts [default: the groups that were imported].",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives another division.")
@json_option
def command(
    manifest: str,
    out: str,
    val: float,
    test: float,
    source: tuple[str, ...],
    group_by: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Divide MANIFEST into train, val and test, with every group (video, person) in only one of them.

    --val and --test are shares of the samples of --from; classes are spread as evenly as the groups allow.
    """
    from kineray.data import split

    with Progress(doing=f"dividing {near(manifest)}"):
        made = split(manifest, out, val=val, test=test, source=source, group_by=group_by, seed=seed)
    rows = [
        {
            "split": report.split,
            "samples": report.samples,
            "groups": report.groups,
            "wanted": f"{report.wanted:.1%}",
            "reached": f"{report.reached:.1%}",
            "fewest per class": _by_head(report.fewest),
            "missing classes": _by_head(report.absent),
        }
        for report in made.splits
    ]
    if made.leaks:
        note(
            f"{len(made.leaks)} of the groups, such as {made.leaks[0]}, are also in a split"
            " that was not divided"
        )
    text = f"{out}  {made.name}  {made.hash[:12]}\n{table(rows, tuple(rows[0]))}"
    train = f"kineray train experiments/slowfast.py data.manifest={out}"
    show(made, text, as_json=as_json, then=(f"kineray data show {out}", train))


def _by_head(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{head} {count}" for head, count in counts.items()) or "-"
