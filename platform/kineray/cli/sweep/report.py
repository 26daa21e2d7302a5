"""``kineray sweep report``."""

import click

from kineray.cli.output import at, json_option, show, storage_option


@click.command(name="report", short_help="Write a page about a sweep.")
@click.argument("name")
@click.option("--out", metavar="FILE", help="Where to write [default: report.html in the sweep's folder].")
@click.option("--price", type=float, help="Of an hour of one trial, for the costs.")
@storage_option
@json_option
def command(name: str, out: str | None, price: float | None, storage: str, as_json: bool) -> None:
    """Write one HTML page about the sweep NAME: space, best values, what matters, what the best is worth."""
    from kineray.reports.sweep import sweep_report

    path = sweep_report(name, storage=storage, out=out, price=price)
    then = (f"kineray sweep rerun {name}{at(storage)}",)
    show({"sweep": name, "report": path}, f"report: {path}", as_json=as_json, then=then)
