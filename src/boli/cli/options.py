"""Options that belong together and that several commands take: how tokens are chosen, how a model is loaded.

Each group is a dataclass whose fields are options. A command takes a group as one parameter, and
`with_groups` shows Typer the options in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from boli.cli import arguments

if TYPE_CHECKING:
    from boli.cli.progress import TerminalProgress
    from boli.engine.llm import LLM
    from boli.engine.params import SamplingOptions


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen, and when an answer ends."""

    max_tokens: arguments.MaxTokens = 128
    temperature: arguments.Temperature = 0.0
    top_k: arguments.TopK = 0
    top_p: arguments.TopP = 1.0
    min_p: arguments.MinP = 0.0
    repetition_penalty: arguments.RepetitionPenalty = 1.0
    presence_penalty: arguments.PresencePenalty = 0.0
    frequency_penalty: arguments.FrequencyPenalty = 0.0
    seed: arguments.Seed = None
    stop: arguments.Stop = None

    def options(self, logprobs: int | None = None) -> SamplingOptions:
        """What the engine is told, once it is found to make sense: before a model is loaded for it.

        Args:
            logprobs: How many of the likeliest tokens are told beside each; None for no log-probabilities.

        Raises:
            SamplingError: A value is out of range, or contradicts another.
        """
        from boli.engine.params import SamplingParams  # noqa: PLC0415

        options: SamplingOptions = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": self.seed,
            "stop": self.stop or (),
            "logprobs": logprobs,
        }
        SamplingParams.from_options(options)
        return options


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a model is loaded."""

    context: arguments.Context = None
    threads: arguments.Threads = None
    weights: arguments.Weights = "auto"
    kv_cache_type: arguments.KvCacheType = "bf16"
    speculation: arguments.Speculation = "auto"

    def load(self, model: str, progress: TerminalProgress) -> LLM:
        """The model, loaded so; see `boli.load`."""
        from boli.engine.loading import load  # noqa: PLC0415  NumPy: only when the request is sound

        return load(
            model,
            context=self.context,
            threads=self.threads,
            weights=self.weights,
            kv_cache_type=self.kv_cache_type,
            speculation=self.speculation,
            progress=progress,
        )


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of its groups in their places.

    Args:
        command: A function; those of its keyword parameters that are dataclasses are groups.
    """
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    signature = inspect.signature(command, eval_str=True)
    for parameter in signature.parameters.values():
        group = parameter.annotation
        if not is_dataclass(group):
            parameters.append(parameter)
            continue
        assert isinstance(group, type)
        groups[parameter.name] = group
        kinds = get_type_hints(group, include_extras=True)
        parameters += [
            parameter.replace(name=each.name, annotation=kinds[each.name], default=each.default)
            for each in fields(group)
        ]

    def grouped(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{each.name: given.pop(each.name) for each in fields(group)})
        command(**given)

    grouped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    grouped.__annotations__ = {}
    return grouped
