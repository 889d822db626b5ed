"""A template that means harm: it is cut off, the worker lives on, and the next conversation is rendered."""

from __future__ import annotations

import signal
import time
from contextlib import suppress

import pytest

from vestal.errors import BackendRefused, ModelError
from vestal.values import Message
from vestal_adapters.llamacpp.prompting import rendering
from vestal_adapters.llamacpp.prompting.chat import ChatTemplate
from vestal_adapters.llamacpp.prompting.cutoff import within
from vestal_adapters.llamacpp.prompting.rendering import Renderer, TemplateOverdue

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = b %}{% endfor %}{% endfor %}"
ASKED_TO_LOOP = "{% if messages[0].content == 'loop' %}" + LOOP + "{% endif %}{{ messages[0].content }}"


def turns(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "RENDER_SECONDS", 0.05)


def test_a_loop_is_cut_off_and_the_next_conversation_is_rendered(short: None) -> None:
    renderer = Renderer(ASKED_TO_LOOP, {})
    begun = time.process_time()
    with pytest.raises(TemplateOverdue, match=r"did not come to an end within 0\.05 s"):
        renderer.render(turns("loop"))
    assert time.process_time() - begun < 1  # of this process: other loads do not count
    assert renderer.render(turns("hello")) == "hello"


def test_a_loop_that_writes_is_cut_off_too(short: None) -> None:
    with pytest.raises(TemplateOverdue):
        Renderer("{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}", {}).render([])


def test_a_template_that_always_loops_is_refused_at_load(short: None) -> None:
    with pytest.raises(ModelError, match="did not come to an end") as caught:
        ChatTemplate(LOOP)
    assert caught.value.hint is not None
    with pytest.raises(TemplateOverdue):
        ChatTemplate(ASKED_TO_LOOP).prompt([Message("user", "loop")])


@pytest.mark.parametrize(
    "expression",
    [
        "10 ** (10 ** 8)",
        "2 ** 5000",
        "'x' * 10 ** 9",
        "10 ** 9 * [1]",
        "(7 ** 1000) * (7 ** 1000)",
        "'%1000000000d' % 1",
        "'%*d' % (10 ** 9, 1)",
    ],
)
def test_one_step_that_never_ends_is_refused_at_once(expression: str) -> None:
    with pytest.raises(BackendRefused, match="SecurityError"):
        Renderer("{{ " + expression + " }}", {}).render([])


def test_sums_and_repetitions_of_an_ordinary_size_work() -> None:
    template = "{{ 2 ** 10 }} {{ 6 * 7 }} {{ '-' * 8 }} {{ '%s and %5.1f' % ('a', 2.5) }} {{ 2 ** -1 }} {{ 7 % 4 }}"
    assert Renderer(template, {}).render([]) == "1024 42 -------- a and   2.5 0.5 3"


def test_a_cut_leaves_no_timer_and_no_handler() -> None:
    handler = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(TimeoutError, match=r"not done after 0\.02 s"):
        within(0.02, endless)
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    assert signal.getsignal(signal.SIGVTALRM) is handler


def endless() -> None:
    number = 0
    while True:
        with suppress(Exception):  # must not catch it
            number += 1
