"""Which backend takes a request: every combination of name, capability, standing, policy and order."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import pytest
from msgspec import structs

from vestal.errors import BackendUnavailable, ModelNotFound, Unsupported
from vestal.messages import Embed
from vestal.values import Capabilities, RoutePolicy
from vestald.routing.asking import ask_of_embed
from vestald.routing.explain import explained
from vestald.routing.route import STAYS, Ask, Prospect, Standing, ranked

POLICIES: tuple[RoutePolicy, ...] = ("priority", "least_busy", "local_first")


def one(name: str, model: str = "", *, aliases: tuple[str, ...] = (), busy: float = 0.0,
        standing: Standing = Standing.SERVING, retry_after: float | None = None, **can: Any) -> Prospect:  # fmt: skip
    capabilities = Capabilities(model="" if standing is Standing.LOADING else model, **can)
    return Prospect(
        name, capabilities, model, aliases, standing, busy, f"is {standing.name}", "do something", retry_after
    )


V1 = one("old", "small")
V2 = one("new", "large", v2=True, aliases=("best", "fast"))
VECTORS = one("vectors", "minilm", generate=False, embed=True)
ALL = [VECTORS, V1, V2]
V2_ASK, EMBED = Ask(version=2), Ask(embed=True)


def chosen(ask: Ask, prospects: list[Prospect], policy: RoutePolicy = "priority") -> str:
    return ranked(ask, prospects, policy)[0].name


@pytest.mark.parametrize(("ask", "name"), [(Ask(), "old"), (V2_ASK, "new"), (EMBED, "vectors")])
def test_without_a_model_the_first_that_can_is_chosen(ask: Ask, name: str) -> None:
    assert chosen(ask, ALL) == name


def test_the_order_of_the_configuration_decides() -> None:
    for order in permutations([one("a"), one("b"), one("c")]):
        assert chosen(Ask(), list(order)) == order[0].name


@pytest.mark.parametrize("model", ["new", "large", "best", "fast"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_model_is_found_by_the_backends_name_by_its_own_and_by_every_alias(model: str, version: int) -> None:
    assert chosen(Ask(version=version, model=model), ALL) == "new"


def test_of_several_with_one_model_the_first_that_can_is_chosen() -> None:
    prospects = [one("a", "m", generate=False, embed=True), one("b", "m"), one("c", "m", v2=True)]
    assert [chosen(Ask(version=version, model="m"), prospects) for version in (1, 2)] == ["b", "c"]
    assert chosen(Ask(embed=True, model="m"), prospects) == "a"


def test_an_alias_that_several_share_is_a_choice() -> None:
    prospects = [one("a", aliases=("x",), busy=2.0), one("b"), one("c", aliases=("x",), local=True, busy=1.0)]
    assert [p.name for p in ranked(Ask(model="x"), prospects, "priority")] == ["a", "c"]
    assert [p.name for p in ranked(Ask(model="x"), prospects, "least_busy")] == ["c", "a"]
    assert [p.name for p in ranked(Ask(model="x"), prospects, "local_first")] == ["c", "a"]


def test_a_backend_that_cannot_honour_the_request_is_passed_over() -> None:
    def check(capabilities: Capabilities) -> None:
        if not capabilities.vision:
            raise Unsupported(f"model {capabilities.model!r} cannot honour image blocks", details={"option": "x"})

    blind, seeing = one("blind", "m"), one("seeing", "m", vision=True, busy=9.0)
    for policy in POLICIES:
        assert chosen(Ask(model="m", check=check), [blind, seeing], policy) == "seeing"
    with pytest.raises(Unsupported, match="image blocks"):
        ranked(Ask(model="m", check=check), [blind], "priority")


def test_how_a_backend_stands_goes_before_the_policy() -> None:
    idle_but_away = one("away", local=True, standing=Standing.AWAY)
    busy = one("busy", busy=50.0)
    for policy, order in product(POLICIES, permutations([idle_but_away, busy])):
        assert [p.name for p in ranked(Ask(), list(order), policy)] == ["busy", "away"]


def test_one_that_is_away_is_waited_for_before_one_that_is_cold() -> None:
    assert chosen(Ask(), [one("cold", standing=Standing.COLD), one("away", standing=Standing.AWAY)]) == "away"


@pytest.mark.parametrize("standing", [Standing.COLD, Standing.LOST, Standing.DRAINING, Standing.LOADING])
def test_where_nobody_can_take_it_now_it_is_unavailable_and_why_is_said(standing: Standing) -> None:
    with pytest.raises(BackendUnavailable, match=f"backend 'a' is {standing.name}") as refused:
        ranked(Ask(model="a"), [one("a", standing=standing), one("b")], "priority")
    assert refused.value.retryable
    assert refused.value.details == {"backend": "a", "backends": ["a"]}
    assert refused.value.hint == "do something"


def test_the_soonest_of_the_cold_ones_says_when_to_come_back() -> None:
    cold = [one(n, standing=Standing.COLD, retry_after=s) for n, s in (("a", 20.0), ("b", 4.5))]
    with pytest.raises(BackendUnavailable) as refused:
        ranked(Ask(), cold, "priority")
    assert refused.value.retry_after_ms == 4500


def test_a_backend_that_loads_is_known_by_what_its_table_says_and_what_it_can_do_is_not() -> None:
    loading = one("a", "large", standing=Standing.LOADING, aliases=("x",))
    for model in ("a", "x", "large", None):
        with pytest.raises(BackendUnavailable):
            ranked(Ask(model=model), [loading], "priority")
    with pytest.raises(ModelNotFound):
        ranked(Ask(model="small"), [loading], "priority")
    assert chosen(Ask(), [loading, V1]) == "old"


def test_a_backends_own_name_means_that_one_alone() -> None:
    prospects = [one("v", "echo"), one("echo", "echo"), one("w", aliases=("echo",))]
    for policy in POLICIES:
        assert [p.name for p in ranked(Ask(model="echo"), prospects, policy)] == ["echo"]
    gone = [one("v", "echo"), one("echo", "echo", standing=Standing.LOST)]
    with pytest.raises(BackendUnavailable, match="'echo' is LOST"):
        ranked(Ask(model="echo"), gone, "priority")


def test_nobody_is_sent_where_a_request_could_not_even_wait() -> None:
    others = [one(standing.name, standing=standing) for standing in Standing]
    assert [p.name for p in ranked(Ask(), others, "priority")] == ["SERVING", "AWAY"]


def test_a_model_that_nobody_has_is_named_with_those_that_could_be_asked() -> None:
    with pytest.raises(ModelNotFound, match="no backend serves model 'gpt-7'") as refused:
        ranked(Ask(model="gpt-7"), ALL, "priority")
    assert refused.value.details == {"model": "gpt-7", "models": ["old", "small", "new", "large", "best", "fast"]}
    with pytest.raises(ModelNotFound) as refused:
        ranked(Ask(embed=True, model="gpt-7"), ALL, "priority")
    assert refused.value.details["models"] == ["vectors", "minilm"]


def test_a_long_name_is_cut_short_in_the_answer() -> None:
    with pytest.raises(ModelNotFound) as refused:
        ranked(Ask(model="x" * 256), ALL, "priority")
    assert "x" * 65 not in str(refused.value)
    assert refused.value.details["model"] == "x" * 64


@pytest.mark.parametrize("model", ["vectors", "minilm"])
def test_a_model_that_cannot_do_it_is_said_with_those_that_can(model: str) -> None:
    with pytest.raises(Unsupported, match="cannot generate") as refused:
        ranked(Ask(model=model), ALL, "priority")
    assert refused.value.details == {"option": "model", "model": model}
    assert refused.value.hint == "models that can: old, small, new, large, best, fast"
    with pytest.raises(Unsupported, match="cannot embed"):
        ranked(Ask(embed=True, model="new"), ALL, "priority")


def test_a_model_that_does_not_speak_the_version_is_said() -> None:
    with pytest.raises(Unsupported, match="cannot generate on version 2") as refused:
        ranked(Ask(version=2, model="old"), ALL, "priority")
    assert refused.value.hint == "models that can: new, large, best, fast"


@pytest.mark.parametrize("ask", [Ask(), V2_ASK, EMBED])
def test_where_nobody_can_it_is_unsupported(ask: Ask) -> None:
    unable = [V1, V2] if ask.embed else [VECTORS]
    for prospects in ([], unable):
        with pytest.raises(Unsupported, match=f"no backend can {ask.what}"):
            ranked(ask, prospects, "priority")


SETS = list(product([True, False], [True, False], [True, False], list(Standing)))


@pytest.mark.parametrize("policy", POLICIES)
def test_whoever_is_chosen_is_meant_can_do_it_and_stands_best(policy: RoutePolicy) -> None:
    """Over every pair of backends, each with or without each capability, in each standing, and every way to ask."""
    for sets in product(SETS, repeat=2):
        prospects = [
            one(f"b{i}", "m", generate=g, v2=v, embed=e, standing=s, busy=float(2 - i), local=bool(i))
            for i, (g, v, e, s) in enumerate(sets)
        ]
        for model, version in product((None, "b0", "m"), (1, 2)):
            ask = Ask(version=version, model=model)
            meant = [p for p in prospects if p.name == model] or [p for p in prospects if model in (None, *p.names)]
            able = [p for p in meant if p.standing is not Standing.LOADING and ask.can(p.capabilities)]
            takers = [p for p in able if p.standing <= Standing.AWAY]
            verdicts, refusal = explained(ask, prospects, policy)
            assert len(verdicts) == len(prospects), "each is told of once"
            if takers:
                best = ranked(ask, prospects, policy)
                assert {p.name for p in best} == {p.name for p in takers}
                assert best[0].standing == min(p.standing for p in able)
                equals = [p for p in able if p.standing == best[0].standing]
                assert best[0] is (equals[0] if policy == "priority" else equals[-1])
                assert [(p.name, v) for p, v, _ in verdicts if v == "chosen"] == [(best[0].name, "chosen")]
                assert refusal is None
            else:
                with pytest.raises((BackendUnavailable, Unsupported, ModelNotFound)) as refused:
                    ranked(ask, prospects, policy)
                assert refusal is not None
                assert (refusal.code, refusal.message) == (refused.value.code, refused.value.message)
                assert not [v for _, v, _ in verdicts if v == "chosen"]


def test_every_verdict_has_its_reason() -> None:
    prospects = [
        one("other", "z"),
        one("vectors", "m", generate=False, embed=True),
        one("first", "m", busy=1.0),
        one("second", "m", busy=2.0),
        one("third", "m", standing=Standing.AWAY),
        one("fourth", "m", standing=Standing.COLD),
        one("fifth", "m", standing=Standing.LOADING),
    ]
    verdicts, refusal = explained(Ask(model="m"), prospects, "least_busy")
    assert refusal is None
    assert [(p.name, verdict, reason) for p, verdict, reason in verdicts] == [
        ("first", "chosen", "the least busy"),
        ("second", "possible", "first goes before it: the least busy"),
        ("third", "away", "it is AWAY"),
        ("vectors", "incapable", "it cannot generate"),
        ("fourth", "cold", "it is COLD"),
        ("fifth", "loading", "it is LOADING"),
        ("other", "other_model", "it is called other or z"),
    ]


# --- an embed's options: yes, no, and not said ----------------------------------------------------------------


def vectors(name: str, **can: Any) -> Prospect:
    return one(name, "m", **{"generate": False, "embed": True, "embedding_dimensions": 8, **can})


YES = vectors("yes", embedding_tasks=("query",), busy=5.0)
NO = vectors("no", embedding_tasks=())
SILENT = vectors("silent", local=True)


def asking(**options: Any) -> Ask:
    return ask_of_embed(Embed(id=1, input=["a"], **options))


def test_who_says_that_it_can_goes_before_who_does_not_say_and_who_cannot_is_none() -> None:
    for policy, order in product(POLICIES, permutations([NO, SILENT, YES])):
        assert [p.name for p in ranked(asking(task="query"), list(order), policy)] == ["yes", "silent"]
    assert [p.name for p in ranked(asking(), [NO, SILENT, YES], "priority")] == ["no", "silent", "yes"]


def test_one_that_serves_and_does_not_say_goes_before_one_that_can_and_is_away() -> None:
    away = structs.replace(YES, standing=Standing.AWAY)
    assert [p.name for p in ranked(asking(task="query"), [away, SILENT], "priority")] == ["silent", "yes"]


def test_what_nobody_speaks_of_is_asked_for_in_the_order_of_the_policy() -> None:
    other = vectors("other", busy=3.0)
    assert [p.name for p in ranked(asking(dimensions=4), [other, SILENT], "priority")] == ["other", "silent"]
    for policy in ("least_busy", "local_first"):
        assert [p.name for p in ranked(asking(dimensions=4), [other, SILENT], policy)] == ["silent", "other"]


def test_where_all_say_no_the_refusal_names_the_option() -> None:
    with pytest.raises(Unsupported, match="task='query'") as refused:
        ranked(asking(task="query"), [NO, vectors("nor", embedding_tasks=("text",))], "priority")
    assert (refused.value.details["option"], refused.value.retryable) == ("task", False)


def test_who_has_refused_is_not_asked_again_and_its_word_is_the_answer_if_nobody_is_left() -> None:
    said = Unsupported("it cannot", details={"option": "dimensions"})
    ask = ask_of_embed(Embed(id=1, input=["a"], dimensions=4), {"silent": said})
    assert chosen(ask, [SILENT, vectors("other")]) == "other"
    with pytest.raises(Unsupported) as refused:
        ranked(ask, [SILENT], "priority")
    assert refused.value is said


def test_an_explanation_of_an_embed_has_the_options_in_it() -> None:
    verdicts, refusal = explained(asking(task="query"), [NO, SILENT, YES], "priority")
    assert refusal is None
    assert [(p.name, verdict) for p, verdict, _ in verdicts] == [
        ("yes", "chosen"), ("silent", "possible"), ("no", "incapable"),
    ]  # fmt: skip
    whys = [why for _, _, why in verdicts]
    assert whys[0] == "silent does not say whether it honours task"
    assert whys[1] == "yes goes before it: silent does not say whether it honours task"
    assert "cannot honour task='query'" in whys[2]
    ((_, verdict, why),), _ = explained(asking(dimensions=4, normalize=False), [SILENT], "priority")
    doubt = "it is the only one that can; it does not say whether it honours dimensions and normalize"
    assert (verdict, why) == ("chosen", doubt)


# --- requests that name no model ------------------------------------------------------------------------------

OWN, CLOUD = one("own", "small", local=True), one("cloud", "large", v2=True)


def test_one_that_names_no_model_may_be_kept_on_this_machine() -> None:
    for policy, order in product(POLICIES, permutations([CLOUD, OWN, one("far")])):
        assert [p.name for p in ranked(Ask(), list(order), policy, "local")] == ["own"]
        assert len(ranked(Ask(), list(order), policy)) == 3
    assert ranked(Ask(model="large"), [OWN, CLOUD], "priority", "local") == [CLOUD]


@pytest.mark.parametrize("standing", [Standing.COLD, Standing.LOST, Standing.DRAINING, Standing.LOADING])
def test_where_its_own_machine_cannot_take_it_now_the_refusal_says_why_nobody_else_does(standing: Standing) -> None:
    own = one("own", "small", local=True, standing=standing)
    assert [p.name for p in ranked(Ask(), [own, CLOUD], "priority")] == ["cloud"]
    with pytest.raises(BackendUnavailable, match=f"'own' is {standing.name}") as refused:
        ranked(Ask(), [own, CLOUD], "priority", "local")
    assert refused.value.hint is not None
    assert 'stays on this machine (router.unnamed = "local")' in refused.value.hint
    assert refused.value.details["unnamed"] == "local"


def test_a_remote_that_has_not_come_yet_hides_no_reason() -> None:
    """Where it computes is not known before: it may be the one that is waited for, and the reason is told as well."""
    coming = one("far", standing=Standing.LOADING)
    with pytest.raises(BackendUnavailable) as refused:
        ranked(Ask(version=2), [OWN, coming], "priority", "local")
    assert refused.value.hint is not None
    assert "stays on this machine" in refused.value.hint
    assert refused.value.details["unnamed"] == "local"


def test_one_that_is_away_is_waited_for_instead_of_leaving_the_machine() -> None:
    away = one("own", local=True, standing=Standing.AWAY)
    assert [p.name for p in ranked(Ask(), [CLOUD, away], "priority", "local")] == ["own"]


def test_where_this_machine_cannot_do_it_at_all_those_that_can_are_named() -> None:
    with pytest.raises(Unsupported, match="no backend on this machine can generate on version 2") as refused:
        ranked(Ask(version=2), [OWN, CLOUD], "priority", "local")
    assert refused.value.hint is not None
    assert refused.value.hint.startswith(
        "models that can, elsewhere: cloud, large; a request that names no model stays"
    )
    with pytest.raises(Unsupported, match="no backend can embed") as refused:
        ranked(EMBED, [OWN], "priority", "local")
    assert "unnamed" not in refused.value.details


def test_an_explanation_says_that_it_stays_here() -> None:
    verdicts, refusal = explained(Ask(), [CLOUD, OWN], "priority", "local")
    assert refusal is None
    assert [(p.name, verdict, why) for p, verdict, why in verdicts] == [
        ("own", "chosen", "it is the only one that can"),
        ("cloud", "other_model", f"it computes elsewhere; {STAYS}"),
    ]
