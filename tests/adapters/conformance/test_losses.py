"""The check of an engine that goes away can fail: each of these keeps all promises but one of its loss or return."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from tests.adapters.conformance.good import Good, fails, outage
from vestal.backend import GenerateRequest, GenerateRequestV2, Health, Ready, TokenEventV2, Unavailable
from vestal.errors import BackendUnavailable


def test_a_loss_that_passes_for_an_end() -> None:
    class Smooth(Good):
        def lose(self) -> None:
            self._ready = False
            self.report(Unavailable("its engine is gone"))

    assert "ended as if it were whole" in fails("loss", Smooth, outage=outage)


def test_a_loss_that_ends_an_answer_without_a_word() -> None:
    class Mute(Good):
        async def play(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
            with suppress(BackendUnavailable):
                async for event in super().play(request):
                    yield event

    assert "ended without an error" in fails("loss", Mute, outage=outage)


def test_a_foreign_exception_of_a_loss() -> None:
    class Leaky(Good):
        async def play(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
            try:
                async for event in super().play(request):
                    yield event
            except BackendUnavailable:
                raise ConnectionResetError("by peer") from None

    assert "ConnectionResetError leaked" in fails("loss", Leaky, outage=outage)


def test_a_loss_that_nobody_is_told_of() -> None:
    class Secretive(Good):
        def lose(self) -> None:
            self._stopping.set()

    assert "the report that its engine is gone" in fails("loss", Secretive, outage=outage, patience=0.2)


def test_ready_while_the_engine_is_gone() -> None:
    class Hopeful(Good):
        def lose(self) -> None:
            self._stopping.set()
            self.report(Unavailable("its engine is gone"))

    assert "it was ready while it reported" in fails("loss", Hopeful, outage=outage)


def test_health_that_does_not_notice_a_loss() -> None:
    class Proud(Good):
        async def health(self) -> Health:
            return Health(state="ok")

    assert "'ok' of a backend whose engine is gone" in fails("loss", Proud, outage=outage)


def test_a_return_that_is_none() -> None:
    class Boastful(Good):
        def regain(self) -> None:
            self.report(Ready())

    assert "reported Ready() and is not" in fails("loss", Boastful, outage=outage)


def test_a_return_that_is_not_told() -> None:
    class Modest(Good):
        def regain(self) -> None:
            self._stopping.clear()
            self._ready = True

    assert "the report that its engine is back" in fails("loss", Modest, outage=outage, patience=0.2)
