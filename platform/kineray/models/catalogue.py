"""What ``kineray models`` lists. It is kept in catalogue.json, because counting takes half a minute.

A test compares the file with the networks; ``make catalogue`` rewrites it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kineray.models.preset import ModelPreset
from kineray.models.registry import find_preset, list_models
from kineray.models.summary import Summary, summarise

FILE = Path(__file__).with_name("catalogue.json")


def describe(name: str) -> dict[str, Any]:
    """A preset as plain values, with its costs for the preset's clips and one head of 400 classes."""
    return facts(name, find_preset(name), summarise(name))


def facts(name: str, preset: ModelPreset, summary: Summary) -> dict[str, Any]:
    """A preset and its costs as plain values; ``gflops`` counts billions of multiply-adds."""
    return {
        "name": name,
        "type": preset.config.type,
        "parameters": summary.parameters,
        "gflops": summary.cost.weighted / 1e9,
        "gflops_attention": summary.cost.attention / 1e9,
        "channels": preset.channels,
        "frames": preset.frames,
        "side": preset.side,
        "sampling": preset.sampling,
        "stride": preset.stride,
        "source": preset.source,
        "study": preset.study,
    }


def as_text(models: Iterable[Mapping[str, Any]]) -> str:
    """JSON with one line for each model."""
    return "[\n" + ",\n".join(json.dumps(model) for model in models) + "\n]\n"


if __name__ == "__main__":
    FILE.write_text(as_text(map(describe, list_models())))
