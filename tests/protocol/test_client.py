"""The blocking clients against a daemon that plays a script: what is sent, what comes back, what is raised."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import vestal
from vestal import messages as m
from vestal.errors import ERROR_CLASSES, WireError
from vestal.testing import Peer, Script, ScriptedDaemon, done, echo, status_report
from vestal.values import Message, MessageV2, TextBlock, Tool, ToolUseBlock, Usage

Generates = m.Generate | m.GenerateV2


@contextmanager
def talking(*scripts: Script, **daemon: Any) -> Iterator[vestal.Client]:
    """A client of a daemon that plays one script per connection, in order."""
    with ScriptedDaemon(infer=scripts, **daemon) as scripted, vestal.Client(runtime_dir=scripted.runtime_dir) as client:
        yield client


def test_nothing_connects_before_the_first_use(short_dir: Path) -> None:
    with vestal.Client(runtime_dir=short_dir) as client:
        assert repr(client) == f"<Client {short_dir}/infer.sock not connected>"
        assert client.goaway is None
        with pytest.raises(vestal.DaemonNotRunning, match="start it: vestald"):
            client.ping()


def test_a_stream_yields_the_pieces_as_they_came() -> None:
    with talking(echo) as client:
        stream = client.stream("Why is the sky blue?", max_tokens=64)
        assert list(stream) == ["Why", " is", " the", " sky", " blue?"]
        assert (stream.result.text, stream.result.stop_reason) == ("Why is the sky blue?", "end")
        assert list(stream) == []


@pytest.mark.parametrize("version", [1, 2])
def test_generate_gives_everything_that_done_says(version: int) -> None:
    def script(peer: Peer) -> None:
        assert peer.version == version
        request: Any = peer.expect(m.Generate if version == 1 else m.GenerateV2)
        assert (request.stream, request.max_tokens, request.temperature) == (False, 20, 0.0)
        notices = [vestal.Notice("truncated", "3 messages left out")]
        whole: dict[str, Any] = {"text": "Hi"} if version == 1 else {"content": [TextBlock("Hi")]}
        fields = {name: getattr(done(request.id, "length", **whole), name) for name in m.Done.__struct_fields__}
        peer.send(m.Done(**{**fields, "usage": Usage(5, 2, 1), "notices": notices, "backend": "chat", "model": "smol"}))

    with talking(script, versions=(version,)) as client:
        result = client.generate([{"role": "user", "content": "Hi"}], max_tokens=20, temperature=0)
    assert (result.text, result.content, result.stop_reason) == ("Hi", [TextBlock("Hi")], "length")
    assert (result.usage, result.backend, result.model) == (Usage(5, 2, 1), "chat", "smol")
    assert result.notices == [vestal.Notice("truncated", "3 messages left out")]


def test_events_are_the_frames_of_the_wire() -> None:
    def script(peer: Peer) -> None:
        assert peer.features == {"queue_events"}
        id = peer.expect(m.GenerateV2).id
        frames.append(m.Queued(id=id, position=2, depth=5, eta_ms=70))
        frames.append(m.Started(id=id, backend="chat", model="smol"))
        frames.extend([m.ThinkingDelta(id, "hm"), m.Text(id, "Hi")])
        frames.append(m.ToolUse(id=id, call_id="c", name="clock", input={"zone": "UTC"}))
        frames.append(done(id, "tool_use"))
        peer.send(*frames)

    frames: list[Any] = []
    with talking(script) as client:
        events = client.events("Hi", tools=[Tool(name="clock", input_schema={})])
        assert list(events) == frames
        result = events.result
    assert (result.thinking, result.text) == ("hm", "Hi")
    assert result.tool_uses == [ToolUseBlock("c", "clock", {"zone": "UTC"})]


def test_a_request_that_is_retried_waits_and_starts_again_and_says_so() -> None:
    retried = vestal.Notice("retried", "backend chat: backend_crashed")

    def script(peer: Peer) -> None:
        id = peer.expect(m.GenerateV2).id
        first, second = (m.Started(id=id, backend=name, model="smol") for name in ("chat", "cluster"))
        frames.extend([first, m.Queued(id=id, position=1, depth=1), second, m.Text(id, "Hi")])
        frames.append(done(id, notices=[retried]))
        peer.send(*frames)

    frames: list[Any] = []
    with talking(script) as client, client.events("Hi") as events:
        assert list(events) == frames
        assert (events.result.text, events.result.notices) == ("Hi", [retried])


def test_what_the_client_says_of_itself_reaches_the_daemon() -> None:
    def script(peer: Peer) -> None:
        clients.append((peer.client, peer.version, sorted(peer.features)))

    clients: list[tuple[str, int, list[str]]] = []
    with ScriptedDaemon(infer=script) as daemon:
        for given in ({}, {"client": "editor/1.4", "versions": (1,), "features": ()}):
            with vestal.Client(runtime_dir=daemon.runtime_dir, **given) as client:  # type: ignore[arg-type]  # a dict of several types
                client.connect()
    assert sorted(clients) == [("editor/1.4", 1, []), (f"vestal-python/{vestal.__version__}", 2, ["queue_events"])]


def test_what_the_daemon_says_of_itself_is_there_at_once() -> None:
    with talking(echo) as client:
        assert (client.version, client.welcome.server) == (2, "scripted/0")
        assert [backend.name for backend in client.backends] == ["scripted"]
        assert client.welcome is client.welcome
        assert 0 < client.ping() < 10


def test_count_gives_tokens_and_context() -> None:
    def script(peer: Peer) -> None:
        request = peer.expect(m.CountV2)
        assert request.messages == [MessageV2("system", [TextBlock("a")]), MessageV2("user", [TextBlock("b")])]
        peer.send(m.Counted(id=request.id, input_tokens=9, context_length=2048))

    with talking(script) as client:
        counted = client.count("b", system="a")
    assert (counted.input_tokens, counted.context_length) == (9, 2048)


def test_a_misspelt_option_is_told_without_a_daemon(short_dir: Path) -> None:
    client = vestal.Client(runtime_dir=short_dir)
    with pytest.raises(vestal.InvalidRequest, match="did you mean `max_tokens`"):
        client.stream("Hi", max_token=3)  # type: ignore[call-arg]  # the type checker tells too


def test_a_request_that_is_refused_here_is_never_sent() -> None:
    def script(peer: Peer) -> None:
        request = peer.expect(m.Generate)
        assert request.messages == [Message("user", "ok")]
        peer.send(done(request.id, text="ok"))

    with talking(script, versions=(1,)) as client:
        with pytest.raises(vestal.Unsupported, match="`tools` needs protocol version 2"):
            client.generate("Hi", tools=[Tool(name="clock", input_schema={})])
        with pytest.raises(vestal.InvalidRequest, match="temperature"):
            client.generate("Hi", temperature=99)
        assert client.generate("ok").text == "ok"


def test_a_request_over_the_daemons_frame_limit_is_refused_here_with_the_numbers() -> None:
    with talking(echo, max_frame=10_000) as client:
        with pytest.raises(vestal.FrameTooLarge, match="the limit is 10000"):
            client.generate("x" * 10_000)
        assert client.generate("x y").text == "x y"


@pytest.mark.parametrize("code", sorted(ERROR_CLASSES))
def test_every_error_code_is_raised_as_its_class_with_all_it_carries(code: str) -> None:
    def script(peer: Peer) -> None:
        wire = ERROR_CLASSES[code]("what", hint="do", details={"n": 1}, retryable=True, retry_after_ms=1500)
        peer.fail(peer.expect(m.GenerateV2).id, wire)
        request = peer.expect(m.GenerateV2)
        peer.send(m.Text(request.id, "a"))
        peer.fail(request.id, wire)
        echo(peer)

    with talking(script) as client:
        with pytest.raises(ERROR_CLASSES[code]) as caught:
            client.generate("Hi")
        error = caught.value
        assert type(error) is ERROR_CLASSES[code]
        assert (error.code, error.message, error.hint, error.details) == (code, "what", "do", {"n": 1})
        assert (error.retryable, error.retry_after) == (True, 1.5)
        stream = client.stream("Hi")
        assert next(stream) == "a"
        for _ in range(2):
            with pytest.raises(ERROR_CLASSES[code]):
                next(stream)
        with pytest.raises(ERROR_CLASSES[code]):
            stream.result  # noqa: B018  # reading it is what raises
        assert client.generate("still here").text == "still here"


def test_a_code_of_a_later_version_is_a_wire_error_that_keeps_it() -> None:
    def script(peer: Peer) -> None:
        peer.send(m.Error(id=peer.expect(m.GenerateV2).id, code="too_hot", message="40 C", retryable=True))

    with talking(script) as client, pytest.raises(WireError) as caught:
        client.generate("Hi")
    assert (type(caught.value), caught.value.code, caught.value.retryable) == (WireError, "too_hot", True)


def test_a_handshake_that_cannot_be_agreed_on_says_why() -> None:
    with ScriptedDaemon(infer=echo, versions=(1,)) as daemon:
        newer = vestal.Client(runtime_dir=daemon.runtime_dir, versions=(2,))
        with pytest.raises(vestal.VersionUnsupported, match=r"speaks versions \[2\], this socket \[1\]"):
            newer.connect()
        seeing = vestal.Client(runtime_dir=daemon.runtime_dir, require=("vision",))
        with pytest.raises(vestal.CapabilityMissing) as caught:
            seeing.generate("Hi")
        assert caught.value.details["missing"] == ["vision"]


def test_a_closed_client_is_not_used_again() -> None:
    with ScriptedDaemon(infer=echo) as daemon:
        client = vestal.Client(runtime_dir=daemon.runtime_dir)
        client.connect()
        client.close()
        client.close()
        assert repr(client).endswith("closed>")
        with pytest.raises(vestal.LocalProtocolError, match="this client is closed"):
            client.generate("Hi")


# --- when the connection goes -----------------------------------------------------------------------------------


def lose_after_a_piece(peer: Peer) -> None:
    peer.send(m.Text(peer.expect(m.GenerateV2).id, "a"))


def test_a_lost_connection_ends_the_stream_and_the_next_call_has_a_new_one() -> None:
    with talking(lose_after_a_piece, echo) as client:
        stream = client.stream("first")
        assert next(stream) == "a"
        for _ in range(2):
            with pytest.raises(vestal.ConnectionLost, match=r"outstanding: generate 1 \(streaming\)"):
                next(stream)
        with pytest.raises(vestal.ConnectionLost):
            stream.result  # noqa: B018  # reading it is what raises
        assert client.generate("second").text == "second"


def test_a_lost_request_is_never_repeated() -> None:
    def second(peer: Peer) -> None:
        request = peer.expect(m.GenerateV2)
        asked.append(request.messages)
        peer.send(done(request.id, content=[TextBlock("ok")]))
        peer.expect_end()

    asked: list[list[MessageV2]] = []
    with talking(lose_after_a_piece, second) as client:
        with pytest.raises(vestal.ConnectionLost):
            client.generate("first")
        assert client.generate("second").text == "ok"
    assert asked == [[MessageV2("user", [TextBlock("second")])]]


def test_a_daemon_that_died_while_nothing_ran_costs_nothing() -> None:
    def first(peer: Peer) -> None:
        request = peer.expect(m.GenerateV2)
        peer.send(done(request.id))

    with ScriptedDaemon(infer=[first, echo]) as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
        client.generate("a")
        daemon.settle()
        assert client.generate("b").text == "b"


def test_goaway_is_noted_and_after_the_close_there_is_a_new_connection() -> None:
    def first(peer: Peer) -> None:
        request = peer.expect(m.GenerateV2)
        peer.send(m.Goaway(reason="stopping", deadline_ms=500), done(request.id, content=[TextBlock("last")]))

    with ScriptedDaemon(infer=[first, echo]) as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
        assert client.generate("a").text == "last"
        assert client.goaway == m.Goaway(reason="stopping", deadline_ms=500)
        daemon.settle()
        assert client.generate("b").text == "b"
        assert client.goaway is None


def test_a_daemon_that_breaks_the_rules_is_named_and_left() -> None:
    def first(peer: Peer) -> None:
        peer.expect(m.GenerateV2)
        peer.raw(b"\x00\x00\x00\x01\xc1")
        peer.expect_end()

    with talking(first, echo) as client:
        with pytest.raises(vestal.RemoteProtocolError, match="sent a bad frame"):
            client.generate("a")
        assert client.generate("b").text == "b"


def test_the_reason_that_came_before_the_end_is_told() -> None:
    def script(peer: Peer) -> None:
        peer.expect(m.GenerateV2)
        peer.complain(vestal.MalformedFrame("17 bytes of nothing"))

    with talking(script) as client:
        with pytest.raises(vestal.ConnectionLost, match="malformed_frame: 17 bytes of nothing") as caught:
            client.generate("a")
        assert isinstance(caught.value.__cause__, vestal.MalformedFrame)


# --- the other sockets ------------------------------------------------------------------------------------------


def test_embed_gives_rows_in_order() -> None:
    def script(peer: Peer) -> None:
        request = peer.expect(m.Embed)
        assert (request.input, request.normalize, request.task) == (["a", "b"], False, "query")
        data = b"\x00\x00\x80\x3f\x00\x00\x00\x40" * 2
        peer.send(m.Embeddings(id=request.id, count=2, dimensions=2, dtype="f32le", data=data, usage=Usage(4),
                               model="minilm", backend="vectors"))  # fmt: skip

    with ScriptedDaemon(embed=script) as daemon, vestal.EmbedClient(runtime_dir=daemon.runtime_dir) as client:
        embeddings = client.embed(["a", "b"], normalize=False, task="query")
    assert embeddings.vectors == [[1.0, 2.0], [1.0, 2.0]]
    assert (embeddings.model, embeddings.usage) == ("minilm", Usage(4))


def test_an_embed_that_an_operator_cancelled_says_so() -> None:
    def script(peer: Peer) -> None:
        peer.send(done(peer.expect(m.Embed).id, "cancelled"))

    with ScriptedDaemon(embed=script) as daemon, vestal.EmbedClient(runtime_dir=daemon.runtime_dir) as client:
        with pytest.raises(vestal.VestalError, match=r"ended the request: cancelled \(an operator may have"):
            client.embed("a")
        assert repr(client).endswith("open v2 calls=0 pings=0>")


ack: Callable[[int], m.Acknowledged] = lambda id: m.Acknowledged(id=id, state="ready")  # noqa: E731  # a table's cell

COMMANDS: list[tuple[Callable[[vestal.AdminClient], Any], dict[str, Any], Callable[[int], Any], Any]] = [
    (lambda c: c.status().state, {"": m.Status}, lambda id: status_report(id, "loading", 5), "loading"),
    (lambda c: c.backends(), {"": m.Backends}, lambda id: m.BackendsReport(id=id, backends=[]), []),
    (lambda c: c.queue().limit, {"": m.Queue}, lambda id: m.QueueReport(id=id, depth=0, limit=64, entries=[]), 64),
    (lambda c: c.metrics(), {"": m.Metrics}, lambda id: m.MetricsReport(id=id, text="up 1"), "up 1"),
    (lambda c: c.cancel_request(9).state, {"": m.CancelRequest, "request": 9}, ack, "ready"),
    (lambda c: c.drain().state, {"": m.Drain}, ack, "ready"),
    (lambda c: c.undrain().state, {"": m.Undrain}, ack, "ready"),
    (lambda c: c.add_backend("chat").state, {"": m.AddBackend, "backend": "chat"}, ack, "ready"),
    (
        lambda c: c.remove_backend("chat", deadline=0.25).state,
        {"": m.RemoveBackend, "backend": "chat", "deadline_ms": 250},
        ack,
        "ready",
    ),
    (lambda c: c.remove_backend("chat").state, {"": m.RemoveBackend, "deadline_ms": None}, ack, "ready"),
    (lambda c: c.drain_backend("chat").state, {"": m.DrainBackend, "backend": "chat"}, ack, "ready"),
    (lambda c: c.undrain_backend("chat").state, {"": m.UndrainBackend, "backend": "chat"}, ack, "ready"),
    (
        lambda c: c.restart_backend("chat", 0).state,
        {"": m.RestartBackend, "backend": "chat", "deadline_ms": 0},
        ack,
        "ready",
    ),
    (lambda c: c.restart_backend("chat").state, {"": m.RestartBackend, "deadline_ms": None}, ack, "ready"),
    (
        lambda c: c.explain_route("small", needs=("tools", "seed"), version=2).chosen,
        {"": m.ExplainRoute, "model": "small", "needs": ["tools", "seed"], "version": 2, "socket": "infer"},
        lambda id: m.RouteReport(id=id, policy="priority", candidates=[], chosen="chat"),
        "chat",
    ),
    (
        lambda c: c.explain_route(socket="embed", dimensions=4, task="query", normalize=False).candidates,
        {"": m.ExplainRoute, "model": None, "socket": "embed", "dimensions": 4, "task": "query", "normalize": False},
        lambda id: m.RouteReport(id=id, policy="priority", candidates=[]),
        [],
    ),
    (
        lambda c: c.reload().file,
        {"": m.Reload},
        lambda id: m.Reloaded(id=id, file="/v.toml", applied=[], restart_to_apply=[]),
        "/v.toml",
    ),
    (lambda c: c.stop(deadline=1.5).state, {"": m.Stop, "deadline_ms": 1500}, ack, "ready"),
    (lambda c: c.stop().state, {"": m.Stop, "deadline_ms": None}, ack, "ready"),
]


@pytest.mark.parametrize(("command", "sent", "reply", "gives"), COMMANDS)
def test_admin_commands(command: Any, sent: dict[str, Any], reply: Any, gives: Any) -> None:
    def script(peer: Peer) -> None:
        message: Any = peer.expect(sent[""])
        assert {name: getattr(message, name) for name in sent if name} == {n: v for n, v in sent.items() if n}
        peer.send(reply(message.id))

    with ScriptedDaemon(admin=script) as daemon, vestal.AdminClient(runtime_dir=daemon.runtime_dir) as client:
        assert command(client) == gives


def stopping_event(id: int) -> list[m.AnyMessage]:
    return [m.Event(id=id, seq=6, kind="daemon_state", data={"before": "ready", "state": "stopping"})]


@pytest.mark.parametrize("goodbye", [stopping_event, lambda id: [m.Goaway(reason="stop", deadline_ms=1)]])
def test_a_subscription_has_a_connection_of_its_own_and_ends_with_the_daemons_goodbye(goodbye: Any) -> None:
    def watched(peer: Peer) -> None:
        id = peer.expect(m.Subscribe).id
        frames.append(m.Snapshot(id=id, seq=4, status=status_report(id, "ready")))
        frames.append(m.Event(id=id, seq=5, kind="backend_state", data={"state": "unavailable"}))
        frames.extend(goodbye(id))
        peer.send(*frames)

    frames: list[Any] = []
    with ScriptedDaemon(admin=watched) as daemon, vestal.AdminClient(runtime_dir=daemon.runtime_dir) as client:
        with client.subscribe() as subscription:
            assert list(subscription) == [frame for frame in frames if not isinstance(frame, m.Goaway)]
        assert repr(client).endswith("not connected>")


def test_a_drain_that_was_taken_back_is_no_goodbye() -> None:
    def script(peer: Peer) -> None:
        id = peer.expect(m.Subscribe).id
        undrained = m.Event(id=id, seq=2, kind="daemon_state", data={"before": "draining", "state": "ready"})
        peer.send(m.Snapshot(id=id, seq=1, status=status_report(id, "draining")), m.Goaway(reason="x", deadline_ms=1))
        peer.send(undrained)

    with ScriptedDaemon(admin=[script]) as daemon:
        subscription = vestal.AdminClient(runtime_dir=daemon.runtime_dir).subscribe()
        assert [type(next(subscription)) for _ in range(2)] == [m.Snapshot, m.Event]
        assert subscription.goaway is None
        with pytest.raises(vestal.ConnectionLost):
            next(subscription)


def test_a_subscription_whose_daemon_dies_says_so() -> None:
    def script(peer: Peer) -> None:
        id = peer.expect(m.Subscribe).id
        peer.send(m.Snapshot(id=id, seq=4, status=status_report(id, "ready")))

    with ScriptedDaemon(admin=script) as daemon, vestal.AdminClient(runtime_dir=daemon.runtime_dir) as client:
        subscription = client.subscribe()
        assert isinstance(next(subscription), m.Snapshot)
        with pytest.raises(vestal.ConnectionLost, match=r"outstanding: subscribe 1 \(watching\)"):
            next(subscription)


def test_a_subscription_that_is_refused_raises_the_error() -> None:
    def script(peer: Peer) -> None:
        peer.fail(peer.expect(m.Subscribe).id, vestal.NotAuthorized("uid 5 may not subscribe"))
        peer.expect_end()

    with ScriptedDaemon(admin=script) as daemon:
        subscription = vestal.AdminClient(runtime_dir=daemon.runtime_dir).subscribe()
        with subscription, pytest.raises(vestal.NotAuthorized):
            next(subscription)


def test_closing_a_subscription_ends_whoever_waits_on_it() -> None:
    def script(peer: Peer) -> None:
        id = peer.expect(m.Subscribe).id
        peer.send(m.Snapshot(id=id, seq=4, status=status_report(id, "ready")))
        peer.expect_end()

    with ScriptedDaemon(admin=script) as daemon, vestal.AdminClient(runtime_dir=daemon.runtime_dir) as client:
        subscription = client.subscribe()
        closer = threading.Thread(target=subscription.close)
        for frame in subscription:
            assert isinstance(frame, m.Snapshot)
            closer.start()
        closer.join()
