"""What a prediction takes for granted: the published figures of devices, and the user's own. No torch."""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kineray.errors import ConfigError

SAMPLES, CLASSES = 240_000, 400
"""Of Kinetics-400: what is assumed without a manifest."""

HERE = ("here", "cpu")
"""The devices that are measured instead of looked up: this machine's GPU if it has one, and its CPU."""


@dataclass(frozen=True)
class Device:
    """A GPU, and the host that it is rented in.

    ``flops``: dense peak FLOP/s by ``train.precision``. ``memory`` in bytes, ``memory_bandwidth`` in
    bytes/s. ``link_bandwidth``: bytes/s of a GPU to the others of its host, and ``copy_bandwidth`` from the
    host's memory, each in one direction. Of the host: ``gpus_per_host``, ``cores_per_gpu`` (as clouds count
    them: two for a physical core) and ``network_bandwidth`` in bytes/s.
    """

    flops: Mapping[str, float]
    memory: float
    memory_bandwidth: float
    link_bandwidth: float
    copy_bandwidth: float
    gpus_per_host: int
    cores_per_gpu: float
    network_bandwidth: float


def _flops(float32: float, bfloat16: float) -> Mapping[str, float]:
    return MappingProxyType({"float32": float32 * 1e12, "bfloat16": bfloat16 * 1e12})


DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        "h100": Device(_flops(494, 989), 80e9, 3350e9, 450e9, 50e9, 8, 24, 400e9),
        "h200": Device(_flops(494, 989), 141e9, 4800e9, 450e9, 50e9, 8, 24, 400e9),
        "a100": Device(_flops(156, 312), 40e9, 1555e9, 300e9, 25e9, 8, 12, 50e9),
        "a100_80gb": Device(_flops(156, 312), 80e9, 2039e9, 300e9, 25e9, 8, 12, 50e9),
        "v100": Device(_flops(15.7, 15.7), 32e9, 900e9, 150e9, 12e9, 8, 12, 12.5e9),
        "a10g": Device(_flops(35, 70), 24e9, 600e9, 25e9, 25e9, 8, 24, 12.5e9),
        "l4": Device(_flops(60, 121), 24e9, 300e9, 25e9, 25e9, 8, 24, 12.5e9),
        "t4": Device(_flops(8.1, 8.1), 16e9, 320e9, 12e9, 12e9, 4, 12, 6.25e9),
    }
)
"""Peaks without sparsity, memory and links: NVIDIA's data sheets of H100 SXM5, H200 SXM, A100 SXM4, V100
SXM2, A10G, L4 and T4. float32 is TF32 where the device has it, which cuDNN uses by default; V100 and T4 have
no bfloat16 arithmetic, so it is no faster. Hosts: AWS p5, p5e, p4d, p4de, p3dn, g5.48xlarge, g6.48xlarge and
g4dn.12xlarge."""

_UNKNOWN_GPU = DEVICES["l4"]  # what else a GPU that is measured is taken for: links by PCI Express


def _assumed(unit: str, help: str, *, default: Any = None, at_most: float | None = None) -> Any:
    return field(default=default, metadata={"unit": unit, "help": help, "at_most": at_most})


