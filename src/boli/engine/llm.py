"""The front of the house: talk to a model that `boli.engine.loading` has loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Unpack, cast, overload

from boli.blueprint.weights import Blueprint
from boli.engine.engine import Engine
from boli.engine.ledger import Ledger, readable
from boli.engine.output import Completion, TextListener
from boli.engine.prompts import Prompt, check_ids, check_not_empty, is_batch, is_conversation
from boli.engine.record import Identity, Origin, RunRecord
from boli.engine.sampling import SamplingOptions, SamplingParams
from boli.engine.stream import Stream
from boli.errors import BoliError, PromptError

if TYPE_CHECKING:
    from collections.abc import Callable

    from boli.engine.conversation import Conversation
    from boli.engine.grammar import Grammars
    from boli.formats.requantize import Choice
    from boli.text import Tokenizer
    from boli.trace import Detail, Trace

Message = Mapping[str, object]
KvCacheType = Literal["bf16", "int8", "f32"]


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
        fingerprint: Tells the model's files from others; see `boli.formats.fingerprint`.
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
        fingerprint: str = "",
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
        self.fingerprint = fingerprint
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
            one = cast("Prompt", prompt)
            return self._complete(self._encode(one), params, text=_text(one))
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
            texts = map(_text, cast("Sequence[Prompt]", prompt))
            streams.extend(
                self._start(ids, params, text=text) for ids, text in zip(prompts, texts, strict=True)
            )
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
        return self._start(self._encode(prompt), SamplingParams.from_options(sampling), text=_text(prompt))

    def chat(self, messages: Sequence[Message], **sampling: Unpack[SamplingOptions]) -> Completion:
        """Answers a list of messages, rendered with the model's chat template.

        Args:
            messages: Such as `[{"role": "user", "content": "Hello"}]`.
            sampling: Settings of `SamplingParams`.

        Raises:
            TemplateError: The model has no chat template, or the template refused the messages.
        """
        params = SamplingParams.from_options(sampling)
        return self._complete(self.render(messages), params, messages=messages)

    def conversation(self, system: str | None = None) -> Conversation:
        """Starts a conversation, in which each turn computes only what is new."""
        from boli.engine.conversation import Conversation  # noqa: PLC0415  # imports this module

        self.tokenizer.require_chat_template()
        return Conversation(self, system)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of a conversation, up to where the assistant begins to answer."""
        return self.tokenizer.encode_chat(self.tokenizer.require_chat_template().render(messages))

    def trace(
        self,
        prompt: Prompt | Sequence[Message],
        *,
        detail: Detail = "rows",
        roofline: bool = False,
        **sampling: Unpack[SamplingOptions],
    ) -> Trace:
        """Runs a prompt, and then shows what happened: every step, with all numbers.

        Args:
            prompt: Text, token ids, or messages, which go through the chat template.
            detail: `summary`, `rows` (attention of each generated token too) or `full` (every
                intermediate of every token); see `boli.trace.prices.price`.
            roofline: Also measure how fast this machine reads memory, which takes a second or two.
            sampling: Settings of `SamplingParams`.

        Raises:
            As `generate` and `replay`.
        """
        params = SamplingParams.from_options(sampling)
        if params.logprobs is None:  # the proof is stronger with them, and nobody waits for the run alone
            params = replace(params, logprobs=0)
        if is_conversation(prompt):
            messages = cast("Sequence[Message]", prompt)
            completion = self._complete(self.render(messages), params, messages=messages)
        else:
            one = cast("Prompt", prompt)
            completion = self._complete(self._encode(one), params, text=_text(one))
        return self.replay(completion.record, detail=detail, roofline=roofline)

    def replay(self, run: RunRecord, *, detail: Detail = "rows", roofline: bool = False) -> Trace:
        """Shows what happened in a run: goes through its tokens again, with probes.

        The logits are those of the run to the last bit; `Trace.proof` says so. Needs pages of the KV cache
        for all tokens of the run; requests go on meanwhile.

        Args:
            run: `Completion.record`, or what `boli.engine.record.load_record` read.
            detail: As for `trace`.
            roofline: As for `trace`.

        Raises:
            UsageError: The run is another model's, or too long for so much detail.
            OutOfMemory: Requests hold the pages that it needs.
        """
        from boli.trace.replay import replay  # noqa: PLC0415  # nothing of it is loaded unless it is used

        return replay(self, run, detail=detail, roofline=roofline)

    @cached_property
    def identity(self) -> Identity:
        """Who this is, as it stands in the record of a run."""
        return Identity.of(self)

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles what answers of this model must be."""
        from boli.engine.grammar import Grammars  # noqa: PLC0415  # only constrained answers need it

        return Grammars(self.tokenizer, self.blueprint.config.vocab_size)

    @property
    def title(self) -> str:
        """What others may know it as: its name, or of a path the last part, without `.gguf`."""
        if self.name != str(self.path):
            return self.name
        return self.path.stem if self.path.suffix == ".gguf" else self.path.name

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
        text: str | None = None,
        messages: Sequence[Message] | None = None,
        on_end: Callable[[Stream], None] | None = None,
    ) -> Stream:
        """Submits a request and gives its stream; text or messages are what its record shows."""
        self._engine.check(prompt_ids)
        listener = TextListener(
            self.tokenizer,
            prompt_ids,
            stop=params.stop,
            ignore_eos=params.ignore_eos,
            logprobs=params.logprobs is not None,
        )
        origin = Origin(model=self.identity, load_s=self.load_seconds, text=text, messages=messages)
        try:
            request = self._engine.submit(prompt_ids, params, listener=listener)
            return Stream(self._engine, request, listener, origin=origin, on_end=on_end)
        except BaseException:  # Ctrl-C may come when there is a request already, but no stream yet
            listener.abandoned = True
            raise

    def _complete(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        *,
        text: str | None = None,
        messages: Sequence[Message] | None = None,
    ) -> Completion:
        with self._start(prompt_ids, params, text=text, messages=messages) as stream:
            completion = stream.run()
        if completion.error is not None:
            raise completion.error
        return completion


def _text(prompt: Prompt) -> str | None:
    return prompt if isinstance(prompt, str) else None
