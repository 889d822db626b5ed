"""What is foretold of a lane: when each starts by the measured pace, who comes too late, and who waits in vain."""

from __future__ import annotations

import pytest

from vestal.errors import BackendUnavailable, DeadlineExceeded, QueueFull, QueueTimeout, QuotaExceeded
from vestald.admission.estimate import Spent
from vestald.admission.lane import Lane
from vestald.admission.quota import Quotas
from vestald.admission.scheduler import Scheduler
from vestald.admission.ticket import Ticket, TicketState

READS, MAKES = 1000.0, 20.0  # tokens a second


class Stage:
    """A scheduler with one lane that has seen a request at this pace, and tickets that keep to it."""

    def __init__(
        self,
        slots: int = 1,
        *,
        seen: bool = True,
        quotas: Quotas | None = None,
        unavailable_timeout: float | None = None,
    ) -> None:
        self.scheduler = Scheduler(
            queue_depth=1000, per_caller=1000, quotas=quotas, unavailable_timeout=unavailable_timeout
        )
        self.scheduler.open_lane("a", slots)
        self.lane: Lane = self.scheduler.lanes["a"]
        self.now = 0.0
        self.numbers = 0
        if seen:
            self.lane.pace.learn(3.0, Spent(read=READS, reading=1.0, made=2 * MAKES, making=2.0))

    def submit(
        self,
        read: float = 0.0,
        made: float = MAKES,
        uid: int = 1,
        wait: float | None = None,
        whole: float | None = None,
    ) -> Ticket:
        self.numbers += 1
        ticket = Ticket(
            self.numbers,
            "a",
            uid,
            1,
            cost=read + made,
            output=made,
            accepted=self.now,
            queue_timeout=wait,
            timeout=whole,
        )
        self.scheduler.submit(ticket, self.now)
        self.scheduler.advance(self.now)
        return ticket

    def waits(self) -> list[float | None]:
        return [wait for _, _, wait in self.scheduler.positions(self.now)]


def test_each_starts_when_a_slot_is_free_by_the_measured_rates() -> None:
    stage = Stage(slots=2)
    stage.submit(read=1000, made=40)  # 1 s and 2 s
    stage.submit(made=20)  # 1 s
    for _ in range(3):
        stage.submit(read=500, made=30)  # half a second and 1.5 s
    assert stage.waits() == pytest.approx([1.0, 3.0, 3.0])
    stage.now = 0.75
    assert stage.waits() == pytest.approx([0.25, 2.25, 2.25])
    stage.now = 5.0  # both take longer than was thought
    assert stage.waits() == pytest.approx([0.0, 0.0, 2.0])


def test_nothing_is_foretold_before_anything_has_ended_or_while_the_backend_is_away() -> None:
    stage = Stage(seen=False)
    stage.submit()
    stage.submit()
    assert stage.waits() == [None]
    assert stage.lane.longest_wait(stage.now) is None
    stage = Stage()
    stage.submit()
    stage.submit()
    stage.scheduler.shut_lane("a", stage.now)
    assert stage.waits() == [None]


def test_the_longest_wait_is_no_shorter_than_any() -> None:
    stage = Stage(slots=3)
    for number in range(40):
        stage.submit(read=37.0 * (number % 5), made=1.0 + number % 7, uid=number % 4)
        longest = stage.lane.longest_wait(stage.now)
        assert longest is not None
        assert max((wait for wait in stage.waits() if wait is not None), default=0.0) <= longest + 1e-9


def test_who_would_start_too_late_is_refused_at_once_with_the_estimate() -> None:
    stage = Stage()
    for _ in range(5):
        stage.submit()  # a second each
    with pytest.raises(QueueTimeout) as queue:
        stage.submit(wait=4.5)
    assert queue.value.details == {"eta_ms": 5000, "limit_ms": 4500}
    assert queue.value.retry_after_ms == 500
    with pytest.raises(DeadlineExceeded) as whole:
        stage.submit(whole=4.5)
    assert whole.value.details == {"eta_ms": 5000, "limit_ms": 4500}
    assert whole.value.retryable
    assert stage.scheduler.waiting == stage.lane.waiting == 4
    assert stage.submit(wait=5.5).state is TicketState.WAITING


