"""What goes into a step, played against a cache that only counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal_adapters.llamacpp.batch import Share, Slot, Slots, largest_step, plan


def prefilling(slots: Slots, *lengths: int) -> list[Slot]:
    taken = [slots.take([7] * length) for length in lengths]
    return [slot for slot in taken if slot is not None]


def decoding(slots: Slots, count: int) -> list[Slot]:
    taken = prefilling(slots, *[3] * count)
    for slot in taken:
        slot.cached = 3
        slot.tokens.append(9)
    return taken


def play(shares: list[Share]) -> None:
    """Compute a step: what was pending is cached, and a slot that is due gets its next token."""
    for slot, count, last in shares:
        slot.cached += count
        if last:
            slot.tokens.append(9)


def counts(shares: list[Share]) -> list[tuple[int, int, bool]]:
    return [(slot.index, count, last) for slot, count, last in shares]


def test_with_no_slot_taken_there_is_nothing_to_do() -> None:
    assert plan(Slots(4), 512, 64) == []


def test_every_decoding_slot_gets_its_one_token() -> None:
    slots = Slots(4)
    decoding(slots, 3)
    assert counts(plan(slots, 512, 64)) == [(0, 1, True), (1, 1, True), (2, 1, True)]


def test_a_prompt_alone_takes_up_to_a_batch() -> None:
    slots = Slots(4)
    prefilling(slots, 700)
    assert counts(plan(slots, 512, 64)) == [(0, 512, False)]
    play(plan(slots, 512, 64))
    assert counts(plan(slots, 512, 64)) == [(0, 188, True)]


def test_beside_an_answer_prompts_take_no_more_than_a_chunk_together() -> None:
    slots = Slots(4)
    decoding(slots, 1)
    prefilling(slots, 700, 700)
    assert counts(plan(slots, 512, 64)) == [(0, 1, True), (1, 32, False), (2, 32, False)]


def test_a_short_prompt_is_not_held_up_behind_a_long_one() -> None:
    slots = Slots(4)
    prefilling(slots, 5000, 10, 5000)
    assert counts(plan(slots, 64, 16)) == [(0, 27, False), (1, 10, True), (2, 27, False)]


def test_shares_come_in_the_order_of_the_slots_whatever_they_do() -> None:
    slots = Slots(4)
    prefilling(slots, 500)
    decoding(slots, 1)
    prefilling(slots, 500)
    assert [share.slot.index for share in plan(slots, 512, 64)] == [0, 1, 2]


def test_the_lowest_free_slot_is_taken() -> None:
    slots = Slots(4)
    first, second, _ = decoding(slots, 3)
    slots.free(second)
    slots.free(first)
    assert [slot.index for slot in prefilling(slots, 1, 1, 1)] == [0, 1, 3]


def test_when_all_slots_are_taken_there_is_none() -> None:
    slots = Slots(1)
    slots.take([1])
    assert slots.take([2]) is None


def test_a_freed_slot_forgets_everything() -> None:
    slots = Slots(1)
    (slot,) = decoding(slots, 1)
    slots.free(slot)
    assert (slot.tokens, slot.prompt, slot.cached, slot.taken) == ([], 0, 0, False)


def test_a_slot_owns_its_tokens() -> None:
    prompt = [1, 2, 3]
    slot = Slots(1).take(prompt)
    assert slot is not None
    slot.tokens.append(4)
    assert prompt == [1, 2, 3]


def test_more_prompts_than_tokens_in_a_chunk_all_get_done() -> None:
    slots = Slots(8)
    decoding(slots, 1)
    waiting = prefilling(slots, *[5] * 7)
    for _ in range(7 * 5):
        play(plan(slots, 512, 1))
    assert all(slot.decoding for slot in waiting)


lengths = st.lists(st.integers(1, 300), max_size=6)


@given(lengths, st.integers(0, 4), st.integers(1, 200), st.integers(1, 200))
def test_every_plan_keeps_the_bounds_and_gets_on(
    prompts: list[int], answers: int, batch: int, prefill_chunk: int
) -> None:
    slots = Slots(10)
    running, waiting = decoding(slots, answers), prefilling(slots, *prompts)
    steps = 0
    while not all(slot.decoding for slot in waiting):
        shares = plan(slots, batch, prefill_chunk)
        prompt_tokens = sum(count for slot, count, _ in shares if not slot.decoding)
        anyone_decodes = any(slot.decoding for slot in slots if slot.taken)
        assert 1 <= prompt_tokens <= (prefill_chunk if anyone_decodes else batch)
        assert sum(share.tokens for share in shares) <= largest_step(10, batch, prefill_chunk)
        assert [slot for slot, _, _ in shares if slot.decoding] == [
            slot for slot in slots if slot.taken and slot.decoding
        ]
        assert all(last == (count == slot.pending) for slot, count, last in shares)
        play(shares)
        steps += 1
    assert steps <= sum(prompts)
    assert all(slot.pending == 1 for slot in (*running, *waiting))


@pytest.mark.parametrize(("slots", "batch", "chunk", "largest"), [(4, 512, 64, 512), (256, 64, 64, 319), (8, 1, 1, 8)])
def test_the_largest_step_is_known_beforehand(slots: int, batch: int, chunk: int, largest: int) -> None:
    assert largest_step(slots, batch, chunk) == largest


def test_a_slot_says_what_it_does() -> None:
    slots = Slots(2)
    (slot,) = prefilling(slots, 5)
    assert repr(slot) == "<Slot 0 prefilling, 0 of 5 tokens cached>"
    assert repr(slots) == "<Slots 1 of 2 taken>"
    play(plan(slots, 9, 9))
    assert repr(slot) == "<Slot 0 decoding, 5 of 6 tokens cached>"
    slots.free(slot)
    assert repr(slot) == "<Slot 0 free>"
