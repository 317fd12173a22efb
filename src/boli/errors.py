"""Everything that boli raises on purpose.

    BoliError
    ├── UsageError               what was asked for makes no sense            exit code 2
    │   ├── SamplingError        a sampling setting is out of range or contradicts another
    │   ├── PromptError          an empty prompt, text that is not UTF-8, an id outside the vocabulary
    │   └── GrammarError         a schema, regular expression or grammar is wrong, too large or a dead end
    ├── ModelNotFound            no such model, file or folder; names the nearest known one
    ├── SourceError              a model could not be fetched
    │   ├── NetworkError         no connection, a time-out, a refusal by the server
    │   ├── IntegrityError       the bytes that came are not the bytes that were promised
    │   └── StorageError         no room on the disk, or no right to write
    ├── FormatError              a file is not what it says it is
    │   ├── CorruptFile          truncated, inconsistent or absurd
    │   └── UnsafeFile           would run code when loaded (pickles); never opened
    ├── UnsupportedModel         a family, a tensor type or a feature that boli does not run
    ├── TextError                the tokenizer or the chat template failed
    │   └── TemplateError        the template is wrong, too slow or too large
    ├── ContextLengthExceeded    the prompt does not fit
    ├── NumericError             NaN or infinity came out of the model
    ├── OutOfMemory              weights, cache or workspace do not fit; says how much is needed
    └── MissingExtra             a package is not installed; says which extra brings it

Every error has three parts, as a person reads them: what happened (`message`), why (`cause`)
and what to do (`remedy`). `code` is stable and meant for programs.
"""

from __future__ import annotations

from typing import ClassVar


class BoliError(Exception):
    """The root of the tree.

    Args:
        message: What happened, in one sentence without a final full stop.
        cause: Why, if it is known.
        remedy: What the reader can do about it.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, cause: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [self.message]
        if self.cause:
            parts.append(f"why: {self.cause}")
        if self.remedy:
            parts.append(f"do: {self.remedy}")
        return "\n".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.cause, self.remedy))


def _rebuild(kind: type[BoliError], message: str, cause: str, remedy: str) -> BoliError:
    return kind(message, cause=cause, remedy=remedy)


class UsageError(BoliError):
    """What was asked for makes no sense."""

    code = "usage"
    exit_code = 2


class SamplingError(UsageError):
    """A sampling setting is out of range or contradicts another."""

    code = "sampling"


class PromptError(UsageError):
    """The prompt is empty, not UTF-8, or holds an id outside the vocabulary."""

    code = "prompt"


class GrammarError(UsageError):
    """A schema, a regular expression or a grammar is wrong or too large, or cannot be followed."""

    code = "grammar"


class ModelNotFound(BoliError):
    """No such model, file or folder."""

    code = "model_not_found"


class SourceError(BoliError):
    """A model could not be fetched."""

    code = "source"


class NetworkError(SourceError):
    """No connection, a time-out, or a refusal by the server."""

    code = "network"


class IntegrityError(SourceError):
    """The bytes that came are not the bytes that were promised."""

    code = "integrity"


class StorageError(SourceError):
    """No room on the disk, or no right to write there."""

    code = "storage"


class FormatError(BoliError):
    """A file is not what it says it is."""

    code = "format"


class CorruptFile(FormatError):
    """A file is truncated, inconsistent or absurd."""

    code = "corrupt_file"


class UnsafeFile(FormatError):
    """Loading the file would run code; it was not opened."""

    code = "unsafe_file"


class UnsupportedModel(BoliError):
    """A family, a tensor type or a feature that boli does not run."""

    code = "unsupported_model"


class TextError(BoliError):
    """The tokenizer or the chat template failed."""

    code = "text"


class TemplateError(TextError):
    """The chat template is wrong, too slow or too large."""

    code = "template"


class ContextLengthExceeded(BoliError):
    """The prompt does not fit into the context."""

    code = "context_length_exceeded"


class NumericError(BoliError):
    """NaN or infinity came out of the model."""

    code = "numeric"


class OutOfMemory(BoliError):
    """Weights, cache or workspace do not fit into memory."""

    code = "out_of_memory"


class MissingExtra(BoliError):
    """A package that an extra brings is not installed."""

    code = "missing_extra"


def install(extra: str) -> str:
    """How an extra is installed, as a remedy: boli is on no index, so it is installed from its clone."""
    return f"in the clone of boli: pip install -c constraints.txt '.[{extra}]'"
