"""Every check can fail: for each there is a backend that keeps all promises but one."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from tests.adapters.conformance.good import ABLE, SLOTS, WORDS, Good, fails, outage
from vestal.backend import (
    CountRequest,
    EmbedRequest,
    EmbedResult,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Health,
    Loading,
    PromptEvent,
    Report,
    TextEvent,
    TokenEventV2,
    ToolUseEvent,
)
from vestal.errors import BackendUnavailable, Unsupported, VestalError
from vestal.testing import CHECKS, NotConforming, check_backend
from vestal.values import Capabilities, Usage


def test_the_good_one_passes_every_check() -> None:
    report = asyncio.run(check_backend(Good, outage=outage))
    assert report.passed == set(CHECKS)
    assert "passed       generate" in str(report)


def test_all_broken_promises_are_listed_at_once() -> None:
    class Sloppy(Good):
        able = replace(ABLE, model="", embedding_dimensions=None)

    with pytest.raises(NotConforming, match=r"(?s)capabilities.*embed: vectors have 2 dimensions"):
        asyncio.run(check_backend(Sloppy, only=["capabilities", "embed"]))


def test_a_check_that_there_is_not_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no such check: speed"):
        asyncio.run(check_backend(Good, only=["speed"]))


# --- life -----------------------------------------------------------------------------------------------------


def test_ready_too_early() -> None:
    class Early(Good):
        ready = True  # a constant where the port has a property

    assert "before start()" in fails("readiness", Early)


def test_never_ready() -> None:
    class Never(Good):
        ready = False  # a constant where the port has a property

    assert "although start() returned" in fails("readiness", Never)


def test_progress_that_falls() -> None:
    class Falling(Good):
        percents = (50, 20)

    assert "20 % after 50" in fails("readiness", Falling)


def test_ready_while_it_still_loads() -> None:
    class Eager(Good):
        async def start(self, report: Report) -> None:
            self._ready = True
            report(Loading(10))

    assert "ready while it reported" in fails("readiness", Eager)


def test_ready_for_ever() -> None:
    class Undead(Good):
        async def stop(self, timeout: float) -> None:
            self._stopping.set()

    assert "although it was stopped" in fails("readiness", Undead)


def test_a_stop_that_works_once() -> None:
    class Once(Good):
        async def stop(self, timeout: float) -> None:
            if not self._ready:
                raise RuntimeError("already stopped")
            await super().stop(timeout)

    assert "stop() raised RuntimeError" in fails("readiness", Once)


def test_a_stop_that_takes_longer_than_it_may() -> None:
    class Slow(Good):
        async def stop(self, timeout: float) -> None:
            await asyncio.get_running_loop().create_future()

    assert "did not return in that time" in fails("readiness", Slow, stop_timeout=0)


def test_a_start_that_hangs() -> None:
    class Hanging(Good):
        async def start(self, report: Report) -> None:
            await asyncio.get_running_loop().create_future()

    assert "did not return within 0 s" in fails("readiness", Hanging, patience=0)


def test_answers_after_the_end() -> None:
    class Zombie(Good):
        async def play(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
            for event in self.events(request):
                yield event

    assert "a stopped backend answered" in fails("readiness", Zombie)


def test_no_second_start() -> None:
    class OneLife(Good):
        async def start(self, report: Report) -> None:
            if self._stopping.is_set():
                raise VestalError("used up")
            await super().start(report)

    assert "used up" in fails("restart", OneLife)


def test_a_start_that_no_stop_ends() -> None:
    class Deaf(Good):
        async def start(self, report: Report) -> None:
            report(Loading(0))
            await self._stopping.wait()
            self._ready = True

    assert "stopped while it started, and is ready" in fails("stop_while_starting", Deaf)


def test_a_stream_that_hangs_after_a_stop() -> None:
    class Stuck(Good):
        async def play(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
            yield self.events(request)[0]
            await asyncio.get_running_loop().create_future()

    assert "after stop(), did not end" in fails("stop_while_running", Stuck, patience=0.2)


def test_health_that_raises() -> None:
    class Ill(Good):
        async def health(self) -> Health:
            raise OSError("no such process")

    assert "health() raised OSError" in fails("health", Ill)


def test_health_that_is_always_ok() -> None:
    class Proud(Good):
        async def health(self) -> Health:
            return Health(state="ok")

    assert "'ok' of a backend that is not started" in fails("health", Proud)


def test_health_that_does_not_notice_the_end() -> None:
    class Late(Good):
        begun = False

        async def start(self, report: Report) -> None:
            self.begun = True
            await super().start(report)

        async def health(self) -> Health:
            return Health(state="ok" if self.begun else "stopped")

    assert "'ok' of a backend that was stopped" in fails("readiness", Late)


# --- capabilities ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (replace(ABLE, slots=0), "not valid"),
        (replace(ABLE, model=""), "model is empty"),
        (replace(ABLE, options=("max_token",)), "max_token"),
        (replace(ABLE, embedding_dimensions=None), "embedding_dimensions"),
        (replace(ABLE, embed=False, embedding_batch=32), "does not embed, and says embedding_batch"),
        (replace(ABLE, embedding_shortest=3, embedding_longest=4), "have 2 dimensions, and it says that it can make 3"),
        (replace(ABLE, v2=False), "tools cannot be asked for without v2"),
        (replace(ABLE, generate=False, embed=False), "neither"),
    ],
)
def test_capabilities_that_make_no_sense(told: Capabilities, why: str) -> None:
    class Confused(Good):
        able = told

    assert why in fails("capabilities", Confused)


def test_capabilities_that_change() -> None:
    class Fickle(Good):
        async def count(self, request: CountRequest) -> int:
            self.capabilities = replace(ABLE, slots=8)
            return await super().count(request)

    with pytest.raises(NotConforming, match="capabilities changed"):
        asyncio.run(check_backend(Fickle, only=["count", "stable_capabilities"]))


# --- answers --------------------------------------------------------------------------------------------------


class Scripted(Good):
    """Answers everything with the class's `said`."""

    said: ClassVar[list[Any]] = []

    def events(self, request: GenerateRequest | GenerateRequestV2) -> list[TokenEventV2]:
        return self.said


