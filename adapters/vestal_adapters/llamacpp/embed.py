"""Turning texts into vectors: many texts of many requests in one batch, each a sequence of its own.

A request's texts are first tokenised and checked, all of them, a slice per step; only then is any computed,
so that a text which is too long costs nothing but its error. The requests in work take turns text by text:
one with a thousand texts holds up one with a single text for a step, not for all its thousand.

A step takes few texts, some 256 tokens: in a longer batch each token looks past all those of other texts (all-MiniLM:
342 texts/s from 128 to 256 tokens a step, 332 at 512, 279 at 64). Nothing is padded, so sorting texts by their length
gains nothing, which was measured too; they go in their order.

Shorter vectors (`dimensions`) are the beginning of the model's own, for models that were trained to be cut so
(Matryoshka). A `task` is a text that the operator has declared for the model, put in front of every input.

Text is only text here: `[SEP]` in it is no separator. The pooling is the model's own. An empty text is not an
error where the model wraps texts in tokens of its own (BERT's `[CLS] [SEP]`), since there is something to
pool.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping

import numpy

from vestal.backend import EmbedRequest, EmbedResult
from vestal.errors import BackendRefused, ContextOverflow, InvalidRequest, Unsupported, WireError
from vestal.framing import MAX_FRAME_LIMIT
from vestal_adapters.llamacpp.native import Batch, Context, Vocabulary
from vestal_adapters.llamacpp.prompting.prompt import QUICKLY_TOKENISED
from vestal_adapters.worker.engine import StepOutput

__all__ = ["MAX_TEXTS_PER_STEP", "Embedding"]

MAX_TEXTS_PER_STEP = 64
_TOKENS_PER_STEP = 256
_READ_PER_STEP = 32 * 1024
"""Characters tokenised in one step: some ten milliseconds."""
_CHARACTERS_PER_TOKEN = 256
"""Where a tokeniser leaves things out (accents, blanks), nobody knows how few tokens a text may have: no more than this
is tried. 20 million letters without a blank took all-MiniLM's 6 s, and what else ran waited."""
_FRAME_REST = 64 * 1024
"""Bytes of an answer's frame that may be anything but vectors."""


class _Job:
    """One request: `tokens` of the texts read so far, `sent` of them computed, their vectors in `data`."""

    __slots__ = ("data", "dimensions", "normalize", "number", "prefix", "sent", "texts", "tokens")

    def __init__(self, number: int, request: EmbedRequest, dimensions: int, prefix: str) -> None:
        self.number = number
        self.dimensions = dimensions
        self.prefix = prefix
        self.texts = request.input
        self.normalize = request.normalize
        self.tokens: list[array[int]] = []
        self.data = bytearray()
        self.sent = 0

    def __repr__(self) -> str:
        return f"<_Job {self.number}, {len(self.tokens)} read, {self.sent} sent of {len(self.texts)} texts>"

    @property
    def read(self) -> bool:
        """Whether all texts are tokenised."""
        return len(self.tokens) == len(self.texts)

    @property
    def done(self) -> bool:
        return self.sent == len(self.texts)


