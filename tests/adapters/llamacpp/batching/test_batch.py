"""What goes into a step, played against a cache that only counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal_adapters.llamacpp.batching.batch import Share, largest_step, plan
from vestal_adapters.llamacpp.batching.slots import Slot


def row(*lengths: int) -> list[Slot]:
    """Slots whose prompts have these lengths; 0 is a free slot, -1 one that decodes."""
    slots = [Slot(index) for index in range(len(lengths))]
    for slot, length in zip(slots, lengths, strict=True):
        slot.taken = length != 0
        slot.prompt = abs(length) if length > 0 else 3
        slot.tokens = [7] * slot.prompt
        if length < 0:
            slot.advance(3)
            slot.tokens.append(9)
    return slots


def play(shares: list[Share]) -> None:
    """Compute a step: what was pending is cached, and a slot that is due gets its next token."""
    for slot, count, last in shares:
        slot.advance(count)
        if last:
            slot.tokens.append(9)


def counts(shares: list[Share]) -> list[tuple[int, int, bool]]:
    return [(slot.index, count, last) for slot, count, last in shares]


def test_with_no_slot_taken_there_is_nothing_to_do() -> None:
    assert plan(row(0, 0), 512, 64) == []


def test_every_decoding_slot_gets_its_one_token() -> None:
    assert counts(plan(row(-1, -1, 0, -1), 512, 64)) == [(0, 1, True), (1, 1, True), (3, 1, True)]


def test_prompts_take_what_they_are_allowed_together() -> None:
    slots = row(-1, 700, 700)
    assert counts(plan(slots, 512, 64)) == [(0, 1, True), (1, 32, False), (2, 32, False)]


def test_the_last_part_of_a_prompt_is_due_an_answer() -> None:
    slots = row(100)
    play(plan(slots, 512, 64))
    assert counts(plan(slots, 512, 64)) == [(0, 36, True)]


def test_answers_and_prompts_together_fit_a_batch() -> None:
    assert counts(plan(row(-1, -1, 700), 64, 64)) == [(0, 1, True), (1, 1, True), (2, 62, False)]


def test_a_prompt_gets_on_even_where_answers_fill_the_batch() -> None:
    assert counts(plan(row(-1, -1, 700), 1, 0)) == [(0, 1, True), (1, 1, True), (2, 1, False)]


def test_a_short_prompt_is_not_held_up_behind_a_long_one() -> None:
    assert counts(plan(row(5000, 10, 5000), 64, 64)) == [(0, 27, False), (1, 10, True), (2, 27, False)]


def test_shares_come_in_the_order_of_the_slots_whatever_they_do() -> None:
    assert [share.slot.index for share in plan(row(500, -1, 500), 512, 64)] == [0, 1, 2]


def test_a_slot_that_waits_for_another_takes_no_part() -> None:
    slots = row(500, 600)
    slots[1].leader = slots[0]
    assert counts(plan(slots, 512, 64)) == [(0, 64, False)]


def test_more_prompts_than_tokens_all_get_done() -> None:
    slots = row(-1, *[5] * 7)
    for _ in range(7 * 5):
        play(plan(slots, 512, 1))
    assert all(slot.decoding for slot in slots)


lengths = st.lists(st.integers(-1, 300), min_size=1, max_size=10)


@given(lengths, st.integers(1, 200), st.integers(0, 200))
def test_every_plan_keeps_the_bounds_and_gets_on(prompts: list[int], batch: int, allowed: int) -> None:
    slots = row(*prompts)
    steps = 0
    while not all(slot.decoding for slot in slots if slot.taken):
        shares = plan(slots, batch, allowed)
        prompt_tokens = sum(count for slot, count, _ in shares if not slot.decoding)
        assert 1 <= prompt_tokens <= max(allowed, 1)
        assert sum(share.tokens for share in shares) <= largest_step(len(slots), batch)
        assert [slot for slot, _, _ in shares if slot.decoding] == [
            slot for slot in slots if slot.taken and slot.decoding
        ]
        assert all(last == (count == slot.pending) for slot, count, last in shares)
        play(shares)
        steps += 1
    assert steps <= sum(map(abs, prompts))
    assert all(slot.pending == 1 for slot in slots if slot.taken)


@pytest.mark.parametrize(("slots", "batch", "largest"), [(4, 512, 512), (256, 64, 256), (8, 1, 8)])
def test_the_largest_step_is_known_beforehand(slots: int, batch: int, largest: int) -> None:
    assert largest_step(slots, batch) == largest
