"""A tree of shares: order, conservation, bounded unfairness, and no memory of those who left."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from vestald.admission.fairness import FairNode, Fifo

Key = tuple[int, int]


@dataclass(eq=False)
class Thing:
    """Something that is queued."""

    number: int
    keys: Key
    cost: float = 1.0
    waiting: bool = True


def tree() -> FairNode[Thing]:
    """Callers by uid, below each its connections, below each a FIFO."""
    return FairNode(lambda: FairNode(Fifo))


def footprint(node: FairNode[Thing] | Fifo[Thing]) -> int:
    """Everything that a tree holds on to: shares, heap entries, items."""
    if isinstance(node, Fifo):
        return len(node._items)
    return len(node._heap) + sum(1 + footprint(share.child) for share in node._shares.values())


KEYS = st.tuples(st.integers(0, 3), st.integers(0, 2))
COSTS = st.sampled_from([1.0, 3.0, 50.0, 1000.0])


class Histories(RuleBasedStateMachine):
    """Any history of pushes, pops, drops and settlements against a plain list of what should be in there."""

    def __init__(self) -> None:
        super().__init__()
        self.node = tree()
        self.things: list[Thing] = []
        self.popped: list[Thing] = []
        self.number = 0

    @rule(keys=KEYS, cost=COSTS)
    def push(self, keys: Key, cost: float) -> None:
        self.number += 1
        thing = Thing(self.number, keys, cost)
        self.node.push(thing, keys)
        self.things.append(thing)

    @precondition(lambda self: self.things)
    @rule()
    def pop(self) -> None:
        expected = next(self.node.order())
        thing = self.node.pop()
        assert thing is expected
        assert thing.waiting
        first = next(other for other in self.things if other.keys == thing.keys)
        assert thing is first, "a connection's requests overtook each other"
        thing.waiting = False
        self.things.remove(thing)
        self.popped.append(thing)

    @precondition(lambda self: self.things)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        thing = data.draw(st.sampled_from(self.things))
        thing.waiting = False
        self.things.remove(thing)
        self.node.drop(thing.keys)

    @precondition(lambda self: self.popped)
    @rule(used=COSTS, data=st.data())
    def settle(self, used: float, data: st.DataObject) -> None:
        thing = data.draw(st.sampled_from(self.popped))
        self.popped.remove(thing)
        self.node.settle(thing.keys, thing.cost, used)

    @invariant()
    def nothing_is_lost_or_made_up(self) -> None:
        assert self.node.live == len(self.things)
        assert Counter(thing.number for thing in self.node.order()) == Counter(t.number for t in self.things)

    @invariant()
    def virtual_time_never_runs_back(self) -> None:
        before = getattr(self, "before", 0.0)
        assert self.node.virtual_time >= before
        self.before = self.node.virtual_time

    def teardown(self) -> None:
        promised = list(self.node.order())
        for expected in promised:
            assert self.node.pop() is expected
            expected.waiting = False
        assert self.node.live == 0


def test_no_history_loses_repeats_or_reorders() -> None:
    run_state_machine_as_test(Histories, settings=settings(max_examples=80, stateful_step_count=60, deadline=None))


@settings(max_examples=60, deadline=None)
@given(
    costs=st.lists(st.lists(st.sampled_from([1.0, 7.0, 40.0]), min_size=60, max_size=60), min_size=2, max_size=5),
)
def test_backlogged_callers_are_never_further_apart_than_two_of_the_largest_items(costs: list[list[float]]) -> None:
    """SFQ's bound: the difference of service of two that are backlogged is at most the sum of their largest items."""
    node = tree()
    for uid, queue in enumerate(costs):
        for number, cost in enumerate(queue):
            node.push(Thing(number, (uid, 0), cost), (uid, 0))
    served: Counter[int] = Counter()
    left = Counter({uid: len(queue) for uid, queue in enumerate(costs)})
    while all(left[uid] for uid in range(len(costs))):
        thing = node.pop()
        thing.waiting = False
        uid = thing.keys[0]
        served[uid] += int(thing.cost)
        left[uid] -= 1
        for one, other in pairwise(range(len(costs))):
            assert abs(served[one] - served[other]) <= 80


@pytest.mark.parametrize("weight", [2.0, 5.0])
def test_a_share_with_a_greater_weight_gets_as_much_more(weight: float) -> None:
    node: FairNode[Thing] = FairNode(Fifo, lambda key: weight if key == 1 else 1.0)
    for number in range(600):
        for key in (1, 2):
            node.push(Thing(number, (key, 0)), (key,))
    served: Counter[int] = Counter()
    for _ in range(300):
        thing = node.pop()
        thing.waiting = False
        served[thing.keys[0]] += 1
    assert served[1] / served[2] == pytest.approx(weight, rel=0.05)


