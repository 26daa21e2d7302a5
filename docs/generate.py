"""Writes docs/reference.md from what the code declares: ``make reference``; a test keeps it true."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import kineray
from kineray import data
from kineray.cli.app import cli
from kineray.config import DataConfig, Experiment, TrainConfig, variants
from kineray.config.data import ClipSection
from kineray.config.tree import families_by_key
from kineray.config.variants import default_tree

PAGE = Path(__file__).with_name("reference.md")
TITLE = """# Reference

Made from the code by `make reference`. Longer: `help(kineray.NAME)` in Python.
"""


def page() -> str:
    """The text of the page."""
    functions, verbs = ["## Functions\n", *_functions()], ["## Verbs\n", *_verbs("kineray", cli)]
    return "\n".join([TITLE, *_sections(), *_families(), *functions, *verbs])


def _text(doc: str | None) -> str:
    """A docstring as one line of Markdown."""
    return " ".join(inspect.cleandoc(doc or "").replace("``", "`").split())


def _first(doc: str | None) -> str:
    """Its first paragraph."""
    return _text((doc or "").partition("\n\n")[0])


def _item(name: str, section: Any, text: str = "") -> str:
    """A section: its text, and its fields with their defaults."""
    usual = default_tree(section)
    fields = [f"{field}={_shown(usual.get(field, 'REQUIRED'))}" for field in section.model_fields]
    given = " ".join(field for field in fields if not field.startswith("type="))
    return f"* **`{name}`** {text or _text(section.__doc__)}" + (f"\n  `{given}`" if given else "")


def _shown(value: Any) -> str:
    if isinstance(value, dict) and not all(isinstance(inside, dict) for inside in value.values()):
        return str(value.get("type", "..."))
    if isinstance(value, dict | list | tuple):
        return ",".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool | None) else str(value) or "none"


def _sections() -> Iterator[str]:
    yield "## Sections of an experiment\n"
    yield _item("Experiment", Experiment)
    yield _item("data", DataConfig, f"{_text(ClipSection.__doc__)} {_text(DataConfig.__doc__)}")
    yield _item("train", TrainConfig) + "\n"


def _families() -> Iterator[str]:
    keys = {family: key for key, family in families_by_key().items()}
    for family, key in {**keys, data.Importer: "kineray data import --format"}.items():
        yield f"## `{key}`: `{family.__name__}`\n"
        yield f"{_first(family.__doc__)}\n"
        own = (item for item in variants(family).items() if item[1].__module__.startswith("kineray."))
        yield from (_item(name, variant) for name, variant in own)
        yield ""


def _functions() -> Iterator[str]:
    for prefix, module, names in (("kineray", kineray, kineray._HOMES), ("kineray.data", data, data.__all__)):
        for name in sorted(names):
            value = getattr(module, name)
            if inspect.isfunction(value) and not (module is data and name in kineray._HOMES):
                yield f"* **`{prefix}.{name}{_signature(value)}`** {_first(value.__doc__)}"
    yield ""


def _signature(function: Any) -> str:
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))
    text = re.sub(r"WorkerOptions\([^)]*\)", "WorkerOptions()", text)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z])", "", text)  # kineray.data.Manifest -> Manifest


def _verbs(path: str, group: click.Group) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        words, context = f"{path} {name}", click.Context(command)
        rows = filter(None, (one.get_help_record(context) for one in command.get_params(context)))
        yield f"### `{words} {' '.join(command.collect_usage_pieces(context))}`\n\n{_text(command.help)}\n"
        yield from (
            f"* `{row[0]}` {_text(row[1])}" for row in rows if row and row[1] and "--help" not in row[0]
        )
        yield ""
        if isinstance(command, click.Group):
            yield from _verbs(words, command)


if __name__ == "__main__":
    PAGE.write_text(page())
