"""The snapshots of a run on all hosts of the cluster."""

from kineray.cluster import on_node
from kineray.orchestration.mailbox import call_in_time
from kineray.training.snapshot_files import delete_snapshots


def delete_everywhere(run_id: str, *, others: bool) -> None:
    """Delete the snapshots of a run on this host, and on ``others`` if they answer in time."""
    import ray

    delete_snapshots(run_id)

    def delete_on_others() -> None:
        here = ray.get_runtime_context().get_node_id()
        elsewhere = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
        delete = ray.remote(num_cpus=0)(delete_snapshots)
        ray.get([delete.options(scheduling_strategy=on_node(node)).remote(run_id) for node in elsewhere])

    if others:
        call_in_time(delete_on_others)
