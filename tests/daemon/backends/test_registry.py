"""From tables to backends: adapters by entry point, options checked, defaults from the model store."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest

from vestal.backend import Backend, BackendOptions
from vestal.errors import ModelError, VestalError
from vestal.models import Store
from vestal_adapters.echo import EchoBackend
from vestald import adapters as found_adapters
from vestald.adapters import ADAPTER_GROUP
from vestald.backends.registry import build_backends, configured_or_default
from vestald.config import BackendTable, Config
from vestald.failures import BadConfiguration


def config(*tables: tuple[str, str, dict[str, Any]]) -> Config:
    return Config(
        backends=tuple(BackendTable(name, adapter, options) for name, adapter, options in tables),
        source=Path("/etc/v.toml"),
    )


def refusal(config: Config) -> str:
    with pytest.raises(BadConfiguration) as refused:
        build_backends(config)
    return str(refused.value)


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`adapters(name="module:attribute")`: the only adapters that are installed."""

    def install(**points: str) -> None:
        found = [EntryPoint(name, value, ADAPTER_GROUP) for name, value in points.items()]
        monkeypatch.setattr(found_adapters, "entry_points", lambda *, group: found if group == ADAPTER_GROUP else [])

    return install


def test_backends_are_built_in_the_order_of_the_file_with_their_adapters_name() -> None:
    built = build_backends(config(("b", "echo", {"slots": 3}), ("a", "echo", {})))
    assert [(one.table.adapter, one.backend.name, type(one.backend)) for one in built] == [
        ("echo", "b", EchoBackend),
        ("echo", "a", EchoBackend),
    ]
    assert [one.backend.capabilities.slots for one in built] == [3, 1]


def test_the_adapters_of_this_distribution_are_found_and_are_backends() -> None:
    found = {point.name: point for point in entry_points(group=ADAPTER_GROUP)}
    assert {"echo", "llamacpp"} <= set(found)
    assert all(issubclass(found[name].load(), Backend) for name in ("echo", "llamacpp"))


def test_an_unknown_adapter_is_refused_with_the_nearest_and_all_there_are(adapters: Any) -> None:
    adapters(echo="vestal_adapters.echo:EchoBackend", other="vestal_adapters.echo:EchoBackend")
    message = refusal(config(("a", "ecko", {})))
    assert "/etc/v.toml: backend a: there is no adapter 'ecko'" in message
    assert "did you mean 'echo'?" in message
    assert "installed adapters: echo, other" in message


def test_where_no_adapter_is_installed_that_is_said(adapters: Any) -> None:
    adapters()
    assert "installed adapters: none" in refusal(config(("a", "echo", {})))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"slotz": 3}, "unknown key backend a.slotz; did you mean slots?"),
        ({"slots": "many"}, "backend a.slots: "),
        ({"slots": 0}, "backend a.slots: "),
        ({"fault": "explode"}, "fault: 'explode'"),
        ({"token_delay": "10"}, "token_delay: "),
        ({"fault": "crash:3"}, 'isolation = "process"'),
    ],
)
def test_an_adapters_options_are_checked_by_its_own_declaration(options: dict[str, Any], says: str) -> None:
    message = refusal(config(("a", "echo", options)))
    assert message.startswith("/etc/v.toml: ")
    assert says in message


@pytest.mark.parametrize(
    "point",
    [
        "no_such_module_at_all:Backend",
        "vestal_adapters.echo:NoSuchAttribute",
        "tests.daemon.broken_adapter:Backend",
    ],
)
def test_an_adapter_that_cannot_be_imported_says_why(adapters: Any, point: str) -> None:
    adapters(bad=point)
    message = refusal(config(("a", "bad", {})))
    assert "adapter 'bad' cannot be imported" in message
    assert "install the extra that it is part of" in message


@pytest.mark.parametrize("point", ["vestal.values:Message", "vestal.durations:parse_duration", "os:path"])
def test_an_entry_point_that_is_no_backend_is_refused(adapters: Any, point: str) -> None:
    adapters(bad=point)
    assert "is not a vestal.backend.Backend" in refusal(config(("a", "bad", {})))


class Refusing(EchoBackend):
    """An adapter that finds fault with its options when it is made."""

    Options = BackendOptions
    fault: Exception = VestalError("it does not like them", hint="change them")

    def __init__(self, name: str, options: BackendOptions) -> None:
        raise self.fault


@pytest.mark.parametrize("fault", [VestalError("bad", hint="change it"), ValueError("bad")])
def test_an_adapter_that_refuses_its_options_is_bad_configuration(
    adapters: Any, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(Refusing, "fault", fault)
    adapters(picky=f"{__name__}:Refusing")
    assert "/etc/v.toml: backend a: bad" in refusal(config(("a", "picky", {})))


class Greedy(EchoBackend):
    """An adapter with an option that is the daemon's."""

    class Options(BackendOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
        aliases: int = 0


def test_an_adapter_whose_option_is_the_daemons_own_is_refused(adapters: Any) -> None:
    adapters(greedy=f"{__name__}:Greedy")
    message = refusal(config(("a", "greedy", {})))
    assert "adapter 'greedy' has the option aliases, which is the daemon's own" in message
    assert "its author must give it another name" in message


def test_the_daemons_own_keys_are_not_the_adapters_business() -> None:
    (built,) = build_backends(config(("a", "echo", {"slots": 2, "required": False, "aliases": ["fast", "small"]})))
    assert (built.keys.required, built.keys.aliases) == (False, ["fast", "small"])
    assert built.backend.capabilities.slots == 2


# --- without a table ------------------------------------------------------------------------------------------


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`store("name", …)`: the models that are in the store."""
    monkeypatch.setenv("VESTAL_HOME", str(tmp_path / "models"))

    def hold(*names: str) -> None:
        def resolve(self: object, name: str) -> str:
            if name not in names:
                raise ModelError(f"no {name}")
            return name

        monkeypatch.setattr(Store, "resolve", resolve)

    return hold


def test_the_catalog_models_in_the_store_are_the_default(store: Any) -> None:
    store("smollm2-135m", "minilm-l6-v2")
    assert configured_or_default(Config()) == (
        BackendTable("chat", "llamacpp", {"model": "smollm2-135m"}),
        BackendTable("vectors", "llamacpp", {"model": "minilm-l6-v2"}),
    )
    store("minilm-l6-v2")
    assert [table.name for table in configured_or_default(Config())] == ["vectors"]


def test_with_a_table_the_store_is_not_looked_at(store: Any) -> None:
    store("smollm2-135m")
    tables = config(("a", "echo", {}))
    assert configured_or_default(tables) == tables.backends


def test_an_empty_store_is_said_with_the_command_that_fills_it(store: Any) -> None:
    store()
    message = refusal(Config())
    assert "no [[backend]] is configured" in message
    assert "vestal pull smollm2-135m minilm-l6-v2" in message
