"""Embedding, on a chain model that pools its last token: the vector of a text says which token that was."""

from __future__ import annotations

from typing import Any

import gguf
import numpy
import pytest

from vestal.backend import CountRequest, EmbedRequest, EmbedResult, GenerateRequest
from vestal.errors import BackendRefused, ContextOverflow, InvalidRequest, Unsupported
from vestal.values import Message
from vestal_adapters.llamacpp.embed import MAX_TEXTS_PER_STEP
from vestal_adapters.llamacpp.native import Context

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FIRST_BYTE = 4  # the token of byte 0 in a chain model


@pytest.fixture
def embedder(make_model: Any, start: Any) -> Any:
    """Texts of up to 16 tokens, 32 tokens a step."""
    return start(make_model(pooling=gguf.PoolingType.LAST), context_length=16, batch=32)


def last_letters(driver: Any, job: int) -> str:
    return "".join(chr(int(vector.argmax()) - FIRST_BYTE) for vector in driver.vectors(job))


def test_an_embedding_model_makes_a_backend_that_only_embeds(embedder: Any) -> None:
    can = embedder.capabilities
    assert (can.generate, can.v2, can.count, can.embed) == (False, False, False, True)
    assert (can.context_length, can.embedding_dimensions, can.options) == (16, 320, ())
    assert can.local


def test_it_promises_the_tasks_and_the_dimensions_that_its_table_allows(make_model: Any, start: Any) -> None:
    path = make_model(pooling=gguf.PoolingType.MEAN)
    plain = start(path, context_length=16).capabilities
    assert (plain.embedding_tasks, plain.embedding_shortest, plain.embedding_longest) == ((), 320, 320)
    prefixes = {"query": "ab", "document": ""}
    able = start(path, context_length=16, cut_dimensions=True, task_prefixes=prefixes).capabilities
    assert (able.embedding_tasks, able.embedding_shortest, able.embedding_longest) == (("document", "query"), 1, 320)
    assert plain.embedding_raw
    assert able.embedding_raw


def test_one_text_makes_one_vector(embedder: Any) -> None:
    embedder.embed(1, "xyz")
    embedder.run()
    (result,) = embedder.events[1]
    assert (result.count, result.dimensions, result.input_tokens) == (1, 320, 3)
    assert len(result.data) == 4 * 320
    assert last_letters(embedder, 1) == "z"


def test_vectors_come_in_the_order_of_the_texts_over_many_steps(embedder: Any) -> None:
    texts = ["x" * (index % 15) + letter for index, letter in enumerate(LETTERS * 8)]
    embedder.embed(1, *texts)
    embedder.run()
    assert last_letters(embedder, 1) == LETTERS * 8
    assert embedder.events[1][0].input_tokens == sum(map(len, texts))


def test_a_step_takes_as_many_texts_as_fit(embedder: Any) -> None:
    embedder.embed(1, *["x" * 15 + "y"] * 4)
    assert embedder.step() == []
    assert [job for job, _ in embedder.step()] == [1]
    embedder.embed(2, *["y"] * (MAX_TEXTS_PER_STEP + 1))
    embedder.step()
    embedder.step()
    embedder.run()
    assert last_letters(embedder, 2) == "y" * (MAX_TEXTS_PER_STEP + 1)


def test_vectors_have_length_one_unless_asked_otherwise(embedder: Any) -> None:
    embedder.embed(1, "a", "b")
    embedder.embed(2, "a", "b", normalize=False)
    embedder.run()
    assert numpy.allclose(numpy.linalg.norm(embedder.vectors(1), axis=1), 1, atol=1e-6)
    assert numpy.allclose(numpy.linalg.norm(embedder.vectors(2), axis=1), 320**0.5, rtol=1e-3)


def test_requests_take_turns(embedder: Any) -> None:
    embedder.embed(1, *["x" * 15 + "y"] * 50)
    embedder.step()
    embedder.embed(2, "a")
    embedder.embed(3, "b")
    for _ in range(3):  # one to be read, one in which it may just not fit
        embedder.step()
    assert last_letters(embedder, 2) == "a"
    assert last_letters(embedder, 3) == "b"
    assert 1 not in embedder.events
    embedder.run()
    assert last_letters(embedder, 1) == "y" * 50


