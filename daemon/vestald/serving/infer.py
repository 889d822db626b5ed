"""The sessions of infer.sock and embed.sock: from messages to jobs."""

from __future__ import annotations

import asyncio
import itertools
import time

from vestal import messages as m
from vestal.backend import CountRequest
from vestal.codec import error_frame
from vestal.errors import Unsupported, WireError
from vestal.values import Capabilities
from vestald.routing.blame import internal_error
from vestald.routing.route import Ask
from vestald.serving.embedding import Embedding
from vestald.serving.job import Ended, Job, Jobs
from vestald.serving.session import Host, Session
from vestald.serving.work import Generation, Services

__all__ = ["EmbedSession", "InferSession", "RequestHost"]


class RequestHost(Host, Services):
    """What a session that takes requests needs of the daemon."""

    jobs: Jobs
    requests_per_connection: int


class _RequestSession(Session):
    """Jobs by the client's ids, a bound on how many, and their end when the client leaves."""

    host: RequestHost

    def __init__(self, host: RequestHost) -> None:
        super().__init__(host)
        self._by_id: dict[int, Job] = {}

    def disconnected(self) -> None:
        for job in list(self._by_id.values()):
            job.cancel(Ended.GONE)

    def _start(self, message: m.Generate | m.GenerateV2 | m.Embed) -> None:
        if self._over_limit(message.id):
            return
        priority = "normal" if isinstance(message, m.Embed) else message.priority
        job = self.host.jobs.new(message.id, self, time.monotonic(), priority)
        self._by_id[message.id] = job
        work: Generation | Embedding
        if isinstance(message, m.Embed):
            work = Embedding(self, message, job, self.host)
        else:
            work = Generation(self, message, job, self.host)
        job.task = self.spawn(work.run())
        job.task.add_done_callback(lambda _: self._forget(job))

    def _forget(self, job: Job) -> None:
        if self._by_id.get(job.id) is job:
            del self._by_id[job.id]
        self.host.jobs.forget(job)
        job.interrupt = job.task = None  # both lead back to the job

    def _cancel(self, id: int) -> None:
        # One that has had its terminal frame may still be letting go of its engine: that is not disturbed.
        if id in self.conn.requests and (job := self._by_id.get(id)) is not None:
            job.cancel(Ended.CLIENT)

    def _over_limit(self, id: int) -> bool:
        flying, limit = self.conn.requests, self.host.requests_per_connection
        # In the order they came: those that stand behind this one in the same bytes are in `requests` already.
        if len(flying) <= limit or id in itertools.islice(flying, limit):
            return False
        queue = self.host.embedding if self.kind == "embed" else self.host.generating
        error = queue.scheduler.connection_full(limit)
        self.send(error_frame(error, id))
        self.host.refused(self, error)
        return True


class InferSession(_RequestSession):
    kind = "infer"

    def __init__(self, host: RequestHost) -> None:
        super().__init__(host)
        self._counts: set[asyncio.Task[None]] = set()

    def handle(self, message: m.AnyMessage) -> None:
        if isinstance(message, m.Generate | m.GenerateV2):
            self._start(message)
        elif isinstance(message, m.Cancel):
            self._cancel(message.id)
        elif isinstance(message, m.Count | m.CountV2) and not self._over_limit(message.id):
            counting = self.spawn(self._count(message))
            self._counts.add(counting)
            counting.add_done_callback(self._counts.discard)

    def disconnected(self) -> None:
        super().disconnected()
        for counting in tuple(self._counts):
            counting.cancel()

    async def _count(self, message: m.Count | m.CountV2) -> None:
        answer: m.Counted | m.Error
        try:
            answer = await self._counted(message)
        except WireError as error:
            answer = error_frame(error, message.id)
        if self.alive:
            self.send(answer)

    async def _counted(self, message: m.Count | m.CountV2) -> m.Counted:
        unit = self.host.routes.choose(Ask(version=self.conn.version, model=message.model, check=_check_count))
        if isinstance(message, m.Count):
            request = CountRequest(messages=message.messages)
        else:
            request = CountRequest(messages_v2=message.messages, tools=message.tools)
        try:
            tokens = await unit.backend.count(request)
        except WireError:
            raise
        except Exception as fault:  # an adapter may raise anything
            raise internal_error(unit.name, fault) from None
        return m.Counted(id=message.id, input_tokens=tokens, context_length=unit.capabilities.context_length)


class EmbedSession(_RequestSession):
    kind = "embed"

    def handle(self, message: m.AnyMessage) -> None:
        if isinstance(message, m.Embed):
            self._start(message)
        elif isinstance(message, m.Cancel):
            self._cancel(message.id)


def _check_count(capabilities: Capabilities) -> None:
    if not capabilities.count:
        raise Unsupported(
            f"model {capabilities.model!r} cannot count tokens",
            hint="the welcome lists each backend's capabilities",
            details={"option": "count"},
        )
