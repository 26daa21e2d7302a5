"""``kineray data import``: its options are the fields of all importers, including a user's own."""

from itertools import pairwise
from typing import Any

import click

from kineray.cli.data.show import show_summary
from kineray.cli.output import json_option, note_first
from kineray.cli.plugins import plugin_option
from kineray.cli.progress import Progress


class ImportCommand(click.Command):
    """Takes its options and the list of formats from the importers, when they are needed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Load plug-ins before options are read, since their importers may have options too."""
        files = [after for word, after in pairwise(args) if word == "--plugin"]
        files += [word.partition("=")[2] for word in args if word.startswith("--plugin=")]
        if files:
            from kineray.config import load_plugins

            load_plugins(*files)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """An option for each field of any importer; those that the chosen format lacks are refused later."""
        owners: dict[str, list[str]] = {}
        fields: dict[str, Any] = {}
        for name, importer in _importers().items():
            for field, about in importer.model_fields.items():
                if field != "type":
                    owners.setdefault(field, []).append(name)
                    fields.setdefault(field, about)
        own = super().get_params(ctx)
        taken = {parameter.name for parameter in own}
        options: list[click.Parameter] = [
            click.Option([f"--{field.replace('_', '-')}"], metavar="VALUE", help=_help(fields[field], names))
            for field, names in owners.items()
            if field not in taken
        ]
        return [*own, *options]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The text, followed by the formats with the first sentences of their docstrings."""
        super().format_help_text(ctx, formatter)
        rows = [(name, _first_words(importer)) for name, importer in _importers().items()]
        with formatter.section("Formats"):
            formatter.write_dl(rows)


def _importers() -> dict[str, Any]:
    from kineray.config import load_plugins, variants
    from kineray.data import Importer

    load_plugins()
    return variants(Importer)


def _help(field: Any, formats: list[str]) -> str:
    default = field.get_default(call_default_factory=True)
    default_text = f" [default: {default}]" if default not in ("", (), None) else ""
    return f"{', '.join(formats)}: {field.description or 'an option of this format.'}{default_text}"


def _first_words(importer: Any) -> str:
    text = " ".join((importer.__doc__ or "").split())
    return text.partition(": ``")[0].partition(". ")[0]


@click.command(name="import", cls=ImportCommand)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--format", metavar="FORMAT", help="Format of SOURCE [default: recognised from its files].")
@click.option(
    "--out",
    metavar="FILE",
    help="The manifest to write [default: manifest.parquet in or next to the first SOURCE].",
)
@plugin_option
@json_option
def command(sources: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Turn SOURCE, a folder of class folders or annotation files, into one manifest.

    Pass all annotation files of a data set at once: kineray data import train.csv val.csv
    """
    from kineray.data import import_dataset

    with Progress("videos", doing="reading annotations and looking for videos") as progress:
        summary = import_dataset(sources, progress=progress, **options)
    missing = [name for names in summary.missing.values() for name in names]
    note_first([f"listed but missing: {name}" for name in missing])
    show_summary(summary, as_json)
