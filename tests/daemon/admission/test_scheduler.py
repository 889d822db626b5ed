"""The scheduler keeps its invariants through any history, shares by tokens, and starves nobody."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestal.errors import BackendUnavailable, QueueFull, QueueTimeout
from vestal.values import Priority
from vestald.admission.fairness import FairNode, Fifo
from vestald.admission.lane import AGEING, Lane
from vestald.admission.scheduler import Scheduler
from vestald.admission.ticket import Ticket, TicketState

PRIORITIES: tuple[Priority, ...] = ("interactive", "normal", "batch")


@dataclass
class World:
    """A scheduler, the clock, and what has happened; `check` is called after every step."""

    scheduler: Scheduler
    now: float = 0.0
    numbers: int = 0
    tickets: list[Ticket] = field(default_factory=list)
    live: list[Ticket] = field(default_factory=list)
    started: list[Ticket] = field(default_factory=list)
    ended: Counter[int] = field(default_factory=Counter)

    def submit(
        self,
        uid: int = 1,
        connection: int = 1,
        lane: str = "a",
        cost: float = 10.0,
        priority: Priority = "normal",
        wait: float | None = None,
    ) -> Ticket:
        self.numbers += 1
        ticket = Ticket(
            self.numbers,
            lane,
            uid,
            connection,
            cost=cost,
            priority=priority,
            accepted=self.now,
            queue_timeout=wait,
        )
        self.scheduler.submit(ticket, self.now)
        self.tickets.append(ticket)
        self.live.append(ticket)
        self.advance()
        return ticket

    def advance(self) -> None:
        started, late = self.scheduler.advance(self.now)
        self.started += started
        self.ended.update(ticket.number for ticket, _ in late)
        self.check()

    def end(self, ticket: Ticket, used: float | None = None) -> None:
        ticket.used = used
        self.scheduler.end(ticket, self.now)
        self.ended[ticket.number] += 1
        self.advance()

    def check(self) -> None:
        s = self.scheduler
        self.live = [t for t in self.live if t.state is not TicketState.ENDED]
        waiting = [t for t in self.live if t.state is TicketState.WAITING]
        running = [t for t in self.live if t.state is TicketState.RUNNING]
        assert s.waiting == len(waiting) <= s.queue_depth
        assert max(Counter(t.uid for t in waiting).values(), default=0) <= s.per_caller
        for name, lane in s.lanes.items():
            assert lane.running == {t for t in running if t.lane == name}
            assert len(lane.running) <= lane.slots or not lane.open
            assert lane.waiting == sum(t.lane == name for t in waiting)
            if lane.open and lane.waiting:
                assert len(lane.running) >= lane.slots, "work waits beside an idle slot"
        assert sorted(t.number for t, _, _ in s.positions(self.now)) == sorted(t.number for t in waiting)


def world(*, depth: int = 64, per_caller: int = 64, slots: int = 1) -> World:
    scheduler = Scheduler(queue_depth=depth, per_caller=per_caller)
    scheduler.open_lane("a", slots)
    return World(scheduler)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), slots=st.integers(1, 4), depth=st.integers(1, 20))
def test_no_history_breaks_an_invariant(seed: int, slots: int, depth: int) -> None:
    random, w = Random(seed), world(depth=depth, per_caller=max(1, depth // 2), slots=slots)
    w.scheduler.open_lane("b", 2)
    for _ in range(120):
        w.now += random.expovariate(1.0)
        act = random.random()
        if act < 0.5:
            try:
                w.submit(
                    uid=random.randrange(4),
                    connection=random.randrange(3),
                    lane=random.choice("ab"),
                    cost=random.choice([1.0, 10.0, 1000.0]),
                    priority=random.choice(PRIORITIES),
                    wait=random.choice([None, 0.5, 3.0]),
                )
            except QueueTimeout as late:
                assert late.details["eta_ms"] > late.details["limit_ms"]
            except QueueFull as full:
                assert full.details["depth"] >= full.details["limit"]
                assert full.retry_after_ms is not None
                assert full.retry_after_ms > 0
        elif act < 0.85 and w.live:
            w.end(random.choice(w.live), random.choice([None, 5.0, 500.0]))
        elif act < 0.93:
            lane = w.scheduler.lanes[random.choice("ab")]
            lane.open = not lane.open
            w.advance()
        else:
            w.advance()
    for lane in w.scheduler.lanes.values():
        lane.open = True
    w.advance()
    while running := [t for t in w.live if t.state is TicketState.RUNNING]:
        w.end(running[0])
    assert w.scheduler.waiting == w.scheduler.running == 0
    assert w.ended == {t.number: 1 for t in w.tickets}


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), slots=st.integers(1, 4))
def test_of_what_starts_after_a_moment_one_at_a_time_runs_in_all_lanes_of_a_backend(seed: int, slots: int) -> None:
    random, kin = Random(seed), defaultdict[str, list[Lane]](list)
    pair = [Scheduler(queue_depth=64, per_caller=64, kin=kin) for _ in range(2)]
    now, tickets = 0.0, list[tuple[Scheduler, Ticket]]()
    since: float | None = None

    def advance() -> None:
        for scheduler in random.sample(pair, 2):
            started, ended = scheduler.advance(now)
            assert not ended
            assert all(ticket.started == now for ticket in started)
        running = [t for _, t in tickets if t.state is TicketState.RUNNING]
        tries = [t for t in running if since is not None and t.started >= since]
        assert len(tries) <= 1
        for scheduler in pair:
            lane = scheduler.lanes["a"]
            if lane.waiting and not tries:
                assert len(lane.running) >= slots, "nobody tries, and work waits beside an idle slot"

    def reopen(one_since: float | None) -> None:
        for scheduler in pair:  # shut both before one opens, as the board does
            scheduler.shut_lane("a", now)
        for scheduler in pair:
            scheduler.open_lane("a", slots, one_since)

    reopen(None)
    for number in range(100):
        now += random.expovariate(1.0)
        act, live = random.random(), [(s, t) for s, t in tickets if t.state is not TicketState.ENDED]
        if act < 0.5:
            scheduler = random.choice(pair)
            ticket = Ticket(number, "a", random.randrange(3), 1)
            tickets.append((scheduler, ticket))
            try:
                scheduler.submit(ticket, now)
            except QueueFull:
                tickets.pop()
        elif act < 0.9 and live:
            scheduler, ticket = random.choice(live)
            scheduler.end(ticket, now)
        else:
            since = random.choice([None, now])
            reopen(since)
        advance()


def test_a_lane_that_is_dropped_keeps_no_other_from_trying() -> None:
    kin = defaultdict[str, list[Lane]](list)
    generating, embedding = (Scheduler(queue_depth=4, per_caller=4, kin=kin) for _ in range(2))
    for scheduler in (generating, embedding):
        scheduler.open_lane("a", 1, 0.0)
    generating.submit(Ticket(1, "a", 1, 1), 1.0)
    generating.advance(1.0)
    embedding.submit(Ticket(2, "a", 1, 1), 1.0)
    assert embedding.advance(1.0)[0] == []
    generating.drop_lane("a", 2.0)
    assert [ticket.number for ticket in embedding.advance(2.0)[0]] == [2]


def test_one_caller_is_served_in_the_order_it_asked() -> None:
    w = world()
    tickets = [w.submit() for _ in range(10)]
    while w.scheduler.running:
        w.end(w.started[-1])
    assert w.started == tickets


def test_a_flood_delays_another_caller_by_one_job_per_slot() -> None:
    w = world(depth=2000, per_caller=2000, slots=2)
    for _ in range(1000):
        w.submit(uid=1)
    late = w.submit(uid=2)
    for _ in range(2):
        w.end(next(iter(w.scheduler.lanes["a"].running)))
    assert late in w.started


@pytest.mark.parametrize(("small", "large"), [(1.0, 1.0), (10.0, 200.0), (3.0, 1000.0)])
def test_two_busy_callers_get_equal_tokens_whatever_their_request_sizes(small: float, large: float) -> None:
    w = world(depth=100, per_caller=50)
    used: Counter[int] = Counter()
    sizes = {1: small, 2: large}
    for uid in (1, 2):
        for _ in range(5):
            w.submit(uid=uid, cost=50.0)  # the estimate is wrong for both; the correction makes it right
    for _ in range(20_000):
        (running,) = w.scheduler.lanes["a"].running
        used[running.uid] += int(sizes[running.uid])
        w.end(running, sizes[running.uid])
        w.submit(uid=running.uid, cost=50.0)
        if used.total() > 400 * max(small, large):
            break
    assert abs(used[1] - used[2]) <= 0.05 * used.total()


def test_what_a_long_job_used_is_charged_even_if_others_were_served_meanwhile() -> None:
    """Beside it the other slot serves a second caller; when it ends, its own account may have been closed."""
    w = world(depth=500, per_caller=500, slots=2)
    long = w.submit(uid=1, cost=10.0)
    for _ in range(300):
        w.submit(uid=2, cost=10.0)
    others = (ticket for ticket in w.started if ticket.uid == 2)  # grows while it is read
    for _ in range(60):
        w.end(next(others), 10.0)
    w.end(long, 5000.0)
    again = w.submit(uid=1, cost=10.0)
    for _ in range(100):
        w.end(next(others), 10.0)
    assert again.state is TicketState.WAITING


def test_connections_that_come_and_go_leave_nothing_in_a_lane_that_is_always_busy() -> None:
    w = world(depth=10, slots=2)
    w.submit()
    for connection in range(3000):
        w.end(w.submit(connection=connection), 20.0)
    w.submit()
    for connection in range(3000):
        w.end(w.submit(connection=connection))
    assert sum(_footprint(cls.queue) for cls in w.scheduler.lanes["a"]._classes.values()) < 500


def test_the_deadlines_of_requests_that_have_ended_do_not_pile_up_behind_one_that_waits() -> None:
    w = world(depth=10)
    w.submit()
    w.submit(wait=1.0)
    for _ in range(2000):
        w.end(w.submit(wait=1e6))
    assert len(w.scheduler._deadlines) < 100
    assert w.scheduler.next_deadline() == pytest.approx(1.0)


def test_a_lane_that_was_given_up_refuses_and_says_why() -> None:
    w = world()
    running = w.submit()
    w.scheduler.fail_lane("a", "its worker died six times", "vestal backend restart a")
    with pytest.raises(BackendUnavailable, match="its worker died six times") as refused:
        w.submit()
    assert refused.value.retryable
    assert refused.value.hint is not None
    assert refused.value.hint == "vestal backend restart a"
    w.end(running)
    assert w.scheduler.running == w.scheduler.waiting == 0


def test_a_lane_that_is_dropped_ends_what_waits_and_lets_go_of_what_runs() -> None:
    w = world(depth=10)
    running = w.submit()
    waiting = [w.submit(wait=5.0), w.submit()]
    left = w.scheduler.drop_lane("a", w.now)
    assert [ticket for ticket, _ in left] == waiting
    assert all(isinstance(error, BackendUnavailable) and error.retryable for _, error in left)
    assert "a" not in w.scheduler.lanes
    assert (w.scheduler.waiting, w.scheduler.next_deadline()) == (0, None)
    w.scheduler.open_lane("a", 1)  # another of its name, while one of the first still runs
    w.scheduler.end(running, w.now)
    assert w.scheduler.lanes["a"].pace.mean is None, "what it cost says nothing of the second"
    assert w.scheduler.running == 0
    assert w.scheduler.drop_lane("nobody", w.now) == []


def test_within_a_caller_its_connections_share() -> None:
    w = world()
    w.submit(connection=1)
    for _ in range(5):
        w.submit(connection=1)
    other = w.submit(connection=2)
    w.end(w.started[0])
    w.end(w.started[1])
    assert other in w.started


def test_a_class_is_served_before_the_one_below_it() -> None:
    w = world()
    first = w.submit()
    batch, normal, interactive = (w.submit(priority=p) for p in ("batch", "normal", "interactive"))
    for _ in range(3):
        w.end(w.started[-1])
    assert w.started == [first, interactive, normal, batch]


def test_a_class_that_waited_for_the_ageing_time_gets_the_next_slot() -> None:
    w = world(depth=100, per_caller=100)
    w.submit(priority="interactive")
    batch = w.submit(priority="batch")
    for _ in range(20):
        w.submit(priority="interactive")
    while batch.state is TicketState.WAITING:
        w.now += 1.0
        w.end(next(iter(w.scheduler.lanes["a"].running)))
        assert w.now <= AGEING + 1.0
    assert w.scheduler.lanes["a"].waiting


def test_a_queued_request_past_its_deadline_is_never_dispatched() -> None:
    w = world()
    first, hurried = w.submit(), w.submit(wait=2.0)
    assert w.scheduler.next_deadline() == pytest.approx(2.0)
    w.now = 2.0
    w.end(first)
    assert hurried.state is TicketState.ENDED
    assert hurried not in w.started
    assert w.scheduler.next_deadline() is None


def test_what_waits_for_a_shut_lane_waits_on_and_other_lanes_do_not_notice() -> None:
    w = world()
    w.scheduler.open_lane("b", 1)
    w.scheduler.lanes["a"].open = False
    stuck, free = w.submit(lane="a"), w.submit(lane="b")
    assert stuck not in w.started
    assert free in w.started
    w.scheduler.lanes["a"].open = True
    w.advance()
    assert stuck in w.started


def test_the_bounds_are_refused_with_their_numbers() -> None:
    w = world(depth=3, per_caller=2)
    w.submit(uid=1)
    for _ in range(2):
        w.submit(uid=1)
    with pytest.raises(QueueFull, match="uid 1 has its share of the queue: 2 waiting, the limit is 2") as mine:
        w.submit(uid=1)
    assert mine.value.details == {"depth": 2, "limit": 2, "bound": "per_caller"}
    w.submit(uid=2)
    with pytest.raises(QueueFull, match="the queue is full: 3 waiting, the limit is 3"):
        w.submit(uid=3)
    with pytest.raises(BackendUnavailable):
        w.submit(lane="nowhere")


def test_retry_after_follows_the_observed_service_time() -> None:
    w = world(depth=1, slots=1)
    first = w.submit()
    w.now = 4.0
    w.end(first)
    w.submit()
    w.submit()
    with pytest.raises(QueueFull) as full:
        w.submit()
    assert full.value.retry_after_ms == 4000


def test_positions_tell_the_order_in_which_tickets_start() -> None:
    w = world(depth=100, per_caller=100)
    w.submit()
    for uid in (1, 1, 2, 3, 2, 1):
        w.submit(uid=uid, cost=10.0 * uid)
    promised = [ticket for ticket, _, _ in w.scheduler.positions(w.now)]
    while w.scheduler.running:
        w.end(next(iter(w.scheduler.lanes["a"].running)))
    assert w.started[1:] == promised


def test_cancelled_tickets_do_not_pile_up_behind_a_long_job() -> None:
    w = world(depth=10)
    w.submit()
    for _ in range(5000):
        w.end(w.submit())
    (node,) = (cls.queue for cls in w.scheduler.lanes["a"]._classes.values() if cls.queue._shares)
    leaf = next(iter(next(iter(node._shares.values())).child._shares.values())).child  # type: ignore[union-attr]
    assert len(leaf._items) < 100  # type: ignore[union-attr]


def _footprint(node: FairNode[Ticket] | Fifo[Ticket]) -> int:
    """Shares, heap entries and items that a tree holds on to."""
    if isinstance(node, Fifo):
        return len(node._items)
    return len(node._heap) + sum(1 + _footprint(share.child) for share in node._shares.values())


# --- other bounds while it runs -------------------------------------------------------------------------------


def test_new_bounds_are_for_those_who_come_and_nobody_who_waits_is_sent_away() -> None:
    world = World(Scheduler(queue_depth=4, per_caller=4))
    world.scheduler.open_lane("a", 1)
    for _ in range(4):
        world.submit()
    world.scheduler.adjust(queue_depth=2, per_caller=1, unavailable_timeout=None)
    assert world.scheduler.waiting == 3
    with pytest.raises(QueueFull) as full:
        world.submit(uid=2)
    assert (full.value.details or {})["limit"] == 2
    world.scheduler.adjust(queue_depth=9, per_caller=9, unavailable_timeout=None)
    world.submit(uid=2)
    assert world.scheduler.waiting == 4


def test_how_long_a_backend_may_be_away_counts_from_when_it_went() -> None:
    scheduler = Scheduler(queue_depth=4, per_caller=4)
    scheduler.open_lane("a", 1)
    scheduler.submit(Ticket(1, "a", 1, 1), 0.0)
    scheduler.advance(0.0)
    scheduler.submit(Ticket(2, "a", 1, 1), 0.0)
    scheduler.shut_lane("a", 10.0)
    assert scheduler.next_deadline() is None
    scheduler.adjust(queue_depth=4, per_caller=4, unavailable_timeout=5.0)
    assert scheduler.next_deadline() == 15.0
    scheduler.adjust(queue_depth=4, per_caller=4, unavailable_timeout=None)
    assert scheduler.next_deadline() is None
    scheduler.adjust(queue_depth=4, per_caller=4, unavailable_timeout=5.0)
    _, ((ticket, error),) = scheduler.advance(15.0)
    assert ticket.number == 2
    assert isinstance(error, BackendUnavailable)
