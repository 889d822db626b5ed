"""Vectors of whole exchanges: both engines are driven, and what each says is written down."""

from __future__ import annotations

from typing import Any

import msgspec

from vectors.parts import NOTHING, STATUS, TIMINGS, TOOL, USAGE, USER, V2_USER, Json, offer, to_json
from vestal import messages as m
from vestal import values as v
from vestal.connection import ClientConnection, ServerConnection, SocketKind
from vestal.framing import PREFIX

__all__ = ["exchange_vectors"]


class _Exchange:
    """Drives both engines and writes down what each said."""

    def __init__(self, name: str, socket: SocketKind, hello: Json) -> None:
        self.name = name
        self.socket: SocketKind = socket
        self.steps: list[Json] = []
        self.client = ClientConnection(socket)
        self.server = ServerConnection(socket, offer)
        self.client.hello(**hello)
        self._note("client", self.server, self.client)
        self._note("daemon", self.client, self.server)

    def ask(self, message: Any) -> _Exchange:
        self.client.send(message)
        self._note("client", self.server, self.client)
        if self.server.pending:  # an error that the engine itself answered with
            self._note("daemon", self.client, self.server)
        return self

    def answer(self, *messages: Any) -> _Exchange:
        for message in messages:
            self.server.send(message)
            self._note("daemon", self.client, self.server)
        return self

    def _note(self, who: str, to: ClientConnection | ServerConnection, by: ClientConnection | ServerConnection) -> None:
        data = bytes(by.data_to_send())
        to.receive(data)
        assert self.client.requests.keys() == self.server.requests.keys()
        self.steps.append(
            {
                "from": who,
                "message": to_json(msgspec.msgpack.decode(data[PREFIX.size :])),
                "bytes": data.hex(),
                "in_flight": sorted(self.client.requests),
            }
        )

    def made(self) -> Json:
        return {"name": self.name, "socket": self.socket, "version": self.client.version, "steps": self.steps}


CHAT = m.RouteCandidate(backend="chat", model="smollm2-135m", verdict="chosen", reason="no other can take it", slots=4)


def _done(id: int, **fields: Any) -> m.Done:
    made: Json = {"stop_reason": "end", "usage": USAGE, "backend": "chat", "model": "smollm2-135m", "timings": TIMINGS}
    return m.Done(id=id, **(made | fields))


