"""``kineray data import``."""

from typing import Any

import click

from kineray.cli.data.show import show_summary
from kineray.cli.output import json_option, note_first


@click.command(name="import")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--format", metavar="FORMAT", help="What SOURCE is, of those above [default: SOURCE tells].")
@click.option("--videos", metavar="FOLDER", help="Folder of the videos [default: beside SOURCE].")
@click.option("--frames", metavar="FOLDER", help="epic: extracted frames, instead of videos.")
@click.option("--flow", metavar="FOLDER", help="epic: extracted optical flow, alone or beside one of these.")
@click.option(
    "--classes",
    metavar="FILE",
    help="Class names of a CSV or list, one a line; mini-kinetics: the classes to keep, in a FILE or as A,B.",
)
@click.option("--split", type=click.IntRange(1, 3), help="ucf101, hmdb51: which of the splits [default: 1].")
@click.option("--separator", metavar="TEXT", help="list: between the columns [default: space, tab or comma].")
@click.option(
    "--offset",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="ava: where the films were cut, such as 900 [default: 0, whole films].",
)
@click.option(
    "--out",
    metavar="FILE",
    help="The manifest to write [default: manifest.parquet in or beside the first SOURCE].",
)
@json_option
def command(sources: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Turn SOURCE, a folder of class folders or annotation files, into one manifest.

    Give all the annotation files of a data set at once: kineray data import train.csv val.csv

    \b
    folders        SOURCE/[SPLIT/]CLASS/*.mp4
    kinetics-csv   the official CSV files of Kinetics-400, -600 and -700
    mini-kinetics  train_ytid_list.txt, val_ytid_list.txt and the CSV files of Kinetics-400
    list           lines of 'path label' (PySlowFast)
    ucf101         the folder of classInd.txt and trainlist01.txt
    hmdb51         the folder of CLASS_test_split1.txt
    epic           the CSV files of EPIC-KITCHENS-100 or -55, or their folder
    ava            ava_train_v2.2.csv and the .pbtxt with the actions, or their folder
    ava-kinetics   kinetics_train_v1.0.csv and the same .pbtxt, or their folder
    """
    from kineray.data import import_dataset

    summary = import_dataset(sources, **options)
    missing = [name for names in summary.missing.values() for name in names]
    note_first([f"listed but missing: {name}" for name in missing])
    show_summary(summary, as_json)
