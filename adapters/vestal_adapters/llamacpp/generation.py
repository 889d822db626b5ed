"""Answering: every job of a step in one batch, each in a slot of its own.

A job joins when it is submitted and leaves when it ends or is cancelled, between any two steps. In each step
the slots' pending tokens are computed together; where a slot's last pending token was among them, the next
token is sampled by the job's own sampler, and its bytes become text.

What counts as output: every sampled token but the one that ends the answer, which is a sign and not a part of
the answer. A `TextEvent` says how many tokens it took since the event before. They add up to
`usage.output_tokens` less the last tokens that made no text: those of a stop string, or control tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from vestal.backend import CountRequest, EndEvent, GenerateRequest, GenerateRequestV2, PromptEvent, TextEvent
from vestal.errors import BackendRefused, InternalError
from vestal.values import Notice, StopReason, Usage
from vestal_adapters.llamacpp.batch import Share, Slot, Slots, largest_step, plan
from vestal_adapters.llamacpp.native import Batch, Context, Sampler, Vocabulary
from vestal_adapters.llamacpp.prompt import Prompter
from vestal_adapters.llamacpp.sampling import PENALTY_WINDOW, stages
from vestal_adapters.llamacpp.text import TextStream
from vestal_adapters.worker.engine import StepOutput

__all__ = ["OPTIONS", "Generation"]

OPTIONS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
)
"""The generate options that are honoured here."""

# llama_decode's own words for its status; what is below -1 is a failed computation.
_STATUS = {1: "no room in the KV cache", 2: "aborted", -1: "invalid batch"}


class _Job:
    """One answer in the making. `limit` is the most output tokens, `unreported` those since the last event."""

    __slots__ = ("limit", "notices", "number", "output", "sampler", "slot", "started", "text", "unreported")

    def __init__(
        self, number: int, slot: Slot, sampler: Sampler, text: TextStream, limit: int, notices: list[Notice]
    ) -> None:
        self.number = number
        self.slot = slot
        self.sampler = sampler
        self.text = text
        self.limit = limit
        self.notices = notices
        self.started: float | None = None
        self.output = 0
        self.unreported = 0

    def __repr__(self) -> str:
        return f"<_Job {self.number} in {self.slot!r}, {self.output} of {self.limit} tokens>"

    def prompt_event(self) -> PromptEvent:
        """Prefill is done: how many tokens, and how long from their first step on (shared with other jobs)."""
        elapsed = 0.0 if self.started is None else time.perf_counter() - self.started
        return PromptEvent(input_tokens=self.slot.prompt, prefill_ms=elapsed * 1000)

    def text_event(self, text: str) -> TextEvent:
        tokens, self.unreported = self.unreported, 0
        return TextEvent(text, tokens)

    def end_event(self, reason: StopReason) -> EndEvent:
        usage = Usage(input_tokens=self.slot.prompt, output_tokens=self.output)
        return EndEvent(reason, usage, self.notices)


class Generation:
    """Runs generate jobs on one context, whose `slots` sequences are its alone.

    `batch` is the most prompt tokens in a step while nothing decodes, `prefill_chunk` while something does.
    """

    def __init__(
        self,
        context: Context,
        vocabulary: Vocabulary,
        prompter: Prompter,
        *,
        slots: int,
        batch: int,
        prefill_chunk: int,
    ) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._prompter = prompter
        self._slots = Slots(slots)
        self._limits = batch, prefill_chunk
        self._batch = Batch(largest_step(slots, batch, prefill_chunk))
        self._jobs: dict[int, _Job] = {}  # by number
        self._by_slot: list[_Job | None] = [None] * slots

    def __repr__(self) -> str:
        return f"<Generation {len(self._jobs)} of {len(self._slots)} slots busy>"

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, number: int, request: GenerateRequest | GenerateRequestV2) -> None:
        """Take a job; `WireError` for what cannot be run."""
        tokens, notices = self._prompter.prompt(request)
        slot = None if number in self._jobs else self._slots.take(tokens)
        if slot is None:
            raise InternalError(f"job {number} is one too many for {self!r}: slots or numbers are given out twice")
        sampler = Sampler(stages(request.options), self._vocabulary.size, tokens[-PENALTY_WINDOW:])
        limit = request.options.max_tokens or self._prompter.context_length - len(tokens)
        job = _Job(number, slot, sampler, TextStream(request.options.stop), limit, notices)
        self._jobs[number] = self._by_slot[slot.index] = job

    def count(self, request: CountRequest) -> int:
        return self._prompter.count(request)

    def cancel(self, number: int) -> None:
        job = self._jobs.get(number)
        if job is not None:
            self._release(job)

    def step(self) -> StepOutput:
        shares = plan(self._slots, *self._limits)
        rows = self._fill(shares)
        status = self._context.decode(self._batch) if shares else 0
        if status != 0:
            return self._fail(shares, status)
        output: StepOutput = []
        for (slot, count, last), row in zip(shares, rows, strict=True):
            slot.cached += count
            job = self._by_slot[slot.index]
            if last and job is not None:
                self._advance(job, row, output)
        return output

    def close(self) -> None:
        for job in list(self._jobs.values()):
            self._release(job)
        self._context.close()

    def _fill(self, shares: Iterable[Share]) -> list[int]:
        """Put the step's tokens into the batch; returns the row of each share's last token."""
        batch, rows = self._batch, []
        batch.clear()
        for slot, count, last in shares:
            if slot.decoding:
                row = batch.add_one(slot.tokens[slot.cached], slot.cached, slot.index)
            else:
                row = self._fill_prompt(slot, count, last)
            rows.append(row)
        return rows

    def _fill_prompt(self, slot: Slot, count: int, last: bool) -> int:
        job = self._by_slot[slot.index]
        if job is not None and job.started is None:
            job.started = time.perf_counter()
        row = self._batch.add_run(slot.tokens[slot.cached : slot.cached + count], slot.cached, slot.index)
        if last:
            self._batch.want_output(row, row)
        return row

    def _advance(self, job: _Job, row: int, output: StepOutput) -> None:
        """Sample the job's next token and say what came of it."""
        token = job.sampler.sample(self._context, row)
        if job.slot.cached == job.slot.prompt:
            output.append((job.number, job.prompt_event()))
        if token in self._vocabulary.ends:
            self._end(job, "end", "", output)
            return
        job.output += 1
        job.unreported += 1
        text = job.text.feed(self._vocabulary.piece(token))
        if job.text.stopped:
            self._end(job, "stop_sequence", text, output)
        elif job.output >= job.limit:
            self._end(job, "length", text, output)
        else:
            job.slot.tokens.append(token)
            if text:
                output.append((job.number, job.text_event(text)))

    def _end(self, job: _Job, reason: StopReason, text: str, output: StepOutput) -> None:
        text += job.text.finish()
        if text:
            output.append((job.number, job.text_event(text)))
        output.append((job.number, job.end_event(reason)))
        self._release(job)

    def _fail(self, shares: Iterable[Share], status: int) -> StepOutput:
        """A step that could not be computed ends the jobs that were in it; the others go on."""
        reason = _STATUS.get(status, "the computation failed")
        error = BackendRefused(
            f"llama.cpp could not compute the step: status {status}, {reason}; {self._context.complaint()}",
            retryable=status > 0,
            details={"status": status, "tokens": self._batch.count},
        )
        output: StepOutput = []
        for share in shares:
            job = self._by_slot[share.slot.index]
            if job is not None:
                output.append((job.number, error))
                self._release(job)
        return output

    def _release(self, job: _Job) -> None:
        """Give back what a job holds: its sampler, its slot and the slot's part of the cache."""
        del self._jobs[job.number]
        self._by_slot[job.slot.index] = None
        job.sampler.close()
        self._context.forget(job.slot.index)
        self._slots.free(job.slot)
