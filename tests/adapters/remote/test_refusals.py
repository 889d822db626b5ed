"""What servers answer when they do not serve, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.errors import WireError
from vestal_adapters.remote.key import MASK, Key
from vestal_adapters.remote.refusals import MAX_ERROR_BODY, MAX_SHOWN, read_refusal, refused, retry_after_ms

NOW = 1_800_000_000.0
KEY = Key("sk-secret-1234", "variable CLUSTER_KEY")


def error(status: int, body: Any = b"", key: Key | None = KEY, headers: Mapping[str, str] | None = None) -> WireError:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return refused(read_refusal(status, headers or {}, data, key, NOW), "cluster", key, "small")


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (301, "backend_refused", False),
        (400, "backend_refused", False),
        (401, "backend_refused", False),
        (402, "backend_refused", False),
        (403, "backend_refused", False),
        (404, "backend_refused", False),
        (408, "backend_unavailable", True),
        (413, "backend_refused", False),
        (422, "backend_refused", False),
        (429, "backend_unavailable", True),
        (500, "backend_crashed", True),
        (502, "backend_unavailable", True),
        (503, "backend_unavailable", True),
        (529, "backend_unavailable", True),
        (599, "backend_crashed", True),
    ],
)
def test_every_status_has_a_code_and_says_whether_a_retry_helps(status: int, code: str, retryable: bool) -> None:
    refusal = error(status)
    assert (refusal.code, refusal.retryable) == (code, retryable)
    assert f"'cluster' answered {status}" in refusal.message
    assert refusal.details["status"] == status


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, "context_overflow"),
        (400, {"error": {"message": "This model's maximum context length is 8 tokens"}}, "context_overflow"),
        (500, {"error": {"message": "the request exceeds the available context size"}}, "context_overflow"),
        (404, {"error": {"message": "The model `x` does not exist"}}, "model_not_found"),
        (404, {"detail": "Not Found"}, "backend_refused"),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, "backend_refused"),
    ],
)
def test_what_the_body_says_decides_between_two(status: int, body: Any, code: str) -> None:
    refusal = error(status, body)
    assert refusal.code == code
    assert not refusal.retryable


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"error": {"message": "no\nway"}}, "no way"),
        ({"error": "no way"}, "no way"),
        ({"message": "no way"}, "no way"),
        ({"detail": [{"loc": ["body"], "msg": "no way"}]}, "no way"),
        (b"<html>no way</html>", "no way"),
        (b'{"error": {"message": "no way', "no way"),
        ([], "says nothing"),
        ({"error": None}, "says nothing"),
        (b"[" * 5000, "["),
    ],
)
def test_the_reason_is_found_in_whatever_shape_it_has(body: Any, shown: str) -> None:
    assert shown in error(400, body).message


def test_a_wrong_key_is_told_by_the_name_of_what_holds_it() -> None:
    assert error(401).hint == "check the key in variable CLUSTER_KEY"
    assert "api_key_env" in str(error(401, key=None).hint)


def test_a_key_that_the_server_repeats_is_masked_before_anything_is_cut() -> None:
    body = {"error": {"message": "x" * (MAX_SHOWN - 4) + KEY.value, "code": KEY.value}}
    refusal = error(401, body)
    assert KEY.value[:5] not in repr(refusal) + str(refusal)
    assert MASK in error(401, {"error": f"bad key {KEY.value}"}).message


@given(cut=st.integers(1, 3), text=st.sampled_from(["\u2603", "\U0001f525", "\u00e9"]))
def test_a_body_is_cut_between_characters(cut: int, text: str) -> None:
    body = b"x" * (MAX_ERROR_BODY - cut) + text.encode() * 2
    shown = read_refusal(500, {}, body, None, NOW).message
    assert "\N{REPLACEMENT CHARACTER}" not in shown
    assert len(shown) <= MAX_SHOWN


@given(body=st.binary(max_size=400), status=st.integers(300, 599))
def test_no_body_breaks_anything(body: bytes, status: int) -> None:
    refusal = error(status, body)
    assert refusal.message.isprintable()
    assert len(refusal.message) < MAX_SHOWN + 80


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7000),
        ({"Retry-After": "1.5"}, 1500),
        ({"Retry-After": format_datetime(datetime.fromtimestamp(NOW + 30, UTC), usegmt=True)}, 30000),
        ({"Retry-After": format_datetime(datetime.fromtimestamp(NOW - 30, UTC), usegmt=True)}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "99999999999999"}, 24 * 3600 * 1000),
        ({"retry-after-ms": "250"}, 250),
        ({"retry-after-ms": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], expected: int | None) -> None:
    assert retry_after_ms(headers, NOW) == expected


def test_a_wait_is_told_with_what_a_retry_can_help_only() -> None:
    assert error(429, headers={"Retry-After": "7"}).retry_after_ms == 7000
    assert error(400, headers={"Retry-After": "7"}).retry_after_ms is None
