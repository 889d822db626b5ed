"""Signatures come back to who has seen their thinking, and to nobody else; there is a bounded number of them."""

from __future__ import annotations

from vestal_adapters.remote.anthropic.signatures import Signatures


def test_a_signature_is_found_by_scope_and_text() -> None:
    kept = Signatures()
    kept.keep("1000", "hm", "sig")
    assert kept.of("1000", "hm") == "sig"
    assert kept.of("1001", "hm") is None
    assert kept.of("1000", "hmm") is None
    assert kept.of("100", "0hm") is None


def test_what_is_nobodys_is_not_kept() -> None:
    kept = Signatures()
    kept.keep(None, "hm", "sig")
    assert kept.of(None, "hm") is None
    kept.keep("1000", "hm", "x" * (1 << 20))
    assert kept.of("1000", "hm") is None
    assert repr(kept) == "<Signatures 0 of at most 1024>"


def test_the_oldest_goes_first() -> None:
    kept = Signatures(most=2)
    for text in ("a", "b", "c"):
        kept.keep("1", text, f"sig-{text}")
    assert [kept.of("1", text) for text in ("a", "b", "c")] == [None, "sig-b", "sig-c"]
