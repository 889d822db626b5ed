"""What users write, for the type checker alone: nothing here runs. `assert_type` fails the check, not a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import vestal


def blocking() -> None:
    with vestal.Client() as client:
        welcome = client.wait_ready(timeout=60, on_progress=print)
        assert_type(welcome, vestal.Welcome)
        assert_type(client.version, int)
        for piece in client.stream("Why is the sky blue?", max_tokens=64):
            assert_type(piece, str)
        result = client.generate([{"role": "user", "content": "Hi"}], max_tokens=20, temperature=0)
        assert_type(result, vestal.Result)
        assert_type(result.text, str)
        assert_type(result.tool_uses, list[vestal.ToolUseBlock])
        assert_type(result.usage.output_tokens, int)
        assert_type(client.count("Hi").input_tokens, int)
        assert_type(client.ping(), float)
        assert_type(client.goaway, vestal.Goaway | None)


def on_demand() -> None:
    with vestal.Client(autostart=True, runtime_dir=Path("/run/user/1000/vestal")) as client:
        assert_type(client.started_log, Path | None)
    vestal.AdminClient(autostart=True)  # type: ignore[call-arg]  # an operator's client starts nothing


def a_conversation(client: vestal.Client) -> None:
    history: list[vestal.MessageLike] = [vestal.Message("user", "Hi")]
    result = client.generate(history, system="Be brief.", stop=["\n"], seed=1)
    history.append({"role": "assistant", "content": result.content})
    history.append(vestal.MessageV2("user", [vestal.TextBlock("Go on"), vestal.ImageBlock(0)]))
    client.generate(history, attachments=[vestal.Attachment("image", "image/png", Path("a.png").read_bytes())])
    plain: list[dict[str, str]] = [{"role": "user", "content": "Hi"}]
    client.generate(plain)


def tools(client: vestal.Client) -> Iterator[vestal.ToolUse]:
    clock = vestal.Tool(name="clock", description="What time is it?", input_schema={"type": "object"})
    for event in client.events("What time is it?", tools=[clock], tool_choice="auto", thinking="low"):
        match event:
            case vestal.Text(delta=delta) | vestal.ThinkingDelta(delta=delta):
                assert_type(delta, str)
            case vestal.ToolUse():
                yield event
            case vestal.Done(stop_reason=reason):
                print(reason)
            case vestal.Queued(position=position):
                assert_type(position, int)
            case vestal.Started() | vestal.Token():
                pass


def stopping(client: vestal.Client) -> str:
    with client.stream("Count to a million.") as stream:
        for piece in stream:
            if "100" in piece:
                stream.cancel()
    return stream.result.stop_reason


def errors(client: vestal.Client) -> None:
    try:
        client.generate("Hi")
    except vestal.ContextOverflow as error:
        print(error.details, error.hint)
    except vestal.QueueFull as error:
        assert_type(error.retry_after, float | None)
    except vestal.VestalError as error:
        assert_type(error.retryable, bool)


def my_own_wrapper(client: vestal.Client, prompt: vestal.Prompt, options: vestal.Options) -> str:
    return client.generate(prompt, **options).text


def vectors() -> None:
    embeddings = vestal.EmbedClient(runtime_dir="/run/vestal").embed(["a", "b"])
    assert_type(embeddings, vestal.Embeddings)
    assert_type(embeddings.vectors, list[list[float]])
    assert_type(embeddings.row(0)[0], float)
    assert_type(len(embeddings.to_numpy()), int)
    assert_type(embeddings.parts, tuple[vestal.EmbedPart, ...])


def operating() -> None:
    with vestal.AdminClient() as admin:
        assert_type(admin.metrics(), str)
        admin.remove_backend("chat", deadline=5)
        route = admin.explain_route("small", needs=["tools"])
        assert_type(route, vestal.RouteReport)
        assert_type(route.candidates, list[vestal.RouteCandidate])
        admin.stop(deadline=5)
        for frame in admin.subscribe():
            assert_type(frame, vestal.Snapshot | vestal.Event)


async def with_asyncio() -> None:
    async with vestal.AsyncClient(client="editor/1.4", require=("tools",)) as client:
        await client.wait_ready()
        async for piece in client.stream("Why is the sky blue?", max_tokens=64):
            assert_type(piece, str)
        assert_type(await client.generate("Hi"), vestal.Result)
        async with client.events("Hi") as events:
            async for event in events:
                assert_type(event, vestal.GenerateEvent)
        assert_type(await client.ping(), float)
    assert_type(await vestal.AsyncEmbedClient().embed("a"), vestal.Embeddings)
    async with vestal.AsyncAdminClient() as admin, admin.subscribe() as subscription:
        async for frame in subscription:
            assert_type(frame, vestal.Snapshot | vestal.Event)


def mistakes(client: vestal.Client) -> None:
    """Each of these is told by the type checker; an ignore that is not needed fails the check."""
    client.stream("Hi", max_token=3)  # type: ignore[call-arg]  # a misspelt option
    client.stream("Hi", priority="urgent")  # type: ignore[arg-type]  # no such class
    vestal.AdminClient().explain_route(socket="admin")  # type: ignore[arg-type]  # takes no requests
    client.generate(17)  # type: ignore[arg-type]  # no prompt
    vestal.Client("/run/x.sock")  # type: ignore[call-arg, arg-type]  # keywords only
    vestal.Cleint()  # type: ignore[attr-defined]  # a misspelt name
