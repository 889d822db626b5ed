"""Answers under a grammar: on chain models, where what the model would say is known, and on a real one."""

from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.adapters.llamacpp.conftest import END, Chain, MakeModel, Start
from tests.adapters.llamacpp.constraining.test_gbnf import JSON
from tests.adapters.llamacpp.derivation import Derivation
from vestal.backend import GenerateRequestV2
from vestal.errors import BackendRefused, InvalidRequest, Unsupported
from vestal.values import GenerateOptions, MessageV2, ResponseFormat, TextBlock
from vestal_adapters.llamacpp.constraining.automaton import compile_grammar
from vestal_adapters.llamacpp.constraining.constraint import Constraint, Constraints
from vestal_adapters.llamacpp.constraining.gbnf import parse
from vestal_adapters.llamacpp.constraining.schema import to_gbnf
from vestal_adapters.llamacpp.constraining.token_bytes import TokenBytes
from vestal_adapters.llamacpp.native import Model

LOOP: Chain = ["a", "b", "c", "a"]
PIECES = [b"", b"a", b"ab", b"abc", b"b", b"ba", b"\xc3", b"\xa9", "é".encode(), b"end", b"a"]


def _constraint(grammar: str, ends: tuple[int, ...] = (0,), markers: dict[int, bytes] | None = None) -> Constraint:
    return Constraint(compile_grammar(parse(grammar)), TokenBytes(PIECES), ends, "grammar", markers or {})


def _allowed(constraint: Constraint) -> list[int]:
    allowed = constraint.allowed()
    assert allowed is not None
    assert sorted(allowed.tolist()) == [token for token in range(len(PIECES)) if constraint.allows(token)]
    return sorted(allowed.tolist())


def test_a_token_is_allowed_if_all_of_it_may_come_next() -> None:
    constraint = _constraint('root ::= "ab" [a-zé]{0,2}')
    assert _allowed(constraint) == [1, 2, 3, 10]
    constraint.accept(2)
    assert not constraint.finished
    assert _allowed(constraint) == [0, 1, 2, 4, 5, 6, 8, 10]
    constraint.accept(6)
    assert _allowed(constraint) == [7], "in the middle of a character, where no answer ends"


def test_nothing_may_follow_a_finished_text() -> None:
    constraint = _constraint('root ::= "end"')
    constraint.accept(9)
    assert constraint.finished and constraint.notices() == []
    assert _allowed(constraint) == [0]


def test_a_text_that_is_cut_off_is_noted() -> None:
    (notice,) = _constraint('root ::= "a"').notices()
    assert notice.code == "constraint_incomplete"


def test_a_control_token_comes_only_as_a_marker() -> None:
    constraint = _constraint('root ::= "<call>"', ends=(), markers={0: b"<call>"})
    assert _allowed(constraint) == [0]
    constraint.accept(0)
    assert constraint.finished


def test_all_that_is_allowed_is_found_only_while_that_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestal_adapters.llamacpp.constraining.constraint.LITTLE_WORK", 0)
    constraint = _constraint("root ::= [a-z]{100}")
    assert constraint.allowed() is None
    assert constraint.allows(3)


def test_a_grammar_too_ambiguous_to_follow_is_refused() -> None:
    constraint = _constraint('root ::= "a" root "b" | "a" root "c" | ""')
    with pytest.raises(BackendRefused, match="too ambiguous"):
        for _ in range(40):
            assert constraint.allows(1)
            constraint.accept(1)


def test_an_answer_keeps_to_the_grammar_and_ends_with_it(make_model: MakeModel, start: Start) -> None:
    """The model would say b c a b c… without end."""
    driver = start(make_model(LOOP))
    driver.ask(1, "a", grammar='root ::= "b" [xyz] "a"', temperature=0.0)
    driver.run()
    assert re.fullmatch("b[xyz]a", driver.text(1))
    assert driver.end(1).stop_reason == "end"
    assert driver.end(1).notices == []
    assert driver.end(1).usage.output_tokens == 3


def test_a_grammar_that_allows_anything_changes_nothing(make_model: MakeModel, start: Start) -> None:
    driver = start(make_model(["a", "b", "c", "d", END]))
    for job, grammar in enumerate((None, "root ::= .*")):
        driver.ask(job, "a", grammar=grammar, seed=3)
        driver.run()
    assert driver.text(0) == driver.text(1) == "bcd"
    assert driver.end(1).stop_reason == "end"


def test_an_answer_may_not_end_before_the_grammar_does(make_model: MakeModel, start: Start) -> None:
    driver = start(make_model(["a", "b", END]))
    driver.ask(1, "a", grammar='root ::= "b"{5}', temperature=0.0)
    driver.run()
    assert driver.text(1) == "bbbbb"


