"""The prediction is arithmetic on a workload: its limits, and what may never go the other way."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kineray.config import DataConfig
from kineray.data import ClipShape
from kineray.errors import ConfigError
from kineray.planning.assumptions import DEVICES, Assumptions, find_device, this_machine
from kineray.planning.collectives import all_reduce_s, ring_s, tree_s
from kineray.planning.prediction import compute_s, exposed_s, knee, predict
from kineray.planning.workload import Bucket, Graph, Measured, Op, StepKind, Workload
from kineray.training import Step

MATMUL, COPY = Op(1e12, 1.5e12, 1e8), Op(0.0, 0.0, 2e9)
GRAPH = Graph(8, (MATMUL, COPY), (MATMUL, COPY, MATMUL), (Bucket(10**8, 1), Bucket(2 * 10**8, 3)), 4 * 10**9)
KIND = StepKind(steps=1000, global_batch=1024, bn_group=8, graph=GRAPH, clip_bytes=5_000_000)
WORK = Workload(
    kinds=(KIND,),
    two_groups=9 * 10**9,
    state=5 * 10**8,
    statistics=10**6,
    checkpoint=5 * 10**8,
    checkpoints=10,
    validations=10,
    val_clips=5000,
    validation=Graph(8, (MATMUL,), (), (), 10**9),
)
FAST_INPUT = Assumptions(decode_clips_per_core=1e9, price=2.0)
H100 = FAST_INPUT.filled(DEVICES["h100"], "bfloat16")

counts = st.integers(1, 128)
sizes = st.integers(1, 10**10)


def of(count, assumptions=H100, work=WORK, micro_batch=8, decoders=None):
    return predict(work, count, assumptions, micro_batch=micro_batch, decoders=decoders)


def with_(**changes):
    return dataclasses.replace(H100, **changes)


def work_with(**changes):
    return dataclasses.replace(WORK, **changes)


@given(counts, st.integers(1, 64), st.integers(1, 4))
def test_a_workers_share_is_that_of_the_step(gpus, groups, bn_group):
    kind = dataclasses.replace(KIND, global_batch=groups * bn_group, bn_group=bn_group)
    step = Step(0, 0, 0, kind.global_batch, bn_group, ClipShape.of(DataConfig()), 0.1, 1.0)
    if gpus <= groups:
        assert kind.share(gpus) == max(len(step.share(rank, gpus)) for rank in range(gpus))
    else:
        with pytest.raises(ConfigError):
            step.share(0, gpus)


@given(sizes, counts)
def test_an_all_reduce_takes_at_least_what_its_bytes_take(size, gpus):
    crossing = min(H100.link_bandwidth, H100.network_bandwidth if gpus > 8 else math.inf) * H100.link_share
    least = 2 * (gpus - 1) / gpus * size / crossing
    assert ring_s(size, gpus, H100) >= least
    assert tree_s(size, gpus, H100) >= least * (1 - 1e-9)
    assert all_reduce_s(size, gpus, H100) == min(ring_s(size, gpus, H100), tree_s(size, gpus, H100))


def test_one_gpu_reduces_nothing():
    assert ring_s(10**9, 1, H100) == tree_s(10**9, 1, H100) == of(1).exposed_s == 0


def test_small_messages_go_by_the_tree_and_large_ones_by_the_ring():
    assert tree_s(1000, 128, H100) < ring_s(1000, 128, H100)
    assert ring_s(10**10, 16, H100) < tree_s(10**10, 16, H100)


@given(counts)
def test_communication_that_is_exposed_is_part_of_all_of_it(gpus):
    backward = compute_s(GRAPH.backward, H100)
    shown = exposed_s(GRAPH, gpus, H100, backward)
    whole = sum(all_reduce_s(bucket.bytes, gpus, H100) for bucket in GRAPH.buckets)
    last = all_reduce_s(GRAPH.buckets[-1].bytes, gpus, H100)
    assert last * (1 - 1e-9) <= shown <= whole * (1 + 1e-9)
    assert exposed_s(GRAPH, gpus, H100, 10 * backward) <= shown * (1 + 1e-9)


def test_a_first_bucket_that_is_ready_last_hides_nothing():
    late = dataclasses.replace(GRAPH, buckets=(Bucket(10**8, 3), Bucket(2 * 10**8, 1)))
    whole = sum(all_reduce_s(bucket.bytes, 128, H100) for bucket in late.buckets)
    assert exposed_s(late, 128, H100, 10.0) == pytest.approx(whole)
    assert exposed_s(GRAPH, 128, H100, 10.0) < whole


@given(st.integers(0, 6))
def test_twice_the_gpus_are_never_slower_and_at_most_twice_as_fast(power):
    fewer, more = of(2**power), of(2 ** (power + 1))
    assert fewer.clips_per_s < more.clips_per_s <= 2 * fewer.clips_per_s * (1 + 1e-9)
    assert more.clips_per_gpu * 2 == fewer.clips_per_gpu


def test_gpus_that_share_no_group_fewer_do_not_help():
    assert of(100).clips_per_gpu == of(64).clips_per_gpu == 16
    assert of(100).clips_per_s <= of(64).clips_per_s


def test_more_gpus_than_groups_are_refused():
    with pytest.raises(ValueError, match="129"):
        of(129)


BETTER = ["peak_flops", "memory_bandwidth", "link_bandwidth", "network_bandwidth", "efficiency"]


@pytest.mark.parametrize("name", BETTER)
def test_a_better_device_is_never_slower(name):
    value = getattr(H100, name)
    slower = with_(**{name: value / 2})
    assert of(64, slower).clips_per_s <= of(64).clips_per_s


def test_a_kernel_takes_its_arithmetic_or_its_traffic():
    ideal = with_(efficiency=1.0, launch_s=0.0)
    assert compute_s([MATMUL], ideal) == pytest.approx(1.5e12 / 989e12)
    assert compute_s([COPY], ideal) == pytest.approx(2e9 / 3350e9)
    assert compute_s([COPY] * 10, with_(efficiency=1.0, launch_s=1.0)) == pytest.approx(10)


def test_what_limits_a_step_is_named():
    assert (of(128).bound, of(128).compute_limit) == ("compute", "arithmetic")
    assert of(128, with_(launch_s=1.0)).compute_limit == "launches"
    slow_network = with_(network_bandwidth=1e8)
    assert of(128, slow_network).bound == "communication"
    starved = of(128, with_(decode_clips_per_core=1.0))
    assert starved.bound == "input" and starved.step_s == pytest.approx(8 / 24)
    assert starved.lost["data wait"] > 0.7


def test_as_many_cores_as_it_says_decode_in_time():
    given_ = with_(decode_clips_per_core=1.0)
    needed = of(64, given_).cores_per_gpu
    enough, short = (
        with_(decode_clips_per_core=1.0, cores_per_gpu=needed * 1.01),
        with_(decode_clips_per_core=1.0, cores_per_gpu=needed * 0.99),
    )
    assert of(64, enough).bound == "compute" and of(64, short).bound == "input"


def test_fewer_decoders_than_cores_decode_less():
    given_ = with_(decode_clips_per_core=1.0)
    assert of(64, given_, decoders=12).clips_per_s == pytest.approx(of(64, given_).clips_per_s / 2)
    assert of(64, given_, decoders=100).clips_per_s == of(64, given_).clips_per_s


@given(st.integers(1, 15))
def test_the_largest_micro_batch_fits_and_the_next_does_not(gigabytes):
    given_ = with_(memory=gigabytes * 1e9)
    found = of(32, given_).largest_micro_batch
    assert found % 8 == 0 and found <= of(32).clips_per_gpu
    if found:
        assert of(32, given_, micro_batch=found).memory <= given_.memory
    if found < of(32).clips_per_gpu:
        assert of(32, given_, micro_batch=found + 8).memory > given_.memory


def test_memory_is_state_graph_buckets_and_context():
    assert of(1).memory == 5e8 + 4e9 + 1e9
    assert of(8).memory == of(1).memory + 3e8
    assert of(1, micro_batch=32).memory == 5e8 + 18e9 + 1e9
    assert of(1, micro_batch=15).micro_batch == 8


@given(counts, st.floats(0, 0.01))
def test_all_time_is_useful_or_lost(gpus, failures):
    found = of(gpus, with_(failures_per_gpu_day=failures))
    assert found.goodput + sum(found.lost.values()) == pytest.approx(1)
    assert min(found.lost.values()) >= 0
    useful_hours = 1000 * (found.compute_s + found.exposed_s) / 3600
    assert found.hours == pytest.approx(useful_hours / found.goodput)
    assert found.gpu_hours == pytest.approx(found.hours * gpus)
    assert found.cost == pytest.approx(found.gpu_hours * 2)


def test_failures_cost_what_they_undo():
    without = work_with(snapshot_every=0)
    never, often = (of(128, with_(failures_per_gpu_day=rate), without) for rate in (0.0, 5.0))
    assert never.lost["lost steps"] == never.lost["restart"] == never.lost["snapshots"] == 0
    failures = 5 * often.gpu_hours / 24
    between = never.hours * (1 - never.lost["checkpoints"]) / 10
    assert often.hours - never.hours == pytest.approx(failures * (between / 2 + 60 / 3600))


def test_snapshots_save_most_of_what_a_failure_undoes():
    failing = with_(failures_per_gpu_day=0.5)
    long = work_with(kinds=(dataclasses.replace(KIND, steps=10**6),))
    usual, none, often = (
        of(128, failing, dataclasses.replace(long, snapshot_every=every)) for every in (None, 0, 100)
    )
    assert often.lost["lost steps"] < usual.lost["lost steps"] < none.lost["lost steps"]
    assert 0 == none.lost["snapshots"] < usual.lost["snapshots"] < often.lost["snapshots"]
    assert usual.lost["snapshots"] == pytest.approx(0.01, rel=0.3)


def test_a_run_that_fails_faster_than_it_advances_never_ends():
    found = of(128, with_(failures_per_gpu_day=1e4))
    assert (found.hours, found.gpu_hours, found.cost, found.goodput) == (None, None, None, 0)


def test_without_a_price_there_is_no_cost():
    assert of(8, with_(price=None)).cost is None and of(8, with_(price=0.0)).cost == 0


def test_checkpoints_are_counted_in_bytes():
    found = of(8)
    assert found.checkpoint_bytes == 10 * WORK.checkpoint
    assert found.lost["checkpoints"] == pytest.approx(10 * 5e8 / 1e9 / (found.hours * 3600))
    timed = of(8, work=work_with(checkpoint_every_s=10.0))
    assert timed.checkpoint_bytes == pytest.approx((10 + timed.hours * 360) * WORK.checkpoint)
    slow = of(8, with_(write_bandwidth=1e6))
    assert slow.lost["checkpoints"] > 0.5  # the next one waits for it


def test_steps_of_several_kinds_are_summed():
    small = dataclasses.replace(KIND, steps=500, global_batch=512)
    both = work_with(kinds=(KIND, small))
    large_s, small_s = of(64).step_s, of(64, work=work_with(kinds=(small,))).step_s
    assert of(64, work=both).step_s == pytest.approx((1000 * large_s + 500 * small_s) / 1500)
    assert both.clips == 1000 * 1024 + 500 * 512 and both.groups == 64
    with pytest.raises(ValueError, match="64 batch-norm groups"):
        of(65, work=both)


def test_the_knee_is_where_doubling_pays_less_than_half():
    assert knee(WORK, H100, micro_batch=8).gpus == 128
    assert "128 batch-norm groups" in knee(WORK, H100, micro_batch=8).why
    found = knee(WORK, with_(network_bandwidth=2e9), micro_batch=8)
    assert found.gpus == 8 and found.why == "communication limits 16"
    below, at, above = (of(count, with_(network_bandwidth=2e9)).clips_per_s for count in (4, 8, 16))
    assert at / below >= 1.5 > above / at


def test_a_measured_machine_is_taken_at_its_word():
    work = work_with(measured=Measured({1: 0.01, 2: 0.03}, {1: 0.5, 2: 0.7}, on_cpu=True))
    here = FAST_INPUT.filled(this_machine("", 32e9, cores=2), "float32")
    one, two = of(1, here, work), of(2, here, work)
    assert one.step_s == pytest.approx(1024 * 0.01 + 0.5, rel=1e-5)
    assert two.compute_s == pytest.approx(512 * 0.03 + 0.7)
    assert (one.share_of_peak, one.compute_limit) == (None, "")
    # The cores that decode are those that compute.
    slow = dataclasses.replace(here, decode_clips_per_core=100.0)
    assert of(1, slow, work).step_s == pytest.approx(1024 * 0.01 + 0.5 + 1024 / 100 / 2)
    assert of(2, slow, work).step_s == pytest.approx(two.step_s + 512 / 100, rel=1e-5)


def test_a_gpu_that_is_measured_has_the_links_of_its_kind():
    assert this_machine("NVIDIA H100 80GB HBM3", 8e10, 16).link_bandwidth == DEVICES["h100"].link_bandwidth
    assert this_machine("Tesla T4", 16e9, 16).gpus_per_host == DEVICES["t4"].gpus_per_host
    assert this_machine("GeForce RTX 9090", 1e10, 16).link_bandwidth == DEVICES["l4"].link_bandwidth


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_gives_a_complete_set_of_assumptions(name):
    for precision in ("float32", "bfloat16"):
        filled = Assumptions().filled(find_device(name), precision)
        missing = [field for field, value in vars(filled).items() if value is None]
        assert missing == ["price"]
        assert of(16, filled).hours > 0


def test_what_is_given_comes_before_the_device():
    filled = Assumptions(memory=1e9, efficiency=0.5).filled(DEVICES["a100"], "float32")
    assert (filled.memory, filled.efficiency, filled.peak_flops) == (1e9, 0.5, 156e12)


@pytest.mark.parametrize(
    "wrong", [{"efficiency": 1.5}, {"efficiency": 0}, {"memory": -1}, {"price": -1.0}, {"samples": True}]
)
def test_impossible_assumptions_are_refused(wrong):
    with pytest.raises(ConfigError) as error:
        Assumptions(**wrong)
    assert (error.value.code, error.value.key) == ("out_of_range", next(iter(wrong)))


@settings(max_examples=30)
@given(counts, counts)
def test_memory_and_cores_do_not_depend_on_the_number_of_hosts(gpus, per_host):
    if gpus > 1:
        given_ = with_(gpus_per_host=per_host)
        assert of(gpus, given_).memory == of(gpus).memory
        assert of(gpus, given_).hosts == math.ceil(gpus / per_host)
