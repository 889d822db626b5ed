"""Answering: every job of a step in one batch, each in a slot of its own.

A job joins when it is submitted and leaves when it ends or is cancelled, between any two steps. In each step
the slots' pending tokens are computed together, as many as the pace allows; where a slot's last pending token was
among them, the next token is sampled by the job's own sampler, and its bytes become text. What a slot has computed
stays in it for the next job of the same scope; which slot a job gets, and from where, is decided in `slots`. A job
with a seed computes its whole prompt: it wants the same answer again, and what is computed in other batches differs
in its last bits (SmolLM2: 0.6 of a logit at most, enough to lead elsewhere sooner or later).

A job with `context_policy: shift` goes on in a full slot: the beginning stays, half of the rest is dropped, and a
notice at the end says how much. Without `max_tokens` there is nothing to go on for: the answer ends with the context.

What counts as output: every sampled token but the one that ends the answer, which is a sign and not a part of
the answer. An event says how many tokens it took since the event before. They add up to `usage.output_tokens` less
the last tokens that made no event: those of a stop string, or control tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from vestal.backend import (
    CountRequest,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    PromptEvent,
    TextEvent,
    ThinkingEvent,
    ToolUseEvent,
)
from vestal.errors import BackendRefused, InternalError, Unsupported
from vestal.values import Notice, StopReason, TokenLogprob, Usage
from vestal_adapters.llamacpp.answers import Answers
from vestal_adapters.llamacpp.batching.batch import Share, largest_step, plan
from vestal_adapters.llamacpp.batching.likelihood import token_logprob
from vestal_adapters.llamacpp.batching.pace import Pace
from vestal_adapters.llamacpp.batching.sampling import PENALTY_WINDOW, stages
from vestal_adapters.llamacpp.batching.slots import Slot, Slots
from vestal_adapters.llamacpp.constraining.constraint import Constraint, Constraints
from vestal_adapters.llamacpp.native import Batch, Context, Sampler, Vocabulary
from vestal_adapters.llamacpp.prompting.prompt import Prompter
from vestal_adapters.llamacpp.prompting.tools import check_tools
from vestal_adapters.llamacpp.reading.output import Piece, Reader, joined
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
    "context_policy",
)
"""The generate options that are honoured here."""

# llama_decode's own words for its status; what is below -1 is a failed computation.
_STATUS = {1: "no room in the KV cache", 2: "aborted", -1: "invalid batch"}


class _Job:
    """One answer in the making. `limit` is the most output tokens.

    `logprobs` are of the tokens that no event has yet, if `top` is not `None`. `keep` is how many tokens of the prompt
    no shift drops, `None` where none is wanted; `shifted` counts those that were dropped.
    """

    __slots__ = (
        "constraint", "input", "keep", "limit", "logprobs", "notices", "number", "output", "sampler", "shifted", "slot",
        "started", "text", "top",
    )  # fmt: skip

    def __init__(
        self, number: int, slot: Slot, sampler: Sampler, text: Reader, limit: int, notices: list[Notice]
    ) -> None:
        self.number = number
        self.slot = slot
        self.sampler = sampler
        self.text = text
        self.limit = limit
        self.notices = notices
        self.input = slot.prompt
        self.constraint: Constraint | None = None
        self.keep: int | None = None
        self.top: int | None = None
        self.logprobs: list[TokenLogprob] = []
        self.started = time.perf_counter()
        self.output = self.shifted = 0

    def __repr__(self) -> str:
        return f"<_Job {self.number} in {self.slot!r}, {self.output} of {self.limit} tokens>"

    def prompt_event(self) -> PromptEvent:
        """Prefill is done: how many tokens, and how long it took, waiting for another's prefill included."""
        elapsed = (time.perf_counter() - self.started) * 1000
        return PromptEvent(input_tokens=self.input, cached_tokens=self.slot.reused, prefill_ms=elapsed)

    def event(self, piece: Piece) -> TextEvent | ThinkingEvent | ToolUseEvent:
        """The piece's event, with what is known of its tokens; nothing is said of thinking and calls."""
        event, silent = piece
        taken, self.logprobs = self.logprobs[: event.tokens], self.logprobs[event.tokens :]
        if self.top is None or not isinstance(event, TextEvent):
            return event
        return TextEvent(event.text, event.tokens, tuple(taken[silent:]))

    def end_event(self, reason: StopReason) -> EndEvent:
        usage = Usage(input_tokens=self.input, cached_tokens=self.slot.reused, output_tokens=self.output)
        if reason == "end" and self.text.called:
            reason = "tool_use"
        cut = [] if self.constraint is None else self.constraint.notices()
        return EndEvent(reason, usage, [*self.notices, *self.text.notices, *self._shift_notice(), *cut])

    def _shift_notice(self) -> list[Notice]:
        if not self.shifted:
            return []
        message = (
            f"the context was full: {self.shifted:,} tokens after the first {self.keep:,} were dropped, oldest first"
        )
        return [Notice("shifted", message)]