END = EndEvent("end", Usage(1, 0, 1))
HI = TextEvent("Hi")


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([HI], "without an EndEvent"),
        ([], "without an EndEvent"),
        ([HI, END, HI], "TextEvent came after the EndEvent"),
        ([HI, END, END], "EndEvent came after the EndEvent"),
        ([HI, PromptEvent(1), END], "before everything else"),
        ([PromptEvent(2), HI, END], "PromptEvent says 2"),
        ([HI, HI, END], "the events say 2 tokens"),
        ([HI, EndEvent("end", Usage(0, 0, 1))], "input_tokens is 0"),
        ([HI, EndEvent("end", Usage(1, 2, 1))], "cached_tokens is 2 of 1"),
        ([HI, EndEvent("tool_use", Usage(1, 0, 1))], "without a ToolUseEvent"),
        ([ToolUseEvent("1", "lamp", {}), END], "no event of this version"),
        ([END], "is empty"),
    ],
)
def test_streams_that_are_no_answer(events: list[Any], why: str) -> None:
    class Wrong(Scripted):
        said = events

    assert why in fails("generate", Wrong)


def test_a_call_with_another_stop_reason() -> None:
    class Wrong(Scripted):
        said: ClassVar[list[Any]] = [ToolUseEvent("1", "lamp", {}), END]

    assert "'end' with a ToolUseEvent" in fails("generate_v2", Wrong)


def test_a_foreign_exception() -> None:
    class Leaky(Good):
        def events(self, request: GenerateRequest | GenerateRequestV2) -> list[TokenEventV2]:
            raise KeyError("choices")

    assert "KeyError leaked" in fails("generate", Leaky)


