"""The tree in the docstring is the tree, and an error survives the wire."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestal import errors
from vestal import messages as m
from vestal.codec import error_frame, exception_of
from vestal.errors import ERROR_CLASSES, VestalError, WireError, error_for_code

# The codes of the design, in its order. SPEC.md has the same in its table, which test_spec.py compares.
CODES = [
    "version_unsupported", "capability_missing", "not_authorized", "frame_too_large", "malformed_frame",
    "unknown_message", "invalid_request", "duplicate_id", "model_not_found", "unsupported", "context_overflow",
    "queue_full", "quota_exceeded", "queue_timeout", "deadline_exceeded", "backend_unavailable", "backend_crashed",
    "backend_refused", "slow_consumer", "shutting_down", "internal",
]  # fmt: skip


def printed_tree() -> dict[str, str]:
    """Child → parent, as the docstring draws it: deeper is below, and a line may hold several siblings."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []  # (column, name) of the line's ancestors
    for line in str(errors.__doc__).splitlines():
        row = re.match(r"^ {4}[ │├└─]*(?=[A-Z])", line)
        if row is None:
            continue
        column = row.end()
        above = [(place, name) for place, name in above if place < column]
        names = [word for word in re.split(r"  +", line[column:].strip()) if re.fullmatch(r"[A-Z][A-Za-z]+", word)]
        parents |= {name: above[-1][1] for name in names if above}
        above.append((column, names[0]))
    return parents


def real_tree() -> dict[str, str]:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, VestalError)]
    return {cls.__name__: cls.__base__.__name__ for cls in classes if cls is not VestalError and cls.__base__}


def test_the_tree_in_the_docstring_is_the_real_tree() -> None:
    assert printed_tree() == real_tree()


def test_every_code_of_the_design_has_a_class_and_there_are_no_others() -> None:
    assert list(ERROR_CLASSES) == CODES
    assert {cls.code for cls in WireError.__subclasses__()} == set(CODES)
    assert all(error_for_code(code) is cls and cls.code == code for code, cls in ERROR_CLASSES.items())


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(CODES),
    st.text(),
    st.none() | st.text(),
    st.dictionaries(st.text(), st.integers(0, 10) | st.text(), max_size=3),
    st.none() | st.booleans(),
    st.none() | st.integers(0, 10**6),
    st.none() | st.integers(0, 2**63 - 1),
)
def test_an_error_is_the_same_object_on_both_sides_of_the_wire(
    code: str,
    message: str,
    hint: str | None,
    details: dict[str, object],
    retryable: bool | None,
    after: int | None,
    id: int | None,
) -> None:
    sent = ERROR_CLASSES[code](message, hint=hint, details=details, retryable=retryable, retry_after_ms=after, id=id)
    got = exception_of(error_frame(sent))
    assert type(got) is type(sent)
    assert (got.message, got.hint, got.details, got.id) == (message, hint, details, id)
    assert got.retryable is sent.retryable
    assert got.retry_after == (None if after is None else after / 1000)


def test_a_code_of_a_later_version_is_kept() -> None:
    got = exception_of(m.Error(code="on_fire", message="burning", retryable=True))
    assert type(got) is WireError
    assert (got.code, got.retryable, WireError.code) == ("on_fire", True, "internal")


def test_retryable_is_the_classes_word_unless_the_instance_says_otherwise() -> None:
    assert errors.QueueFull("full").retryable
    assert not errors.QueueFull("full", retryable=False).retryable
    assert not errors.InvalidRequest("no").retryable


def test_the_text_of_an_error_carries_its_hint() -> None:
    assert str(errors.QueueFull("64 waiting", hint="come back later")) == "64 waiting (come back later)"
    assert str(errors.QueueFull("64 waiting")) == "64 waiting"


def test_the_id_of_an_error_frame_can_be_given() -> None:
    assert error_frame(errors.InternalError("a bug", id=3)).id == 3
    assert error_frame(errors.InternalError("a bug", id=3), 4).id == 4
    assert error_frame(errors.InternalError("a bug"), 0).id == 0


@pytest.mark.parametrize("cls", ERROR_CLASSES.values())
def test_every_class_says_what_it_means(cls: type[WireError]) -> None:
    assert cls.__doc__
    assert f"code={cls.code!r}" in repr(cls("x"))


def test_every_exported_name_exists() -> None:
    assert all(hasattr(errors, name) for name in errors.__all__)
    assert set(real_tree()) | {"VestalError"} <= set(errors.__all__)
