"""The engine that a worker loads: opens the file, and answers or embeds, whichever the model is made for."""

from __future__ import annotations

from collections.abc import Sequence

from vestal.backend import CountRequest, EmbedRequest, GenerateRequest, GenerateRequestV2
from vestal.errors import ModelError, Unsupported, VestalError
from vestal.models.gguf_file import GGUFInfo
from vestal.models.memory import DEFAULT_CONTEXT
from vestal.values import Capabilities
from vestal_adapters.llamacpp.answers import Answers
from vestal_adapters.llamacpp.batching.batch import largest_step
from vestal_adapters.llamacpp.cores import usable_cores
from vestal_adapters.llamacpp.embed import MAX_TEXTS_PER_STEP, Embedding
from vestal_adapters.llamacpp.generation import OPTIONS, Generation
from vestal_adapters.llamacpp.model_file import ModelFile
from vestal_adapters.llamacpp.native import Context, Model, Vocabulary, why_no_gpu
from vestal_adapters.llamacpp.options import LlamaCppEngineOptions
from vestal_adapters.llamacpp.prompting.chat import ChatTemplate
from vestal_adapters.llamacpp.prompting.prompt import Prompter
from vestal_adapters.worker.engine import Engine, Progress, StepOutput

__all__ = ["DEFAULT_CONTEXT", "LlamaCppEngine"]


