"""The handshake's decision, as properties over every hello and every offer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestal import messages as m
from vestal import negotiation
from vestal.errors import CapabilityMissing, VersionUnsupported
from vestal.explain import MAX_ECHO
from vestal.negotiation import FEATURES, Offer, negotiate
from vestal.values import FLAGS, Capabilities

LIMITS = m.Limits(frame=1 << 20, requests_per_connection=8, queue_depth=8, per_caller=4)
VERSIONS = st.lists(st.integers(0, 5), min_size=1, max_size=6)
FLAG_SETS = st.sets(st.sampled_from(FLAGS))


def backend(flags: set[str]) -> m.BackendInfo:
    capabilities = Capabilities(**dict.fromkeys(FLAGS, False) | dict.fromkeys(flags, True))  # type: ignore[arg-type]  # every flag is a bool
    return m.BackendInfo(name="b", model="model", capabilities=capabilities)


def offer(versions: list[int], *backends: set[str]) -> Offer:
    return Offer(
        server="vestald/test",
        session="s",
        versions=tuple(versions),
        limits=LIMITS,
        backends=[backend(flags) for flags in backends],
    )


@settings(deadline=None)
@given(VERSIONS, VERSIONS)
def test_the_highest_version_both_know_is_chosen_or_the_error_lists_the_daemons(
    ours: list[int], theirs: list[int]
) -> None:
    hello = m.Hello(versions=ours)
    if common := set(ours) & set(theirs):
        assert negotiate(hello, offer(theirs)).version == max(common)
        return
    with pytest.raises(VersionUnsupported) as refusal:
        negotiate(hello, offer(theirs))
    assert refusal.value.details == {"versions": sorted(theirs)}
    assert refusal.value.closes


@settings(deadline=None)
@given(VERSIONS, st.permutations([1, 2, 3]))
def test_the_order_of_versions_means_nothing(ours: list[int], theirs: list[int]) -> None:
    for versions in (ours, sorted(ours), ours[::-1]):
        hello = m.Hello(versions=[*versions, 1])
        assert negotiate(hello, offer(theirs)) == negotiate(m.Hello(versions=[*ours, 1]), offer([1, 2, 3]))


@settings(deadline=None)
@given(st.lists(st.sampled_from([*FEATURES, "telepathy", "queue_events "]), max_size=5))
def test_features_are_those_both_know_each_once(asked: list[str]) -> None:
    welcome = negotiate(m.Hello(versions=[1], features=asked), offer([1]))
    assert welcome.features == [feature for feature in FEATURES if feature in asked]


@settings(deadline=None)
@given(st.lists(st.sampled_from(FLAGS), max_size=5), st.lists(FLAG_SETS, max_size=4))
def test_a_welcome_means_that_one_backend_has_all_that_is_required(
    require: list[str], backends: list[set[str]]
) -> None:
    able = not require or any(set(require) <= flags for flags in backends)
    hello = m.Hello(versions=[1], require=require)
    if able:
        assert len(negotiate(hello, offer([1], *backends)).backends) == len(backends)
        return
    with pytest.raises(CapabilityMissing) as refusal:
        negotiate(hello, offer([1], *backends))
    missing = refusal.value.details["missing"]
    assert missing
    assert set(missing) <= set(require)
    assert refusal.value.details["require"] == require
    assert refusal.value.closes
    # What is listed is the nearest miss: no backend lacks less.
    assert len(missing) == min((sum(flag not in flags for flag in require) for flags in backends), default=len(require))


def test_a_capability_nobody_knows_is_missing_rather_than_ignored() -> None:
    with pytest.raises(CapabilityMissing, match="telepathy") as refusal:
        negotiate(m.Hello(versions=[1], require=["tools", "telepathy"]), offer([1], set(FLAGS)))
    assert refusal.value.details["missing"] == ["telepathy"]


def test_a_number_is_no_capability() -> None:
    with pytest.raises(CapabilityMissing):
        negotiate(m.Hello(versions=[1], require=["slots"]), offer([1], set(FLAGS)))


def test_long_names_are_not_repeated_at_length() -> None:
    with pytest.raises(CapabilityMissing) as refusal:
        negotiate(m.Hello(versions=[1], require=["x" * 128, "y" * 128]), offer([1], set(FLAGS)))
    assert "x" * MAX_ECHO not in refusal.value.message
    assert "yy" not in refusal.value.message
    assert all(len(name) <= MAX_ECHO for name in refusal.value.details["missing"])


def test_versions_are_compared_before_capabilities() -> None:
    with pytest.raises(VersionUnsupported):
        negotiate(m.Hello(versions=[9], require=["vision"]), offer([1]))


def test_the_offer_is_passed_on_as_it_is() -> None:
    made = offer([1, 2], {"generate"}, {"embed"})
    welcome = negotiate(m.Hello(versions=[2, 1]), made)
    assert (welcome.server, welcome.session, welcome.limits) == (made.server, made.session, made.limits)
    assert welcome.backends == made.backends


def test_every_exported_name_exists() -> None:
    assert all(hasattr(negotiation, name) for name in negotiation.__all__)