def test_who_was_idle_has_saved_nothing_up() -> None:
    node = tree()
    for number in range(100):
        node.push(Thing(number, (1, 0)), (1, 0))
    for _ in range(50):
        node.pop().waiting = False
        node.settle((1, 0), 1.0, 1.0)
    for number in range(100):
        node.push(Thing(number, (2, 0)), (2, 0))
    order: deque[int] = deque()
    for _ in range(20):
        thing = node.pop()
        thing.waiting = False
        order.append(thing.keys[0])
    assert Counter(order) == {1: 10, 2: 10}


def test_an_estimate_that_was_too_low_is_paid_back() -> None:
    node = tree()
    for number in range(50):
        for uid in (1, 2):
            node.push(Thing(number, (uid, 0), 1.0), (uid, 0))
    first = node.pop()
    first.waiting = False
    node.settle(first.keys, 1.0, 11.0)
    order = []
    for _ in range(11):
        thing = node.pop()
        thing.waiting = False
        order.append(thing.keys[0])
    assert order.count(first.keys[0]) == 0


@pytest.mark.parametrize("slots", [1, 4])
def test_guesses_that_were_far_too_high_put_no_newcomer_behind_them(slots: int) -> None:
    """A flood asks for a million tokens each time and uses one; who comes while some run goes next, and not after
    the tokens that are given back when they end."""
    node = tree()
    for number in range(1000):
        node.push(Thing(number, (1, 0), 1e6), (1, 0))
    for _ in range(slots):
        node.pop().waiting = False
    node.push(Thing(0, (2, 0)), (2, 0))
    for _ in range(slots):
        node.settle((1, 0), 1e6, 1.0)
    assert node.pop().keys[0] == 2


@pytest.mark.parametrize("connections", [1, 5000])
def test_those_who_queue_and_leave_behind_a_long_job_are_forgotten(connections: int) -> None:
    """One uid stays backlogged and nothing is popped: its visitors' shares, heap entries and items must not pile up."""
    node = tree()
    node.push(Thing(0, (1, 0)), (1, 0))
    for number in range(1, 5001):
        keys = (1, 1 + number % connections)
        thing = Thing(number, keys)
        node.push(thing, keys)
        thing.waiting = False
        node.drop(keys)
    assert footprint(node) < 200


@pytest.mark.parametrize("uids", [1, 3000])
def test_those_who_were_served_and_left_are_forgotten_while_others_keep_the_tree_busy(uids: int) -> None:
    node = tree()
    node.push(Thing(0, (0, 0)), (0, 0))
    for number in range(1, 3001):
        keys = (number % uids, number)  # a connection of its own for each request
        node.push(Thing(number, keys), keys)
        thing = node.pop()
        thing.waiting = False
        node.settle(thing.keys, 1.0, 1.0)
    assert node.live == 1
    assert footprint(node) < 200


def test_a_debt_outlives_an_idle_moment() -> None:
    """Who used far more than was charged cannot shed it by closing its queue for a moment while others are served."""
    node = tree()
    for number in range(100):
        node.push(Thing(number, (2, 0), 1.0), (2, 0))
    node.push(Thing(0, (1, 0), 1.0), (1, 0))
    while True:
        thing = node.pop()
        thing.waiting = False
        if thing.keys[0] == 1:
            break
        node.settle(thing.keys, 1.0, 1.0)
    node.settle((1, 0), 1.0, 31.0)
    for number in range(100):
        node.push(Thing(number, (1, 0), 1.0), (1, 0))
    nexts = [node.pop().keys[0] for _ in range(25)]
    assert set(nexts) == {2}


def test_to_forget_is_to_begin_anew() -> None:
    node = tree()
    node.push(Thing(1, (1, 0), 500.0), (1, 0))
    node.pop().waiting = False
    node.forget()
    assert (node.virtual_time, footprint(node)) == (0.0, 0)


def test_a_node_prints_its_state() -> None:
    node = tree()
    node.push(Thing(1, (1, 0)), (1, 0))
    assert repr(node) == "<FairNode live=1 shares=1 v=0>"


def test_other_weights_count_from_then_on_and_nothing_is_paid_back() -> None:
    weights = {1: 1.0, 2: 1.0}
    node: FairNode[Thing] = FairNode(Fifo, lambda key: weights[key])  # type: ignore[index]  # uids
    for number in range(400):
        node.push(Thing(number, (1 + number % 2, 0), cost=10.0), (1 + number % 2,))
    in_flight: deque[Thing] = deque()

    def serve(count: int) -> Counter[int]:
        served: Counter[int] = Counter()
        for _ in range(count):
            in_flight.append(thing := node.pop())
            served[thing.keys[0]] += 1
            if len(in_flight) > 2:
                over = in_flight.popleft()
                node.settle((over.keys[0],), over.cost, over.cost)
        return served

    assert serve(40) == {1: 20, 2: 20}
    weights[1] = 3.0
    node.reweigh()
    assert serve(80)[1] == pytest.approx(60, abs=1)
    weights[1] = 1.0
    node.reweigh()
    assert serve(80)[1] == pytest.approx(40, abs=1)