class Generation:
    """Runs generate jobs on one context, whose `slots` sequences are its alone.

    `batch` is the most tokens of a step, `step_target` how many seconds one may take while something decodes.
    """

    def __init__(
        self,
        context: Context,
        vocabulary: Vocabulary,
        prompter: Prompter,
        answers: Answers,
        *,
        slots: int,
        batch: int,
        step_target: float,
    ) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._prompter = prompter
        self._answers = answers
        self._constraints = Constraints(vocabulary)
        self._length = prompter.context_length
        self._slots = Slots(slots, context, self._length, reuse=context.drops)
        self._batch = Batch(largest_step(slots, batch))
        self._pace = Pace(step_target, batch)
        self._jobs: dict[int, _Job] = {}  # by number
        self._by_slot: list[_Job | None] = [None] * slots

    def __repr__(self) -> str:
        return f"<Generation {len(self._jobs)} of {len(self._slots)} slots busy>"

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, number: int, request: GenerateRequest | GenerateRequestV2) -> None:
        """Take a job; `WireError` for what cannot be run."""
        options = request.options
        self._check_policy(options.context_policy)
        check_tools(request)
        tokens, notices = self._prompter.prompt(request)
        reader = self._answers.reader(request, tokens)
        constraint = self._constraint(request, reader)
        keep = self._prompter.fixed(request, tokens) if options.context_policy == "shift" else None
        slot = (
            None
            if number in self._jobs
            else self._slots.take(tokens, request.cache_scope, fresh=options.seed is not None)
        )
        if slot is None:
            raise InternalError(f"job {number} is one too many for {self!r}: slots or numbers are given out twice")
        sampler = Sampler(stages(options), self._vocabulary.size, tokens[-PENALTY_WINDOW:], constraint)
        limit = options.max_tokens or self._length - len(tokens)
        job = _Job(number, slot, sampler, reader, limit, notices)
        job.constraint = constraint
        job.top = options.logprobs
        job.keep = keep
        self._jobs[number] = self._by_slot[slot.index] = job

    def count(self, request: CountRequest) -> int:
        return self._prompter.count(request)

    def cancel(self, number: int) -> None:
        job = self._jobs.get(number)
        if job is not None:
            self._release(job)

    def step(self) -> StepOutput:
        begun = time.perf_counter()
        self._slots.settle()
        self._make_room()
        running = [slot for slot in self._slots if slot.running]
        prefilling = [slot.cached for slot in running if not slot.decoding]
        decoding = len(running) - len(prefilling)
        if not prefilling or not decoding:
            return self._compute(plan(running, self._batch.size, self._batch.size))
        depth = sum(prefilling) // len(prefilling)
        output = self._compute(plan(running, self._batch.size, self._pace.budget(depth)))
        self._pace.measured(self._batch.count - decoding, depth, time.perf_counter() - begun)
        return output

    def close(self) -> None:
        for job in list(self._jobs.values()):
            self._release(job)
        self._context.close()

    def _constraint(self, request: GenerateRequest | GenerateRequestV2, reader: Reader) -> Constraint | None:
        calls = self._answers.grammar(request)
        if calls is None:
            return self._constraints.of(request.options)
        return self._constraints.by(calls, "tools", markers=reader.markers)

    def _check_policy(self, policy: str) -> None:
        if policy == "shift" and not self._context.shifts:
            raise Unsupported(
                "this model's cache cannot be shifted: context_policy='shift' cannot be honoured",
                hint="leave context_policy out, or use 'truncate'",
                details={"option": "context_policy"},
            )

    def _make_room(self) -> None:
        """Shift the jobs whose slot is full; only those that asked for it ever get that far."""
        for job in self._jobs.values():
            if job.keep is not None and job.slot.cached >= self._length:
                job.shifted += self._slots.shift(job.slot, job.keep)

    def _compute(self, shares: list[Share]) -> StepOutput:
        rows = self._fill(shares)
        status = self._context.decode(self._batch) if shares else 0
        if status != 0:
            return self._fail(shares, status)
        output: StepOutput = []
        for (slot, count, last), row in zip(shares, rows, strict=True):
            slot.advance(count)
            job = self._by_slot[slot.index]
            if last and job is not None:
                self._advance(job, row, output)
        return output

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
        row = self._batch.add_run(slot.tokens[slot.cached : slot.cached + count], slot.cached, slot.index)
        if last:
            self._batch.want_output(row, row)
        return row

    def _advance(self, job: _Job, row: int, output: StepOutput) -> None:
        """Sample the job's next token and say what came of it."""
        try:
            token = job.sampler.sample(self._context, row)
        except BackendRefused as error:  # of this job's grammar
            output.append((job.number, error))
            self._release(job)
            return
        if job.slot.cached == job.input and not job.output:
            output.append((job.number, job.prompt_event()))
        if token in self._vocabulary.ends:
            self._end(job, "end", [], output)
            return
        job.output += 1
        if job.top is not None:
            logits = self._context.logits(row, self._vocabulary.size)
            job.logprobs.append(token_logprob(logits, token, job.top, self._vocabulary.piece))
        pieces = job.text.feed(job.text.markers.get(token) or self._vocabulary.piece(token))
        if job.text.stopped:
            self._end(job, "stop_sequence", pieces, output)
        elif job.constraint is not None and job.constraint.finished:
            self._end(job, "end", pieces, output)
        elif job.output >= job.limit:
            self._end(job, "length", pieces, output)
        else:
            job.slot.tokens.append(token)
            output.extend((job.number, job.event(piece)) for piece in pieces)

    def _end(self, job: _Job, reason: StopReason, pieces: list[Piece], output: StepOutput) -> None:
        pieces = joined(pieces, job.text.finish())
        if job.text.stopped:  # held back until now for something else
            reason = "stop_sequence"
        output.extend((job.number, job.event(piece)) for piece in pieces)
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
                self._release(job, failed=True)
        return output

    def _release(self, job: _Job, *, failed: bool = False) -> None:
        """Give back what a job holds: its sampler and its slot."""
        del self._jobs[job.number]
        self._by_slot[job.slot.index] = None
        job.sampler.close()
        if failed:
            self._slots.drop(job.slot)
        else:
            self._slots.free(job.slot)
