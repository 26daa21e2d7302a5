"""How busy hosts are reaches the record of a run."""

import threading

from kineray.orchestration.mailbox import record_system
from kineray.orchestration.messages import SystemMetrics
from kineray.orchestration.system_metrics import measured, parse_gpus, reader


class _Record:
    def __init__(self):
        self.written = []

    def append_metrics(self, metrics):
        self.written.append(metrics)


def test_a_host_is_measured_by_the_names_that_mlflow_shows():
    read = reader()
    values = read()
    percentages = [value for name, value in values.items() if name.endswith("percentage")]
    assert {"cpu_utilization_percentage", "system_memory_usage_percentage"} <= set(values)
    assert all(0 <= value <= 100 for value in percentages)
    assert values["network_receive_megabytes"] <= read()["network_receive_megabytes"]


def test_measurements_come_while_the_body_runs_and_end_with_it():
    came = threading.Event()
    with measured(lambda values: came.set(), every_s=0.01):
        assert came.wait(10)


def test_every_gpu_has_its_line_and_one_that_does_not_say_is_left_out():
    assert parse_gpus("50, 1000, 4000\n[N/A], 1, 2\n") == {
        "gpu_0_utilization_percentage": 50.0,
        "gpu_0_memory_usage_megabytes": 1048.576,
        "gpu_0_memory_usage_percentage": 25.0,
    }


def test_other_hosts_than_the_first_are_named():
    record = _Record()
    record_system(record, SystemMetrics({"x": 1.0}, "a"))
    record_system(record, SystemMetrics({"x": 2.0}, "b", node=1))
    assert record.written == [{"system/x": 1.0}, {"system/b/x": 2.0}]
