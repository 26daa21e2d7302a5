"""Measures what a device does."""

import time

import torch


class Stopwatch:
    """Adds up the time in its ``with`` blocks: on a GPU by its own clock, as Python does not wait for it."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._began_s = 0.0
        self._seconds = 0.0

    def __enter__(self) -> None:
        if self._on_gpu:
            begin, end = _gpu_event(), _gpu_event()
            begin.record()
            self._spans.append((begin, end))
        else:
            self._began_s = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._on_gpu:
            self._spans[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._began_s

    def seconds(self) -> float:
        """Seconds since the last call; the device must have finished what was measured."""
        seconds: float = self._seconds + sum(begin.elapsed_time(end) for begin, end in self._spans) / 1000
        self._seconds = 0.0
        self._spans.clear()
        return seconds


def _gpu_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
