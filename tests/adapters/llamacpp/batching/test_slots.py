"""Slots, scopes and cancels, against a cache in memory that holds the tokens themselves."""

from __future__ import annotations

from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from vestal_adapters.llamacpp.batching.batch import plan
from vestal_adapters.llamacpp.batching.slots import Slot, Slots, common_prefix

LENGTH = 128
SHARED = list(range(40))
"""Longer than what is worth a copy."""


class Tokens:
    """The cache: every sequence's tokens, each with the scope it was computed for."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.held: dict[int, list[tuple[int, str | None]]] = {}
        self.computed = 0
        self._keeps = keeps

    def keep(self, sequence: int, count: int) -> bool:
        if self._keeps:
            del self.held.setdefault(sequence, [])[count:]
        return self._keeps

    def copy(self, source: int, target: int, count: int) -> None:
        assert 0 < count <= len(self.held[source]), "a copy of what is there"
        self.held[target] = self.held[source][:count]

    def shift(self, sequence: int, start: int, count: int) -> None:
        assert start + count <= len(self.held[sequence])
        del self.held[sequence][start : start + count]

    def forget(self, sequence: int) -> None:
        self.held[sequence] = []

    def compute(self, slot: Slot, tokens: list[int]) -> None:
        self.held.setdefault(slot.index, []).extend((token, slot.scope) for token in tokens)

    def tokens(self, slot: Slot) -> list[int]:
        return [token for token, _ in self.held.get(slot.index, [])]


class Bench:
    """Slots on such a cache, driven step by step."""

    def __init__(self, slots: int = 4, *, reuse: bool = True, keeps: bool = True) -> None:
        self.cache = Tokens(keeps=keeps)
        self.slots = Slots(slots, self.cache, LENGTH, reuse=reuse)
        self.computed = 0  # prompt tokens

    def take(self, prompt: list[int], scope: str | None = "a") -> Slot:
        slot = self.slots.take(prompt, scope)
        assert slot is not None
        return slot

    def step(self, prompt_tokens: int = LENGTH) -> None:
        self.slots.settle()
        for slot, tokens, last in plan(self.slots, LENGTH, prompt_tokens):
            if not slot.decoding:
                self.computed += tokens
            self.cache.compute(slot, slot.tokens[slot.cached : slot.cached + tokens])
            slot.advance(tokens)
            if last:
                slot.tokens.append(1000 + slot.cached)

    def serve(self, prompt: list[int], scope: str | None = "a", answer: int = 1) -> Slot:
        """From the beginning to the end; `answer` tokens of it are computed too."""
        slot = self.take(prompt, scope)
        while slot.cached < len(prompt) + answer:
            self.step()
        self.slots.free(slot)
        return slot


# --- one after another ----------------------------------------------------------------------------------------


def test_the_next_turn_of_a_conversation_computes_only_what_is_new() -> None:
    bench = Bench()
    first = bench.serve([1, 2, 3], answer=2)
    again = bench.take([1, 2, 3, *first.tokens[3:], 4, 5])
    assert (again.index, again.reused, again.pending) == (first.index, 5, 2)


def test_what_differs_is_dropped() -> None:
    bench = Bench()
    bench.serve([1, 2, 3, 4, 5])
    slot = bench.take([1, 2, 3, 9])
    assert bench.cache.tokens(slot) == [1, 2, 3]


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    bench = Bench()
    bench.serve([1, 2, 3])
    assert bench.take([1, 2, 3]).reused == 2
    assert bench.take([1]).reused == 0


def test_the_longest_beginning_wins() -> None:
    bench = Bench()
    first, second = bench.take([1, 2, 3, 8, 8]), bench.take([1, 9, 9, 9])
    bench.step()
    bench.slots.free(first)
    bench.slots.free(second)
    assert bench.take([1, 9, 9, 7]).index == second.index


def test_another_scope_gets_nothing_and_takes_an_empty_slot() -> None:
    bench = Bench()
    bench.serve(SHARED, "a")
    other = bench.take(SHARED, "b")
    assert (other.index, other.reused) == (1, 0)
    assert bench.take(SHARED, None).reused == 0


def test_without_a_scope_nothing_is_left_behind() -> None:
    bench = Bench()
    slot = bench.serve(SHARED, None)
    assert bench.cache.tokens(slot) == []
    assert (slot.tokens, slot.cached, slot.scope) == ([], 0, None)
    assert bench.take(SHARED, None).reused == 0


def test_a_fresh_request_reuses_and_waits_for_nothing_and_leaves_what_it_computed() -> None:
    bench = Bench()
    bench.serve(SHARED)
    bench.take([*SHARED, 1])
    slot = bench.slots.take([*SHARED, 2], "a", fresh=True)
    assert slot is not None
    assert (slot.reused, slot.leader) == (0, None)
    bench.step()
    bench.slots.free(slot)
    assert bench.take([*SHARED, 2, 3]).reused == len(SHARED) + 1


def test_a_full_house_evicts_what_was_used_least_recently() -> None:
    bench = Bench(2)
    for scope in ("a", "b"):
        bench.serve(SHARED, scope)
    bench.serve(SHARED, "a")
    slot = bench.take(SHARED, "c")
    assert (slot.index, slot.reused, bench.cache.tokens(slot)) == (1, 0, [])
    assert bench.take(SHARED, "a").reused == len(SHARED) - 1


def test_a_fork_is_copied_rather_than_taken_from_a_long_conversation() -> None:
    bench = Bench()
    bench.serve([*SHARED, *[5] * 80])
    fork = bench.take([*SHARED, 6])
    assert (fork.index, fork.reused) == (1, len(SHARED))
    assert bench.cache.tokens(fork) == SHARED


def test_a_few_common_tokens_are_not_worth_a_long_conversation() -> None:
    bench = Bench()
    bench.serve([1, 2, 3, *[5] * 80])
    assert bench.take([1, 2, 3, 6]).index == 1
    assert bench.take([1, 2, 3, *[5] * 80, 7]).reused == 83


def test_a_model_that_cannot_drop_a_tail_reuses_nothing() -> None:
    for bench in (Bench(reuse=False), Bench(keeps=False)):
        bench.serve([1, 2, 3])
        slot = bench.take([1, 2, 4])
        assert (slot.reused, bench.cache.tokens(slot)) == (0, [])


# --- at the same time -----------------------------------------------------------------------------------------


def test_a_shared_beginning_is_computed_once_by_requests_that_run_together() -> None:
    bench = Bench()
    slots = [bench.take([*SHARED, 100 + number]) for number in range(4)]
    while not all(slot.decoding for slot in slots):
        bench.step(16)
    assert bench.computed == len(SHARED) + 4
    assert [slot.reused for slot in slots] == [0, *[len(SHARED)] * 3]
    assert all(bench.cache.tokens(slot)[: len(SHARED)] == SHARED for slot in slots)


def test_it_is_copied_from_one_that_is_far_enough_without_waiting() -> None:
    bench = Bench()
    bench.take([*SHARED, 1])
    bench.step()
    assert bench.take([*SHARED, 2]).reused == len(SHARED)


def test_when_the_leader_is_cancelled_one_goes_on_from_there_and_the_others_wait_for_it() -> None:
    bench = Bench()
    leader, second, third = (bench.take([*SHARED, number]) for number in (1, 2, 3))
    bench.step(20)
    bench.slots.free(leader)
    assert second.leader is None
    assert second.cached == 20
    assert third.leader is second
    while not third.decoding:
        bench.step(20)
    assert bench.computed == len(SHARED) + 2


def test_when_the_leader_fails_those_who_wait_start_themselves() -> None:
    bench = Bench()
    leader, second = bench.take([*SHARED, 1]), bench.take([*SHARED, 2])
    bench.step(20)
    bench.slots.drop(leader)
    assert (second.leader, second.cached, bench.cache.tokens(leader)) == (None, 0, [])


def test_nobody_waits_for_another_scope() -> None:
    bench = Bench()
    bench.take([*SHARED, 1], "a")
    assert bench.take([*SHARED, 1], "b").leader is None
    assert bench.take([*SHARED, 1], None).leader is None


def test_of_several_levels_each_is_computed_once() -> None:
    bench = Bench()
    longer = [*SHARED, *[7] * 40]
    bench.take([*SHARED, 1])
    second, third = bench.take([*longer, 2]), bench.take([*longer, 3])
    while not third.decoding:
        bench.step(16)
    assert bench.computed == len(longer) + 3
    assert (second.reused, third.reused) == (len(SHARED), len(longer))


# --- a full slot ----------------------------------------------------------------------------------------------


def test_a_shift_keeps_the_beginning_and_drops_the_older_half_of_the_rest() -> None:
    bench = Bench()
    slot = bench.take([0, 1, 2, 3, 4, 5, 6, 7])
    bench.step()
    assert bench.slots.shift(slot, 2) == 3
    assert bench.cache.tokens(slot) == [0, 1, 5, 6, 7]
    assert slot.tokens == [0, 1, 5, 6, 7, 1008]
    assert slot.decoding


def test_what_was_computed_in_sight_of_dropped_tokens_is_not_reused() -> None:
    bench = Bench()
    slot = bench.take([0, 1, 2, 3, 4, 5, 6, 7])
    bench.step()
    bench.slots.shift(slot, 2)
    bench.slots.free(slot)
    assert bench.cache.tokens(slot) == [0, 1]


def test_a_slot_says_what_it_does() -> None:
    bench = Bench(3)
    leader, waiting = bench.take([*SHARED, 1]), bench.take([*SHARED, 2])
    assert repr(leader) == "<Slot 0 prefilling, 0 of 41 tokens cached>"
    assert repr(waiting) == "<Slot 1 waiting for slot 0, 0 of 41 tokens cached>"
    assert repr(bench.slots) == "<Slots 2 of 3 taken>"
    bench.step()
    assert repr(leader) == "<Slot 0 decoding, 41 of 42 tokens cached>"
    bench.slots.free(leader)
    assert repr(leader) == "<Slot 0 free, 41 tokens kept>"
    assert repr(Slot(2)) == "<Slot 2 free>"


# --- whatever happens -----------------------------------------------------------------------------------------


prompts = st.tuples(
    st.sampled_from([(), (1,) * 30, (1,) * 20 + (2,) * 30, (2,) * 50]),
    st.lists(st.integers(1, 3), min_size=1, max_size=20),
).map(lambda parts: [*parts[0], *parts[1]])


class Machine(RuleBasedStateMachine):
    """Requests of three scopes come, run, end, fail, are cancelled and shift, in any order."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(3)
        self.numbers = count()
        self.running: dict[int, Slot] = {}
        self.fed: dict[int, list[int]] = {}

    @rule(target=jobs, prompt=prompts, scope=st.sampled_from(["a", "b", None]))
    def submit(self, prompt: list[int], scope: str | None) -> int:
        number = next(self.numbers)
        slot = self.bench.slots.take(prompt, scope)
        assert (slot is None) == (len(self.running) == 3)
        if slot is not None:
            assert slot not in self.running.values()
            assert slot.reused < len(prompt)
            self.running[number] = slot
        return number

    @rule(tokens=st.integers(0, 40))
    def step(self, tokens: int) -> None:
        self.bench.slots.settle()
        shares = plan(self.bench.slots, LENGTH, tokens)
        assert bool(shares) == bool(self.running), "somebody always gets on"
        self.bench.step(tokens)
        for number, slot in list(self.running.items()):
            if slot.cached == LENGTH:
                self.finish(number)

    @rule(number=consumes(jobs))
    def finish(self, number: int) -> None:
        """Ended or cancelled: it is the same to a slot."""
        if (slot := self.running.pop(number, None)) is not None:
            self.bench.slots.free(slot)

    @rule(number=consumes(jobs))
    def fail(self, number: int) -> None:
        if (slot := self.running.pop(number, None)) is not None:
            self.bench.slots.drop(slot)

    @rule(number=jobs, keep=st.integers(0, 3))
    def shift(self, number: int, keep: int) -> None:
        slot = self.running.get(number)
        if slot is not None and slot.decoding and slot.cached > keep + 1 and slot.prompt >= keep:
            self.bench.slots.shift(slot, keep)

    @invariant()
    def the_cache_holds_what_the_slots_say(self) -> None:
        for slot in self.bench.slots:
            assert self.bench.cache.tokens(slot) == slot.tokens[: slot.cached]
            assert slot.pure <= slot.cached <= len(slot.tokens)
            if not slot.taken:
                assert len(slot.tokens) == slot.cached == slot.pure, "what is kept is as if computed from nothing"

    @invariant()
    def nothing_in_a_slot_was_computed_for_another_scope(self) -> None:
        for slot in self.bench.slots:
            assert {scope for _, scope in self.bench.cache.held.get(slot.index, [])} <= {slot.scope}

    @invariant()
    def who_waits_waits_for_one_that_runs_and_has_what_is_wanted(self) -> None:
        for slot in self.bench.slots:
            if (leader := slot.leader) is not None:
                assert leader.running
                assert leader.scope == slot.scope is not None
                assert leader.tokens[: slot.awaits] == slot.tokens[: slot.awaits]
                assert leader.cached >= slot.cached

    def teardown(self) -> None:
        """Every prompt still gets done: nobody waits for ever."""
        left = sum(slot.prompt for slot in self.running.values()) + 1
        for _ in range(left):
            self.bench.step(1)
        assert all(slot.decoding for slot in self.running.values())


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWhateverHappens = Machine.TestCase


@given(st.integers(2, 4), st.integers(30, 90), st.integers(1, 40), st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_what_concurrent_requests_share_is_computed_once(
    requests: int, shared: int, budget: int, rests: list[int]
) -> None:
    bench = Bench()
    slots = [bench.take([*range(shared), *[200 + number] * rests[number]]) for number in range(requests)]
    while not all(slot.decoding for slot in slots):
        bench.step(budget)
    assert bench.computed == shared + sum(rests[:requests])


tokens = st.lists(st.integers(0, 2), max_size=40)


@given(tokens, tokens, tokens)
def test_the_common_prefix_is_the_longest(beginning: list[int], first: list[int], second: list[int]) -> None:
    one, two = [*beginning, *first], [*beginning, *second]
    length = common_prefix(one, two)
    assert one[:length] == two[:length]
    assert length >= len(beginning)
    assert length in (len(one), len(two)) or one[length] != two[length]