@dataclass(frozen=True, repr=False)
class Assumptions:
    """The numbers of a prediction that are not measured. None: that of the device, or a usual value.

    ``efficiency`` multiplies the speed of a network whose every kernel reaches the peak of the arithmetic or
    of the memory. The default 0.38 is what published benchmarks of 8 V100s in float32 give for SlowFast R50
    4x16 and 8x8, SlowOnly R50 and I3D R50 (0.37 to 0.40; ``benchmarks/plan.py``), if convolutions count the
    channels that they compute: whole tiles of 128. ``failures_per_gpu_day``: 419 unexpected interruptions in
    54 days on 16,384 GPUs (The Llama 3 Herd of Models, arXiv 2407.21783, section 3.3.4). A field's metadata
    are what the command line shows. Raises ConfigError (``out_of_range``).
    """

    price: float | None = _assumed("USD", "Price of a GPU for an hour.")
    efficiency: float | None = _assumed(
        "SHARE", "Share of the peak of arithmetic and memory that kernels reach.", at_most=1
    )
    peak_flops: float | None = _assumed("FLOPS", "Peak FLOP/s of the device at train.precision.")
    memory: float | None = _assumed("SIZE", "Memory of the device.")
    memory_bandwidth: float | None = _assumed("SIZE", "Bandwidth of its memory, per second.")
    launch_s: float | None = _assumed("SECONDS", "Time to start a kernel from Python.")
    link_bandwidth: float | None = _assumed("SIZE", "From a GPU to others of its host, per second.")
    link_latency_s: float | None = _assumed("SECONDS", "Latency of a message within a host.")
    network_bandwidth: float | None = _assumed("SIZE", "From a host to others, per second.")
    network_latency_s: float | None = _assumed("SECONDS", "Latency of a message between hosts.")
    link_share: float | None = _assumed("SHARE", "Share of these bandwidths that is reached.", at_most=1)
    copy_bandwidth: float | None = _assumed("SIZE", "From the host's memory to a GPU, per second.")
    gpus_per_host: int | None = _assumed("N", "GPUs of a host.")
    cores_per_gpu: float | None = _assumed("N", "Cores of a host for each of its GPUs.")
    decode_clips_per_core: float | None = _assumed(
        "CLIPS", "Clips a core decodes per second [default: measured on data.manifest]."
    )
    samples: int | None = _assumed("N", "Training samples where there is no data.manifest.")
    classes: int | None = _assumed("N", "Classes where there is no data.manifest.")
    write_bandwidth: float | None = _assumed("SIZE", "To the storage of checkpoints, per second.")
    snapshot_bandwidth: float | None = _assumed(
        "SIZE", "From the device to snapshots in the host's memory, per second."
    )
    start_s: float | None = _assumed("SECONDS", "From the command to the first step.")
    restart_s: float | None = _assumed("SECONDS", "From the loss of a worker to the next step.")
    failures_per_gpu_day: float | None = _assumed("N", "Failures of each GPU per day.")

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value, most = getattr(self, each.name), each.metadata["at_most"]
            may_be_zero = each.metadata["unit"] in {"SECONDS", "USD"} or each.name.startswith("failures")
            if value is None:
                continue
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or value < 0 or (value == 0 and not may_be_zero) or (most and value > most):
                raise ConfigError(
                    f"{value!r} is not a number {'from' if may_be_zero else 'above'} 0"
                    + (f" to {most:g}" if most else ""),
                    code="out_of_range",
                    key=each.name,
                    remedy=f"give `{each.name}` such a value, or leave it out",
                )

    def __repr__(self) -> str:
        given = [f"{name}={value!r}" for name, value in vars(self).items() if value is not None]
        return f"Assumptions({', '.join(given)})"

    def filled(self, device: Device, precision: str) -> "Assumptions":
        """The same with the figures of ``device``, or usual ones, instead of None, but for ``price``."""
        of_device = {
            each.name: getattr(device, each.name)
            for each in dataclasses.fields(self)
            if hasattr(device, each.name)
        }
        usual = {**_USUAL, **of_device, "peak_flops": device.flops[precision]}
        return dataclasses.replace(self, **{k: v for k, v in usual.items() if getattr(self, k) is None})


_USUAL: Mapping[str, Any] = MappingProxyType(
    {
        "efficiency": 0.38,
        "launch_s": 6e-6,
        "link_latency_s": 3e-6,
        "network_latency_s": 15e-6,
        "link_share": 0.75,
        "decode_clips_per_core": 25.0,  # 340x256 at 30 fps, far key frames: benchmarks/results/decode.md
        "samples": SAMPLES,
        "classes": CLASSES,
        "write_bandwidth": 200e6,
        "snapshot_bandwidth": 1e9,
        "start_s": 30.0,
        "restart_s": 60.0,
        "failures_per_gpu_day": 419 / 54 / 16_384,
    }
)


def find_device(name: str) -> Device:
    """The device of this name in ``DEVICES``. Raises ConfigError for another."""
    if name not in DEVICES:
        near = difflib.get_close_matches(name.lower(), [*DEVICES, *HERE], 1)
        raise ConfigError(
            "not a known device",
            code="unknown_device",
            key="device",
            value=name,
            remedy=f"did you mean {near[0]}?" if near else f"use one of {', '.join([*DEVICES, *HERE])}",
        )
    return DEVICES[name]


def this_machine(gpu: str, memory: float, cores: int) -> Device:
    """A device that is measured: a GPU of this name as the driver says it, or "" for the CPU.

    Its arithmetic is not needed. ``memory`` in bytes; ``cores``: of this machine. Workers without a GPU
    talk over the loopback interface by gloo.
    """
    if not gpu:
        return Device(_flops(1, 1), memory, 1e10, 1e9, 1e10, cores, 1, 1e9)
    words = gpu.lower().replace("-", " ").split()
    known = next((DEVICES[name] for name in DEVICES if name in words), _UNKNOWN_GPU)
    return dataclasses.replace(known, memory=memory)


def value_of(value: float | None) -> float:
    """The value of a field of ``Assumptions.filled``, which has one."""
    assert value is not None, "assumptions that are not filled"
    return value
