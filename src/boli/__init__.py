"""boli (玻璃, glass): an engine for large language models that you can see through.

    import boli

    with boli.load("smollm2") as llm:
        print(llm.generate("The capital of France is").text)

        for chunk in llm.stream("Once upon a time", temperature=0.8, seed=1):
            print(chunk.text, end="")

        chat = llm.conversation("You are brief.")
        for chunk in chat.send("What is glass?"):
            print(chunk.text, end="")

`load` says what a model may be called, `SamplingParams` which settings there are, and
`boli.errors` draws the tree of what may be raised.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from boli.errors import (
    BoliError,
    ContextLengthExceeded,
    CorruptFile,
    FormatError,
    GrammarError,
    IntegrityError,
    MissingExtra,
    ModelNotFound,
    NetworkError,
    NumericError,
    OutOfMemory,
    PromptError,
    SamplingError,
    SourceError,
    StorageError,
    TemplateError,
    TextError,
    UnsafeFile,
    UnsupportedModel,
    UsageError,
)

if TYPE_CHECKING:
    from boli.blueprint.weights import Blueprint
    from boli.engine.conversation import Conversation
    from boli.engine.ledger import Ledger
    from boli.engine.llm import LLM
    from boli.engine.loading import load
    from boli.engine.output import Chunk, Completion, Timings
    from boli.engine.params import SamplingParams
    from boli.engine.sampling import Sampled
    from boli.engine.stream import Stream
    from boli.trace import Trace
    from boli.weigh import weigh

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022  # alphabetical, whatever the case; a test keeps it so
    "Blueprint",
    "BoliError",
    "Chunk",
    "Completion",
    "ContextLengthExceeded",
    "Conversation",
    "CorruptFile",
    "FormatError",
    "GrammarError",
    "IntegrityError",
    "Ledger",
    "LLM",
    "load",
    "MissingExtra",
    "ModelNotFound",
    "NetworkError",
    "NumericError",
    "OutOfMemory",
    "PromptError",
    "Sampled",
    "SamplingError",
    "SamplingParams",
    "SourceError",
    "StorageError",
    "Stream",
    "TemplateError",
    "TextError",
    "Timings",
    "Trace",
    "UnsafeFile",
    "UnsupportedModel",
    "UsageError",
    "weigh",
]

# What needs NumPy and the rest is imported when it is first used, so that `import boli` is quick.
_HOMES = {
    "Blueprint": "boli.blueprint.weights",
    "Chunk": "boli.engine.output",
    "Completion": "boli.engine.output",
    "Conversation": "boli.engine.conversation",
    "LLM": "boli.engine.llm",
    "Ledger": "boli.engine.ledger",
    "Sampled": "boli.engine.sampling",
    "SamplingParams": "boli.engine.params",
    "Stream": "boli.engine.stream",
    "Timings": "boli.engine.output",
    "Trace": "boli.trace",
    "load": "boli.engine.loading",
    "weigh": "boli.weigh",
}


if not TYPE_CHECKING:  # type checkers see the imports above, and complain about names that are not there

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'boli' has no attribute {name!r}")
        module = import_module(home)
        # `boli.weigh` is a package that can be called.
        value = globals()[name] = module if home == f"boli.{name}" else getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