class Embedding:
    """Runs embed jobs on one context. `context_length` is the most tokens of a text.

    A vector is `dimensions` numbers, or fewer if it is `cuttable`; those of `max_texts` texts still fit one frame of
    the wire. `prefixes` are the texts of the tasks that the model knows.
    """

    def __init__(
        self,
        context: Context,
        vocabulary: Vocabulary,
        *,
        batch: int,
        context_length: int,
        dimensions: int,
        cuttable: bool = False,
        prefixes: Mapping[str, str] | None = None,
    ) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._batch = Batch(batch)
        self._context_length = context_length
        self._dimensions = dimensions
        self._cuttable = cuttable
        self._prefixes = prefixes or {}
        self.max_texts = (MAX_FRAME_LIMIT - _FRAME_REST) // (4 * dimensions)
        self._reading: deque[_Job] = deque()
        self._ready: deque[_Job] = deque()  # the one whose turn it is first

    def __repr__(self) -> str:
        return f"<Embedding {len(self._reading)} jobs reading, {len(self._ready)} computing>"

    @property
    def busy(self) -> bool:
        return bool(self._reading or self._ready)

    def embed(self, number: int, request: EmbedRequest) -> None:
        """Take a job; `Unsupported` for an option that the model has no answer to."""
        if len(request.input) > self.max_texts:
            raise InvalidRequest(
                f"input has {len(request.input):,} texts; the vectors of {self.max_texts:,} fit one answer",
                hint="send them in several requests",
                details={"field": "input", "max_input_texts": self.max_texts},
            )
        dimensions, prefix = self._cut(request.dimensions), self._prefix(request.task)
        self._reading.append(_Job(number, request, dimensions, prefix))

    def cancel(self, number: int) -> None:
        for queue in (self._reading, self._ready):
            for job in [job for job in queue if job.number == number]:
                queue.remove(job)

    def step(self) -> StepOutput:
        output: StepOutput = []
        self._read(output)
        picked = self._pick()
        if picked:
            self._compute(picked, output)
        return output

    def close(self) -> None:
        self._reading.clear()
        self._ready.clear()
        self._context.close()

    def _cut(self, asked: int | None) -> int:
        if asked is None or asked == self._dimensions:
            return self._dimensions
        if self._cuttable and 0 < asked < self._dimensions:
            return asked
        how = f"from 1 to {self._dimensions}" if self._cuttable else f"of {self._dimensions} and cannot be cut"
        raise Unsupported(
            f"this model's vectors have dimensions {how}, not {asked}",
            hint="leave dimensions out"
            if self._cuttable
            else "leave dimensions out; if the model was trained for it"
            " (Matryoshka), set `cut_dimensions = true` in its backend's table",
            details={"option": "dimensions", "dimensions": self._dimensions},
        )

    def _prefix(self, task: str | None) -> str:
        if task is None:
            return ""
        if task not in self._prefixes:
            known = ", ".join(sorted(self._prefixes)) or "none"
            raise Unsupported(
                f"this model cannot honour task={task!r}: the tasks it knows are {known}",
                hint="leave task out, or declare the text it stands for under `task_prefixes` in the backend's table",
                details={"option": "task", "tasks": sorted(self._prefixes)},
            )
        return self._prefixes[task]

    def _read(self, output: StepOutput) -> None:
        """Tokenise and check a slice of the first request that is not read yet."""
        if not self._reading:
            return
        job, characters = self._reading[0], 0
        try:
            while not job.read and characters < _READ_PER_STEP:
                characters += len(job.texts[len(job.tokens)])
                job.tokens.append(self._tokens(job.prefix, job.texts, len(job.tokens)))
        except WireError as error:
            self._reading.popleft()
            output.append((job.number, error))
            return
        self._reading.rotate(-1)
        if job.read:
            self._reading.remove(job)
            if job.done:  # a request of no texts
                output.append((job.number, self._result(job)))
            else:
                self._ready.append(job)

    def _tokens(self, prefix: str, texts: list[str], index: int) -> array[int]:
        limit, longest, text = self._context_length, self._vocabulary.longest, prefix + texts[index]
        if longest is None and len(text) > max(_CHARACTERS_PER_TOKEN * limit, QUICKLY_TOKENISED):
            raise _unread(index, len(text), limit)
        if longest is not None and len(text) > QUICKLY_TOKENISED:
            at_least = len(text) // longest
            if at_least > limit:  # not worth the time it takes to know by how much
                raise _too_long(index, at_least, limit, "at least ")
        tokens = self._vocabulary.tokenize(text, add_special=True)
        if len(tokens) > limit:
            raise _too_long(index, len(tokens), limit)
        if not tokens:
            message = f"input[{index}] is empty: 0 tokens"
            raise InvalidRequest(message, details={"field": f"input[{index}]"})
        return array("i", tokens)

    def _pick(self) -> list[_Job]:
        """Fill the batch, a text of each request in turn; returns whose text each sequence is."""
        batch, picked = self._batch, list[_Job]()
        batch.clear()
        while self._ready and len(picked) < MAX_TEXTS_PER_STEP:
            job = self._ready[0]
            tokens = job.tokens[job.sent]
            if picked and batch.count + len(tokens) > min(batch.size, _TOKENS_PER_STEP):
                break  # its turn comes first in the next step
            first = batch.count
            batch.want_output(first, batch.add_run(tokens, 0, len(picked)))
            picked.append(self._ready.popleft())
            job.sent += 1
            if not job.done:
                self._ready.append(job)
        return picked

    def _compute(self, picked: list[_Job], output: StepOutput) -> None:
        self._context.forget_all()
        status = self._context.decode(self._batch)
        error = None if status == 0 else self._failure(status)
        for sequence, job in enumerate(picked):
            if error is None:
                job.data += self._vector(sequence, job)
        for job in dict.fromkeys(picked):
            if error is not None:
                self.cancel(job.number)
                output.append((job.number, error))
            elif job.done:
                output.append((job.number, self._result(job)))

    def _vector(self, sequence: int, job: _Job) -> bytes:
        values = numpy.frombuffer(self._context.vector(sequence, self._dimensions), numpy.float32)[: job.dimensions]
        if job.normalize:
            length = float(numpy.sqrt(numpy.dot(values, values)))
            values = values / length if length > 0 else values
        return values.astype("<f4").tobytes()

    def _result(self, job: _Job) -> EmbedResult:
        return EmbedResult(
            count=len(job.texts),
            dimensions=job.dimensions,
            data=bytes(job.data),
            input_tokens=sum(map(len, job.tokens)),
        )

    def _failure(self, status: int) -> BackendRefused:
        return BackendRefused(
            f"llama.cpp could not compute {self._batch!r}: status {status}; {self._context.complaint()}",
            details={"status": status, "tokens": self._batch.count},
        )


def _unread(index: int, characters: int, limit: int) -> ContextOverflow:
    most = max(_CHARACTERS_PER_TOKEN * limit, QUICKLY_TOKENISED)
    return ContextOverflow(
        f"input[{index}] has {characters:,} characters; for the {limit:,} tokens that the model takes, at most {most:,}"
        " are looked at",
        hint="split the text into shorter ones",
        details={"field": f"input[{index}]", "characters": characters, "context_length": limit},
    )


def _too_long(index: int, tokens: int, limit: int, how: str = "") -> ContextOverflow:
    return ContextOverflow(
        f"input[{index}] has {how}{tokens:,} tokens, and the model takes {limit:,}",
        hint="split the text into shorter ones",
        details={"field": f"input[{index}]", "prompt_tokens": tokens, "context_length": limit},
    )