def test_a_caller_whose_turn_comes_early_is_not_refused_for_the_queue_of_another() -> None:
    stage = Stage()
    for _ in range(100):
        stage.submit(uid=1)
    assert stage.submit(uid=2, wait=2.5).state is TicketState.WAITING
    with pytest.raises(QueueTimeout):
        stage.submit(uid=1, wait=2.5)


def test_nobody_is_refused_by_an_estimate_that_is_not_there() -> None:
    stage = Stage(seen=False)
    for _ in range(100):
        stage.submit()
    assert stage.submit(wait=0.001, whole=0.001).state is TicketState.WAITING


def test_what_was_refused_by_estimate_is_not_charged_to_the_quota() -> None:
    stage = Stage(quotas=Quotas(lambda _uid: 50))
    stage.submit(made=20)
    with pytest.raises(QueueTimeout):
        stage.submit(made=20, wait=0.1)
    waiting = stage.submit(made=20)
    with pytest.raises(QuotaExceeded):
        stage.submit(made=20)
    stage.scheduler.end(waiting, stage.now)
    stage.submit(made=20)


def test_a_backend_that_stays_away_lets_its_queue_go_after_the_configured_time() -> None:
    stage = Stage(unavailable_timeout=5.0)
    stage.scheduler.open_lane("b", 1)
    running, waiting = stage.submit(), stage.submit()
    stage.now = 1.0
    stage.scheduler.shut_lane("a", stage.now)
    stage.scheduler.end(running, stage.now)
    stage.now = 2.0
    stage.scheduler.shut_lane("a", stage.now)  # said again by the next change of its state
    assert stage.scheduler.next_deadline() == 6.0
    stage.now = 5.9
    assert stage.scheduler.advance(stage.now) == ([], [])
    stage.now = 6.0
    _, ((ended, error),) = stage.scheduler.advance(stage.now)
    assert ended is waiting
    assert isinstance(error, BackendUnavailable)
    assert "it has been away for 5.0 s, and admission.unavailable_timeout is over" in error.message
    with pytest.raises(BackendUnavailable, match=r"away for 5\.0 s"):
        stage.submit()
    assert stage.scheduler.next_deadline() is None
    stage.scheduler.open_lane("a", 1)
    assert stage.submit().state is TicketState.RUNNING


def test_who_comes_while_a_given_up_backend_is_started_again_has_the_whole_time() -> None:
    stage = Stage(unavailable_timeout=5.0)
    stage.scheduler.shut_lane("a", 0.0)
    stage.scheduler.fail_lane("a", "its worker died six times")
    with pytest.raises(BackendUnavailable, match="its worker died six times"):
        stage.submit()
    stage.now = 100.0
    stage.scheduler.shut_lane("a", stage.now)
    stage.submit()
    assert stage.scheduler.next_deadline() == 105.0


def test_a_full_connection_is_told_when_one_of_its_requests_may_end() -> None:
    stage = Stage(slots=2)
    full = stage.scheduler.connection_full(8)
    assert isinstance(full, QueueFull)
    assert full.details == {"depth": 8, "limit": 8, "bound": "requests_per_connection"}
    assert full.retry_after_ms == 1500  # three seconds a request, two at once
    assert Stage(seen=False).scheduler.connection_full(8).retry_after_ms == 1000


def test_a_full_share_is_told_a_turn_of_every_caller_and_a_full_queue_one_turn() -> None:
    stage = Stage()
    stage.scheduler.per_caller, stage.scheduler.queue_depth = 2, 4
    stage.submit()
    for uid in (1, 1, 2):
        stage.submit(uid=uid)
    with pytest.raises(QueueFull) as mine:
        stage.submit(uid=1)
    assert (mine.value.details["bound"], mine.value.retry_after_ms) == ("per_caller", 6000)
    stage.submit(uid=3)
    with pytest.raises(QueueFull) as everybody:
        stage.submit(uid=4)
    assert (everybody.value.details["bound"], everybody.value.retry_after_ms) == ("queue_depth", 3000)