def exchange_vectors() -> list[Json]:
    v1: Json = {"versions": [1], "client": "app/1"}
    v2: Json = {"versions": [2, 1], "client": "app/1"}
    waiting: Json = {**v1, "features": ["queue_events"]}
    failed = m.Error(id=1, code="backend_crashed", message="the engine died", retryable=True)
    started = m.Started(id=1, backend="chat", model="smollm2-135m")
    again = m.Started(id=1, backend="cluster", model="smollm2-135m")
    retried = v.Notice(code="retried", message="backend chat: backend_crashed; cluster answered")
    exchanges = [
        _Exchange("v1, streamed", "infer", v1)
        .ask(m.Generate(id=1, messages=[USER]))
        .answer(m.Token(id=1, text="Hel"), m.Token(id=1, text="lo"), _done(1)),
        _Exchange("v1, not streamed", "infer", v1)
        .ask(m.Generate(id=1, messages=[USER], stream=False))
        .answer(_done(1, text="Hello")),
        _Exchange("two requests interleaved, one fails, its id is used again", "infer", v1)
        .ask(m.Generate(id=1, messages=[USER]))
        .ask(m.Generate(id=2, messages=[USER]))
        .answer(m.Token(id=2, text="Hel"), m.Token(id=1, text="Hi"), failed, m.Token(id=2, text="lo"), _done(2))
        .ask(m.Generate(id=1, messages=[USER]))
        .answer(_done(1)),
        _Exchange("queue events, then cancelled while queued", "infer", waiting)
        .ask(m.Generate(id=1, messages=[USER]))
        .answer(m.Queued(id=1, position=2, depth=2), m.Queued(id=1, position=1, depth=1, eta_ms=400))
        .ask(m.Cancel(id=1))
        .answer(_done(1, stop_reason="cancelled", usage=NOTHING)),
        _Exchange("queue events, started, cancelled in decode, cancelled again", "infer", waiting)
        .ask(m.Generate(id=1, messages=[USER]))
        .answer(started, m.Token(id=1, text="Hel"))
        .ask(m.Cancel(id=1))
        .answer(_done(1, stop_reason="cancelled"))
        .ask(m.Cancel(id=1)),
        _Exchange("queue events, started, given to another backend, which it waits for", "infer", waiting)
        .ask(m.Generate(id=1, messages=[USER]))
        .answer(started, m.Queued(id=1, position=1, depth=1), again, m.Token(id=1, text="Hello"))
        .answer(_done(1, backend="cluster", notices=[retried])),
        _Exchange("count and ping beside a stream, then goaway", "infer", v1)
        .ask(m.Generate(id=1, messages=[USER]))
        .ask(m.Count(id=2, messages=[USER]))
        .ask(m.Ping(nonce=5))
        .answer(m.Counted(id=2, input_tokens=9, context_length=2048), m.Pong(nonce=5))
        .answer(m.Goaway(reason="the daemon is stopping", deadline_ms=10_000), m.Token(id=1, text="Hello"), _done(1)),
        _Exchange("v2, a tool is called and answered", "infer", v2)
        .ask(m.GenerateV2(id=1, messages=[V2_USER], tools=[TOOL]))
        .answer(
            m.ThinkingDelta(id=1, delta="Rome, then."),
            m.Text(id=1, delta="One moment."),
            m.ToolUse(id=1, call_id="call_1", name="weather", input={"city": "Rome"}),
            _done(1, stop_reason="tool_use"),
        )
        .ask(
            m.GenerateV2(
                id=2,
                messages=[
                    V2_USER,
                    v.MessageV2(
                        role="assistant",
                        content=[
                            v.TextBlock(text="One moment."),
                            v.ToolUseBlock(call_id="call_1", name="weather", input={"city": "Rome"}),
                        ],
                    ),
                    v.MessageV2(role="user", content=[v.ToolResultBlock(call_id="call_1", content="sunny")]),
                ],
                tools=[TOOL],
            )
        )
        .answer(m.Text(id=2, delta="It is sunny."), _done(2)),
        _Exchange("embed", "embed", v1)
        .ask(m.Embed(id=1, input=["a"]))
        .answer(
            m.Embeddings(
                id=1,
                count=1,
                dimensions=2,
                dtype="f32le",
                data=bytes.fromhex("0000803f00000000"),
                usage=v.Usage(input_tokens=3),
                model="minilm-l6-v2",
                backend="vectors",
            )
        ),
        _Exchange("embed, cancelled", "embed", v1)
        .ask(m.Embed(id=1, input=["a"]))
        .ask(m.Cancel(id=1))
        .answer(_done(1, stop_reason="cancelled", usage=NOTHING)),
        _Exchange("admin, subscribe and drain", "admin", v1)
        .ask(m.Subscribe(id=1))
        .answer(m.Snapshot(id=1, seq=12, status=STATUS))
        .ask(m.Drain(id=2))
        .answer(
            m.Acknowledged(id=2, state="draining"),
            m.Event(id=1, seq=13, kind="daemon_state", data={"before": "ready", "state": "draining"}),
        ),
        _Exchange("admin, a backend is added and asked for", "admin", v1)
        .ask(m.Subscribe(id=1))
        .answer(m.Snapshot(id=1, seq=12, status=STATUS))
        .ask(m.AddBackend(id=2, backend="chat"))
        .answer(
            m.Acknowledged(id=2, state="ready", detail="backend chat starts"),
            m.Event(id=1, seq=13, kind="backend_state", data={"backend": "chat", "state": "starting", "detail": ""}),
            m.Event(id=1, seq=14, kind="backend_state", data={"backend": "chat", "state": "ready", "detail": ""}),
        )
        .ask(m.ExplainRoute(id=3, model="chat"))
        .answer(m.RouteReport(id=3, policy="priority", candidates=[CHAT], chosen="chat")),
    ]
    return [exchange.made() for exchange in exchanges]