class LlamaCppEngine(Engine):
    """One model on llama.cpp. Not before `load` has returned is there anything to submit to."""

    Options = LlamaCppEngineOptions

    def __init__(self, options: LlamaCppEngineOptions) -> None:
        self._options = options
        self._file: ModelFile | None = None
        self._model: Model | None = None
        self._part: Generation | Embedding | None = None

    def __repr__(self) -> str:
        return f"<LlamaCppEngine {self._options.model!r} {self._part or 'not loaded'}>"

    @property
    def on_gpu(self) -> bool:
        return self._options.gpu_layers != 0

    def open(self, progress: Progress) -> Sequence[int]:
        self._file = ModelFile(self._options)
        return self._file.open(progress)

    def load(self, progress: Progress) -> Capabilities:
        if self._file is None:  # nobody confines this process
            self.open(progress)
        try:
            return self._load(progress)
        except BaseException:
            self.close()
            raise

    def _load(self, progress: Progress) -> Capabilities:
        options, file = self._options, self._file
        assert file is not None
        info = file.header()
        if options.gpu_layers and (reason := why_no_gpu()):
            raise VestalError(
                f"gpu_layers is {options.gpu_layers}, and llama.cpp finds no GPU: {reason}",
                hint="set gpu_layers = 0, or install a llama-cpp-python that was built for your GPU, and its driver",
            )
        self._model = _open(file, options, progress)
        file.loaded()
        progress(100.0, "allocating memory to compute in")
        if info.is_embedding:
            return self._load_embedding(self._model, info.architecture, progress)
        return self._load_generation(self._model, info, progress)

    def submit(self, job: int, request: GenerateRequest | GenerateRequestV2) -> None:
        self._generation().submit(job, request)

    def embed(self, job: int, request: EmbedRequest) -> None:
        if not isinstance(self._part, Embedding):
            raise Unsupported(f"model {self._options.model!r} does not embed", details={"option": "embed"})
        self._part.embed(job, request)

    def count(self, request: CountRequest) -> int:
        return self._generation().count(request)

    def cancel(self, job: int) -> None:
        if self._part is not None:
            self._part.cancel(job)

    @property
    def busy(self) -> bool:
        return self._part is not None and self._part.busy

    def step(self) -> StepOutput:
        return [] if self._part is None else self._part.step()

    def close(self) -> None:
        if self._part is not None:
            self._part.close()
        if self._model is not None:
            self._model.close()
        if self._file is not None:
            self._file.close()
        self._part = self._model = self._file = None

    def _generation(self) -> Generation:
        if isinstance(self._part, Generation):
            return self._part
        raise Unsupported(f"model {self._options.model!r} does not generate", details={"option": "generate"})

    def _load_generation(self, model: Model, info: GGUFInfo, progress: Progress) -> Capabilities:
        options, length = self._options, _context_length(self._options, model)
        if info.pooling == "rank" or not model.generates:
            kind = "a reranker" if info.pooling == "rank" else f"of the kind {info.architecture!r}"
            raise ModelError(
                f"{options.model!r} is {kind}, which neither chats nor embeds",
                hint="choose a chat model or an embedding model",
            )
        vocabulary = model.vocabulary
        template = ChatTemplate(
            model.chat_template,
            bos=vocabulary.bos_text,
            eos=vocabulary.eos_text,
            specials=vocabulary.special_texts,
        )
        context = Context.generating(
            model,
            sequences=options.slots,
            length=length,
            batch=largest_step(options.slots, options.batch),
            threads=_threads(options),
        )
        self._part = Generation(
            context,
            vocabulary,
            Prompter(template, vocabulary, length),
            Answers(template, vocabulary),
            slots=options.slots,
            batch=options.batch,
            step_target=options.step_seconds,
        )
        _warm_up(context, vocabulary, progress)
        return Capabilities(
            v2=True,
            count=True,
            tools=True,
            thinking=template.takes_efforts,
            grammar=True,
            json_schema=True,
            logprobs=True,
            slots=options.slots,
            context_length=length,
            local=True,
            model=options.model,
            family=info.architecture,
            options=OPTIONS,
        )

    def _load_embedding(self, model: Model, family: str, progress: Progress) -> Capabilities:
        options, length = self._options, _context_length(self._options, model)
        batch = max(options.batch, length)  # a text is computed in one piece
        context = Context.embedding(model, sequences=MAX_TEXTS_PER_STEP, batch=batch, threads=_threads(options))
        self._part = part = Embedding(
            context,
            model.vocabulary,
            batch=batch,
            context_length=length,
            dimensions=model.dimensions,
            cuttable=options.cut_dimensions,
            prefixes=options.task_prefixes,
        )
        if not context.pools:
            raise ModelError(
                f"{options.model!r} makes a vector per token and does not say how to pool them",
                hint="convert it again with its pooling type, or choose another embedding model",
            )
        _warm_up(context, model.vocabulary, progress)
        return Capabilities(
            generate=False,
            embed=True,
            slots=options.slots,
            context_length=length,
            max_input_texts=part.max_texts,
            embedding_dimensions=model.dimensions,
            embedding_batch=MAX_TEXTS_PER_STEP,
            embedding_tasks=tuple(sorted(options.task_prefixes)),
            embedding_shortest=1 if options.cut_dimensions else model.dimensions,
            embedding_longest=model.dimensions,
            embedding_raw=True,
            local=True,
            model=options.model,
            family=family,
            options=(),
        )


def _open(file: ModelFile, options: LlamaCppEngineOptions, progress: Progress) -> Model:
    reported = -1

    def report(part: float) -> None:
        nonlocal reported
        if (percent := int(part * 100)) > reported:  # llama.cpp reports every tensor
            reported = percent
            progress(float(percent), "loading the weights")

    return Model.open(
        file.loadable,
        report,
        shown=file.path,
        gpu_layers=options.gpu_layers,
        mmap=options.mmap,
        mlock=options.mlock,
    )


def _warm_up(context: Context, vocabulary: Vocabulary, progress: Progress) -> None:
    progress(100.0, "warming up")
    context.warm_up(max(vocabulary.bos, 0))


def _threads(options: LlamaCppEngineOptions) -> int:
    return usable_cores() if options.threads is None else options.threads


def _context_length(options: LlamaCppEngineOptions, model: Model) -> int:
    own = model.context_length
    if options.context_length is None:
        return min(own, DEFAULT_CONTEXT) if own > 0 else DEFAULT_CONTEXT
    if 0 < own < options.context_length:
        raise VestalError(
            f"context_length is {options.context_length:,}, and {options.model!r} was made for {own:,} tokens",
            hint=f"set context_length to {own} or less",
        )
    return options.context_length
