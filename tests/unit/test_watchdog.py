"""The worker that the others wait for is named."""

from kineray.orchestration.messages import WorkerAlive
from kineray.orchestration.watchdog import Watchdog


class Workers:
    """Three workers, which give a sign of life every ten seconds of their own clock."""

    def __init__(self):
        self.now = 0.0
        self.watchdog = Watchdog(clock=lambda: self.now)

    def pass_by(self, seconds, *places):
        """``places``: (step, waits) of each worker; None for one that gives no sign. Returns the problems."""
        problems = []
        for _ in range(int(seconds) // 10):
            self.now += 10
            for rank, place in enumerate(places):
                if place is not None:
                    self.watchdog(WorkerAlive(rank, f"host{rank}", *place))
            problems += self.watchdog.problems()
        return problems


def test_a_worker_that_does_not_finish_its_part_is_named_once():
    workers = Workers()
    assert workers.pass_by(110, (7, True), (7, False), (7, True)) == []
    (problem,) = workers.pass_by(200, (7, True), (7, False), (7, True))
    assert (
        problem
        == "rank 1 on host1 has been in its part of step 7 for 2m10s; the others wait for it in step 7"
    )


def test_a_worker_that_no_longer_answers_is_named():
    workers = Workers()
    workers.pass_by(10, (7, True), (7, True), (7, True))
    (problem,) = workers.pass_by(200, (7, True), (7, True), None)
    assert problem.startswith("rank 2 on host2 has not answered for 2m10s, since step 7")


def test_workers_that_go_on_or_validate_are_no_problem():
    workers = Workers()
    for step in range(1, 40):
        assert workers.pass_by(10, (step, True), (step, False), (step, True)) == []
    assert workers.pass_by(1000, (40, False), (40, False), (40, False)) == []


def test_long_steps_need_more_patience():
    workers = Workers()
    workers.watchdog.step_done(100.0)
    assert workers.pass_by(490, (2, True), (2, False), (2, True)) == []
    assert len(workers.pass_by(50, (2, True), (2, False), (2, True))) == 1


def test_a_new_group_starts_anew():
    workers = Workers()
    workers.pass_by(200, (7, True), (7, False), (7, True))
    workers.watchdog.restarted()
    assert workers.pass_by(110, (5, True), (5, False), (5, True)) == []