def test_an_error_in_an_ordinary_answer() -> None:
    class Failing(Good):
        async def play(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
            yield HI
            raise BackendUnavailable("gone")

    assert "failed after 1 events" in fails("generate", Failing)


def test_a_stream_that_cannot_be_closed() -> None:
    class Bare(Good):
        def generate(self, request: GenerateRequest) -> Any:
            return iter(self.events(request))

    assert "no async iterator" in fails("generate", Bare)


def test_v2_that_is_not_spoken_is_said_otherwise() -> None:
    class Silent(Good):
        able = replace(ABLE, v2=False, tools=False)

        def generate_v2(self, request: GenerateRequestV2) -> Any:
            return self.refuse()

        async def refuse(self) -> AsyncIterator[TokenEventV2]:
            for event in (HI, END):
                if event is HI:
                    raise BackendUnavailable("no")
                yield event

    assert "instead of Unsupported" in fails("generate_v2", Silent)


def test_v2_that_is_hidden() -> None:
    class Modest(Good):
        able = replace(ABLE, v2=False, tools=False)

    assert "and it does" in fails("generate_v2", Modest)


def test_a_limit_that_is_ignored() -> None:
    class Talkative(Scripted):
        said: ClassVar[list[Any]] = [HI, HI, EndEvent("end", Usage(1, 0, 2))]

    assert "max_tokens=1 made 2" in fails("max_tokens", Talkative)


def test_a_limit_that_is_not_said() -> None:
    class Curt(Scripted):
        said: ClassVar[list[Any]] = [HI, END]

    assert "'end' instead of 'length'" in fails("max_tokens", Curt)


class Leaking(Good):
    """A slot is given back at the end of an answer only."""

    async def play(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        await self._free.acquire()
        for event in self.events(request):
            await asyncio.sleep(0)
            yield event
        self._free.release()


def test_slots_that_closing_does_not_give_back() -> None:
    assert "after others were closed did not end" in fails("closing", Leaking, patience=0.2)


def test_slots_that_cancelling_does_not_give_back() -> None:
    assert "after others were cancelled did not end" in fails("cancelling", Leaking, patience=0.2)


def test_a_cancellation_that_is_swallowed() -> None:
    class Stubborn(Good):
        async def play(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
            for event in self.events(request):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
                yield event

    assert "swallowed its cancellation" in fails("cancelling", Stubborn)


def test_fewer_slots_than_promised() -> None:
    class Boastful(Good):
        able = replace(ABLE, slots=SLOTS + 1)

        async def play(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
            if self._free.locked():
                raise BackendUnavailable("busy")
            async for event in super().play(request):
                yield event

    assert "of 3 requests at once failed" in fails("concurrency", Boastful)


def test_a_prompt_cut_off_in_silence() -> None:
    class Cutting(Scripted):
        said: ClassVar[list[Any]] = [HI, EndEvent("end", Usage(64, 0, 1))]

    assert "cut off in silence" in fails("context_overflow", Cutting)


# --- options --------------------------------------------------------------------------------------------------


def test_an_option_that_is_promised_and_breaks() -> None:
    class Brittle(Good):
        def events(self, request: GenerateRequest | GenerateRequestV2) -> list[TokenEventV2]:
            if request.options.temperature is not None:
                raise ZeroDivisionError
            return super().events(request)

    assert "temperature: ZeroDivisionError leaked" in fails("options", Brittle)


@pytest.mark.parametrize(
    ("check", "why"),
    [
        ("stop_strings", "shows the stop string 'three'"),
        ("response_format", "response_format was ignored"),
        ("grammar", "grammar was ignored"),
        ("logprobs", "logprobs was ignored"),
        ("tool_choice", "there is no call"),
    ],
)
def test_an_option_that_is_ignored(check: str, why: str) -> None:
    class Ignoring(Scripted):
        said: ClassVar[list[Any]] = [*map(TextEvent, WORDS), EndEvent("end", Usage(1, 0, 5))]

    assert why in fails(check, Ignoring)


# --- vectors and counts ---------------------------------------------------------------------------------------


def vectors(count: int, dimensions: int, *values: float, tokens: int = 1) -> EmbedResult:
    data = struct.pack(f"<{len(values)}f", *values)
    return EmbedResult(count=count, dimensions=dimensions, data=data, input_tokens=tokens)


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (vectors(1, 2, 1, 0), "2 texts gave 1"),
        (vectors(2, 3, *[1, 0, 0] * 2), "3 dimensions, capabilities say 2"),
        (vectors(2, 2, 1, 0, 1), "12 bytes are not 2 vectors"),
        (vectors(2, 2, 1, 0, 0, 1, tokens=0), "input_tokens is 0"),
        (vectors(2, 2, 3, 4, 0, 1), "a vector's length is 5"),
    ],
)
def test_vectors_that_are_wrong(result: EmbedResult, why: str) -> None:
    class Wrong(Good):
        async def embed(self, request: EmbedRequest) -> EmbedResult:
            return result

    assert why in fails("embed", Wrong)


@pytest.mark.parametrize(
    ("option", "why"),
    [("task", "it promises {'task': 'query'}, and refuses it"), ("normalize", "promises {'normalize': False}")],
)
def test_an_option_of_an_embed_that_is_promised_and_refused(option: str, why: str) -> None:
    class Boasting(Good):
        async def embed(self, request: EmbedRequest) -> EmbedResult:
            if getattr(request, option) != getattr(EmbedRequest(input=[]), option):
                raise Unsupported(f"what is {option}?", details={"option": option})
            return await super().embed(request)

    assert why in fails("embed_options", Boasting)


def test_shorter_vectors_that_are_promised_and_not_given() -> None:
    class Full(Good):
        async def embed(self, request: EmbedRequest) -> EmbedResult:
            return await super().embed(replace(request, dimensions=None))

    assert "vectors have 2 dimensions, the request asks for 1" in fails("embed_options", Full)


def test_vectors_in_another_order() -> None:
    class Shuffling(Good):
        async def embed(self, request: EmbedRequest) -> EmbedResult:
            return await super().embed(EmbedRequest(input=request.input[::-1]))

    assert "check their order" in fails("embed", Shuffling)


def test_vectors_that_are_hidden() -> None:
    class Modest(Good):
        able = replace(ABLE, embed=False)

    assert "embed() is not promised by its capabilities, and works" in fails("embed", Modest)


def test_a_count_that_does_not_grow() -> None:
    class Constant(Good):
        async def count(self, request: CountRequest) -> int:
            return 7

    assert "1 word counts 7 tokens, and 50 words count 7" in fails("count", Constant)