def test_a_text_that_is_too_long_is_named_before_anything_is_computed(
    embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder.embed(1, "a", "x" * 17, "b")
    with monkeypatch.context() as patch:
        patch.setattr(Context, "decode", lambda self, batch: pytest.fail("nothing is to be computed"))
        embedder.run()
    (error,) = embedder.events[1]
    assert isinstance(error, ContextOverflow)
    assert error.message == "input[1] has 17 tokens, and the model takes 16"
    assert error.details == {"field": "input[1]", "prompt_tokens": 17, "context_length": 16}


def test_a_text_as_long_as_the_model_takes_is_taken(embedder: Any) -> None:
    embedder.embed(1, "x" * 15 + "q")
    embedder.run()
    assert last_letters(embedder, 1) == "q"


def test_a_text_far_too_long_is_refused_without_being_tokenised(embedder: Any) -> None:
    embedder.embed(1, "x" * 1_000_000)
    embedder.run()
    assert "at least" in embedder.events[1][0].message


def test_a_text_far_too_long_is_not_tokenised_where_nobody_knows_how_few_tokens_it_may_have(embedder: Any) -> None:
    embedder.engine._part._vocabulary.longest = None  # as of a tokeniser that leaves things out
    embedder.embed(1, "x" * 1_000_000)
    embedder.embed(2, "x" * 60_000)
    embedder.run()
    assert "1,000,000 characters" in embedder.events[1][0].message
    assert "60,000 tokens" in embedder.events[2][0].message


def test_a_request_of_much_text_is_read_over_several_steps(embedder: Any) -> None:
    embedder.embed(1, *["x" * 15 + "y"] * 5000)
    embedder.embed(2, "a")
    steps = 0
    while 2 not in embedder.events:
        embedder.step()
        steps += 1
    assert steps <= 3
    embedder.engine.cancel(1)
    assert not embedder.engine.busy


def test_an_empty_text_without_tokens_is_refused_by_name(embedder: Any) -> None:
    embedder.embed(1, "a", "")
    embedder.run()
    (error,) = embedder.events[1]
    assert isinstance(error, InvalidRequest)
    assert error.details == {"field": "input[1]"}


def test_a_text_is_only_text(embedder: Any) -> None:
    embedder.embed(1, "<|end|>")
    embedder.run()
    assert embedder.events[1][0].input_tokens == 7


def test_no_texts_make_no_vectors(embedder: Any) -> None:
    embedder.engine.embed(1, EmbedRequest(input=[]))
    embedder.run()
    assert embedder.events[1] == [EmbedResult(count=0, dimensions=320, data=b"", input_tokens=0)]


@pytest.mark.parametrize(("options", "named"), [({"dimensions": 64}, "dimensions"), ({"task": "query"}, "task")])
def test_an_option_that_the_model_cannot_honour_is_named(embedder: Any, options: Any, named: str) -> None:
    with pytest.raises(Unsupported, match=named) as caught:
        embedder.embed(1, "a", **options)
    assert caught.value.details["option"] == named
    assert not embedder.engine.busy


def test_vectors_are_cut_and_have_length_one_again_where_the_model_allows_it(make_model: Any, start: Any) -> None:
    driver = start(make_model(pooling=gguf.PoolingType.MEAN), context_length=16, cut_dimensions=True)
    driver.embed(1, "ab", "b", dimensions=FIRST_BYTE + ord("a") + 1)
    driver.embed(2, "ab", "b", dimensions=FIRST_BYTE + ord("a") + 1, normalize=False)
    driver.embed(3, "ab")
    driver.run()
    assert driver.vectors(1).shape == (2, 102)
    assert driver.vectors(1)[0].tolist() == [*[0.0] * 101, 1.0], "what is left of the other letter is nothing"
    assert not driver.vectors(1)[1].any()
    assert 0 < driver.vectors(2)[0][101] != 1
    assert driver.vectors(3).shape == (1, 320)


@pytest.mark.parametrize("dimensions", [321, 100_000])
def test_more_dimensions_than_there_are_cannot_be_had(make_model: Any, start: Any, dimensions: int) -> None:
    driver = start(make_model(pooling=gguf.PoolingType.MEAN), context_length=16, cut_dimensions=True)
    with pytest.raises(Unsupported, match="from 1 to 320"):
        driver.embed(1, "ab", dimensions=dimensions)


def test_a_task_puts_its_text_in_front(make_model: Any, start: Any) -> None:
    path = make_model(pooling=gguf.PoolingType.MEAN)
    driver = start(path, context_length=16, task_prefixes={"query": "ab", "document": ""})
    driver.embed(1, "c", task="query")
    driver.embed(2, "abc")
    driver.embed(3, "abc", task="document")
    driver.embed(4, "x" * 15, task="query")
    driver.run()
    assert driver.vectors(1).tolist() == driver.vectors(2).tolist() == driver.vectors(3).tolist()
    assert driver.events[4][0].details["prompt_tokens"] == 17, "the task's text counts"


def test_an_unknown_task_is_answered_with_the_known_ones(make_model: Any, start: Any) -> None:
    driver = start(make_model(pooling=gguf.PoolingType.MEAN), context_length=16, task_prefixes={"query": "ab"})
    with pytest.raises(Unsupported, match=r"'search'.*query") as caught:
        driver.embed(1, "c", task="search")
    assert caught.value.details == {"option": "task", "tasks": ["query"]}


def test_more_texts_than_one_answer_holds_are_refused_at_once(embedder: Any) -> None:
    most = embedder.capabilities.max_input_texts
    assert 60 << 20 < most * 4 * 320 < 64 << 20
    embedder.embed(1, *["a"] * most)
    with pytest.raises(InvalidRequest, match=f"{most:,}"):
        embedder.embed(2, *["a"] * (most + 1))


def test_the_models_own_dimensions_may_be_asked_for(embedder: Any) -> None:
    embedder.embed(1, "a", dimensions=320)
    embedder.run()
    assert last_letters(embedder, 1) == "a"


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_cancelled_request_is_forgotten_and_its_neighbour_is_not(embedder: Any, steps: int) -> None:
    embedder.embed(1, *["x" * 15 + "y"] * 9)
    embedder.embed(2, *["x" * 15 + "z"] * 9)
    for _ in range(steps):
        embedder.step()
    embedder.engine.cancel(1)
    embedder.engine.cancel(7)
    embedder.run()
    assert 1 not in embedder.events
    assert last_letters(embedder, 2) == "z" * 9


def test_a_step_that_fails_costs_its_requests_and_nothing_else(embedder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder.embed(1, *["x" * 15 + "y"] * 9)
    with monkeypatch.context() as patch:
        patch.setattr(Context, "decode", lambda self, batch: -2)
        embedder.step()
    (error,) = embedder.events[1]
    assert isinstance(error, BackendRefused)
    assert error.details["status"] == -2
    assert not embedder.engine.busy
    embedder.embed(2, "a")
    embedder.run()
    assert last_letters(embedder, 2) == "a"


def test_it_does_not_generate_or_count(embedder: Any) -> None:
    with pytest.raises(Unsupported, match="generate"):
        embedder.submit(1, GenerateRequest(messages=[Message("user", "a")]))
    with pytest.raises(Unsupported, match="generate"):
        embedder.engine.count(CountRequest(messages=[Message("user", "a")]))


def test_mean_pooling_is_the_models_own(make_model: Any, start: Any) -> None:
    driver = start(make_model(pooling=gguf.PoolingType.MEAN), context_length=16)
    driver.embed(1, "ab", "ac")
    driver.run()
    first, second = driver.vectors(1)
    assert numpy.dot(first, second) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("pooling", [gguf.PoolingType.MEAN, gguf.PoolingType.LAST])
@pytest.mark.parametrize(("context", "batch"), [(8, 1), (33, 7), (100, 64), (64, 1000), (300, 2)])
def test_any_sizes_are_fit_to_be_run(
    make_model: Any, start: Any, pooling: gguf.PoolingType, context: int, batch: int
) -> None:
    """llama.cpp aborts the process on some combinations."""
    driver = start(make_model(pooling=pooling), context_length=context, batch=batch)
    driver.embed(1, *["x" * (index % context + 1) for index in range(100)])
    driver.run()
    assert driver.vectors(1).shape == (100, 320)


# --- the real model -------------------------------------------------------------------------------------------


@pytest.mark.model
def test_minilm_gives_the_similarities_that_it_is_known_for(minilm_path: str, start: Any) -> None:
    driver = start(minilm_path, context_length=None)
    driver.embed(1, "A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby.")
    driver.run()
    food, bread, baby = driver.vectors(1)
    assert numpy.dot(food, bread) == pytest.approx(0.755, abs=0.002)
    assert numpy.dot(food, baby) < 0.2
    assert driver.capabilities.embedding_dimensions == 384
    assert driver.capabilities.context_length == 512


@pytest.mark.model
def test_minilm_gives_a_text_the_same_vector_alone_and_among_others(minilm_path: str, start: Any) -> None:
    driver = start(minilm_path, context_length=None)
    texts = [f"Sentence number {number} about {'cats ' * number}" for number in range(30)]
    driver.embed(1, *texts)
    driver.embed(2, texts[17])
    driver.run()
    assert numpy.allclose(driver.vectors(1)[17], driver.vectors(2)[0], atol=2e-3)


@pytest.mark.model
def test_minilm_takes_an_empty_text_and_one_of_512_tokens(minilm_path: str, start: Any) -> None:
    driver = start(minilm_path, context_length=None)
    driver.embed(1, "", "dog " * 510)
    driver.embed(2, "dog " * 511)
    driver.run()
    assert numpy.allclose(numpy.linalg.norm(driver.vectors(1), axis=1), 1, atol=1e-5)
    assert driver.events[1][0].input_tokens == 2 + 512
    assert driver.events[2][0].details == {"field": "input[0]", "prompt_tokens": 513, "context_length": 512}