@pytest.mark.parametrize(("options", "reason"), [({"max_tokens": 2}, "length"), ({"stop": ["bc"]}, "stop_sequence")])
def test_an_answer_cut_off_says_that_it_is_incomplete(
    make_model: MakeModel, start: Start, options: dict[str, Any], reason: str
) -> None:
    driver = start(make_model(LOOP))
    driver.ask(1, "a", grammar='root ::= "bcabca"', **options)
    driver.run()
    assert driver.end(1).stop_reason == reason
    assert [notice.code for notice in driver.end(1).notices] == ["constraint_incomplete"]


def test_an_answer_that_could_have_ended_there_says_nothing(make_model: MakeModel, start: Start) -> None:
    driver = start(make_model(LOOP))
    driver.ask(1, "a", grammar="root ::= [a-c]+", max_tokens=4)
    driver.run()
    assert driver.end(1).stop_reason == "length" and driver.end(1).notices == []


def test_a_refused_grammar_takes_no_slot_and_harms_no_other(make_model: MakeModel, start: Start) -> None:
    driver = start(make_model(LOOP), slots=1)
    for grammar, error in (("root ::= x", InvalidRequest), ("root ::= <[1]>", Unsupported)):
        with pytest.raises(error):
            driver.ask(1, "a", grammar=grammar)
    with pytest.raises(Unsupported, match=r"response_format\.schema\.uniqueItems"):
        driver.ask(1, "a", response_format=ResponseFormat(schema={"type": "array", "uniqueItems": True}))
    assert not driver.engine.busy
    driver.ask(1, "a", max_tokens=2)
    driver.run()
    assert driver.text(1) == "bc"


def test_a_grammar_that_becomes_too_ambiguous_ends_its_own_job_only(make_model: MakeModel, start: Start) -> None:
    driver = start(make_model(["a", "a"]), slots=2)
    driver.ask(1, "a", grammar='root ::= "a" root "b" | "a" root "c" | ""', temperature=0.0, max_tokens=60)
    driver.ask(2, "a", max_tokens=60)
    driver.run()
    assert isinstance(driver.events[1][-1], BackendRefused)
    assert driver.text(2) == "a" * 60


def test_a_character_that_no_token_has_whole_is_written_byte_by_byte(make_model: MakeModel, start: Start) -> None:
    driver = start(make_model(LOOP))
    driver.ask(1, "a", grammar='root ::= "é" [😀-😂]', seed=1)
    driver.run()
    assert re.fullmatch("é[😀-😂]", driver.text(1))


def test_capabilities_say_so(make_model: MakeModel, start: Start) -> None:
    capabilities = start(make_model(LOOP)).capabilities
    assert capabilities.grammar and capabilities.json_schema


def test_version_2_is_constrained_too(make_model: MakeModel, start: Start) -> None:
    driver = start(make_model(LOOP))
    options = GenerateOptions(response_format=ResponseFormat(schema={"enum": [12, 13]}))
    driver.submit(1, GenerateRequestV2(messages=[MessageV2("user", [TextBlock("a")])], options=options))
    driver.run()
    assert driver.text(1) in ("12", "13")


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
}
SCHEMAS: list[Any] = [
    PERSON,
    {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 2, "maxItems": 4},
    {"enum": ["yes", "no", "maybe"]},
    {"type": "string", "pattern": "^[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8}){0,2}$"},
    {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}]},
    {"$defs": {"n": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {
        "anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}}, "required": ["v", "next"]}}, "$ref": "#/$defs/n"},
    {"type": "object", "additionalProperties": {"type": "string", "maxLength": 6}, "properties": {"id": {
        "type": "string", "format": "uuid"}}, "required": ["id"]},
    {"type": "array", "prefixItems": [{"type": "string", "maxLength": 5}, {"type": "integer"}], "items": False},
    {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "boolean"}},
                                                           "required": ["a", "b"]}]},
    {"type": "string", "maxLength": 20},
]  # fmt: skip
GRAMMARS = [
    (r'root ::= "yes" | "no"', "yes|no"),
    (r"root ::= [0-9]{3} ([ -] [0-9]{4})?", r"\d{3}([ -]\d{4})?"),
    (r'root ::= ("- " [a-z ]{3,20} "\n"){3}', r"(- [a-z ]{3,20}\n){3}"),
    (r"root ::= [^a-zA-Z]{1,12}", r"[^a-zA-Z\x00]{1,12}"),
    (r'root ::= [A-Z] [a-z]{1,10} (" " [a-z]{1,10}){1,5} [.!?]', r"[A-Z][a-z]{1,10}( [a-z]{1,10}){1,5}[.!?]"),
    (r"root ::= [à-ü]{2,6}", "[à-ü]{2,6}"),
    (r'root ::= (line "\n"){2}' + "\n" + r"line ::= [0-9]{1,2} [+*] [0-9]{1,2}", r"(\d{1,2}[+*]\d{1,2}\n){2}"),
    (r'root ::= "<b>" [^<>&]{1,15} "</b>"', "<b>[^<>&]{1,15}</b>"),
    (r'root ::= "a"? "b"? "c"? "!"', "a?b?c?!"),
    (r'root ::= "{" "}" | "[" [a-f0-9]{8} "]"', r"\{\}|\[[a-f0-9]{8}\]"),
]


