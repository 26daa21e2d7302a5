"""Seconds of an all-reduce, by the algorithms between which NCCL chooses.

Costs as in Thakur et al., IJHPCA 19(1), 2005; double binary trees: Sanders et al., Parallel Computing 35(12),
2009.
"""

import math

from kineray.planning.assumptions import Assumptions, value_of


def ring_s(size: float, gpus: int, given: Assumptions) -> float:
    """Seconds of an all-reduce of ``size`` bytes in a ring: 2(n-1) messages of a part each."""
    if gpus == 1:
        return 0.0
    bandwidth, latency = _slowest_hop(gpus, given)
    return 2 * (gpus - 1) * (size / gpus / bandwidth + latency)


def tree_s(size: float, gpus: int, given: Assumptions) -> float:
    """Seconds of an all-reduce in double binary trees over the hosts, with a chain inside each host."""
    if gpus == 1:
        return 0.0
    bandwidth, _ = _slowest_hop(gpus, given)
    latency = (local_gpus(gpus, given) - 1) * value_of(given.link_latency_s)
    latency += math.ceil(math.log2(hosts(gpus, given))) * value_of(given.network_latency_s)
    return 2 * size / bandwidth + 2 * latency


def all_reduce_s(size: float, gpus: int, given: Assumptions) -> float:
    """Seconds of an all-reduce by the faster of both."""
    return min(ring_s(size, gpus, given), tree_s(size, gpus, given))


def hosts(gpus: int, given: Assumptions) -> int:
    """Hosts that ``gpus`` GPUs are in."""
    return math.ceil(gpus / value_of(given.gpus_per_host))


def local_gpus(gpus: int, given: Assumptions) -> int:
    """GPUs of a host that has most."""
    return min(gpus, int(value_of(given.gpus_per_host)))


def _slowest_hop(gpus: int, given: Assumptions) -> tuple[float, float]:
    """Bandwidth and latency of the slowest link that an all-reduce passes."""
    share = value_of(given.link_share)
    link, network = share * value_of(given.link_bandwidth), share * value_of(given.network_bandwidth)
    if hosts(gpus, given) == 1:
        return link, value_of(given.link_latency_s)
    return min(link, network), value_of(given.network_latency_s)