@pytest.mark.model
@pytest.mark.timeout(300)
@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:50])
def test_the_real_models_answers_are_valid(smollm2_path: str, start: Start, schema: Any) -> None:
    driver = start(smollm2_path, context_length=1024, slots=4, threads=None)
    for seed in range(4):
        form = ResponseFormat(schema=schema)
        driver.ask(
            seed, "Make something up, as JSON.", response_format=form, temperature=1.2, seed=seed, max_tokens=200
        )
    driver.run()
    for seed in range(4):
        if driver.end(seed).stop_reason == "length":
            assert [notice.code for notice in driver.end(seed).notices] == ["constraint_incomplete"]
        else:
            assert driver.end(seed).stop_reason == "end"
            jsonschema.validate(json.loads(driver.text(seed)), schema, jsonschema.Draft202012Validator)


@pytest.mark.model
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("grammar", "pattern"), GRAMMARS, ids=[repr(g[9:40]) for g, _ in GRAMMARS])
def test_the_real_models_answers_keep_to_a_grammar(smollm2_path: str, start: Start, grammar: str, pattern: str) -> None:
    driver = start(smollm2_path, context_length=512, slots=4, threads=None)
    plain: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    kinds = [{"temperature": 1.2}, plain | {"temperature": 1.2}, {"temperature": 0.0}, {"repeat_penalty": 1.5}]
    for job, options in enumerate(kinds):
        driver.ask(job, "Tell me something.", grammar=grammar, seed=job, max_tokens=150, **options)
    driver.run()
    for job in range(len(kinds)):
        assert driver.end(job).stop_reason == "end"
        assert re.fullmatch(pattern, driver.text(job))


@pytest.mark.model
def test_the_same_seed_gives_the_same_constrained_answer(smollm2_path: str, start: Start) -> None:
    driver = start(smollm2_path, context_length=512, slots=1, threads=None)
    for job in range(2):
        form = ResponseFormat(schema=PERSON)
        driver.ask(job, "A person, as JSON.", response_format=form, seed=11, max_tokens=120, temperature=1.2)
        driver.run()
    assert driver.text(0) == driver.text(1)


@pytest.mark.model
def test_a_grammar_that_allows_anything_gives_the_unconstrained_answer(smollm2_path: str, start: Start) -> None:
    driver = start(smollm2_path, context_length=512, slots=1, threads=None)
    for job, grammar in enumerate((None, "root ::= .*")):
        driver.ask(job, "Tell me a story.", grammar=grammar, seed=5, max_tokens=60)
        driver.run()
    assert driver.text(0) == driver.text(1)


@pytest.mark.model
@pytest.mark.timeout(300)
def test_exactly_what_llama_cpp_would_allow_is_allowed(smollm2_path: str) -> None:
    """Against llama.cpp's own grammar code, over the whole vocabulary, on grammars that are safe to give it."""
    from llama_cpp import llama_cpp as lib

    model = Model.open(Path(smollm2_path), lambda part: None)
    vocabulary = model.vocabulary
    control = {token for token in range(vocabulary.size) if not vocabulary.piece(token)} - vocabulary.ends
    constraints = Constraints(vocabulary)
    for text in [JSON, *(grammar for grammar, _ in GRAMMARS), *map(to_gbnf, SCHEMAS)]:
        native = lib.llama_sampler_init_grammar(vocabulary._handle, text.encode(), b"root")
        ours = constraints.by(text)
        for token in vocabulary.tokenize(Derivation(text, seed=1, room=30).text())[:10]:
            theirs = _native_allowed(lib, native, vocabulary.size) - control
            assert theirs == {token for token in range(vocabulary.size) if ours.allows(token)}
            if token not in theirs:
                break
            ours.accept(token)
            lib.llama_sampler_accept(native, token)
        lib.llama_sampler_free(native)
    model.close()


def _native_allowed(lib: Any, sampler: Any, size: int) -> set[int]:
    candidates = (lib.llama_token_data * size)(*(lib.llama_token_data(token, 0.0, 0.0) for token in range(size)))
    array = lib.llama_token_data_array(data=candidates, size=size, selected=-1, sorted=False)
    lib.llama_sampler_apply(sampler, ctypes.byref(array))
    return {candidate.id for candidate in candidates if candidate.logit == 0.0}
