"""What an output may be: a rule that forbids tokens while they are chosen.

A `Constraint` says what is allowed and never changes, so that requests may share it. Each request walks
through it on its own: `begin` gives a `Walk`, which is asked before each token and told of each one.
`boli.engine.grammar` makes constraints of JSON schemas, regular expressions and grammars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Kind = Literal["json_schema", "regex", "lark", "gbnf"]

MAX_GRAMMAR_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Source:
    """What a constraint was made of, so that it can be made again.

    Attributes:
        kind: In which language it is written.
        text: The schema as JSON, the expression or the grammar; at most `MAX_GRAMMAR_BYTES`.
    """

    kind: Kind
    text: str


class Walk(Protocol):
    """Where one request is in a constraint."""

    @property
    def finished(self) -> bool:
        """Whether the output is complete and nothing may follow, not even an end token."""

    def allowed(self) -> Bools:
        """The tokens that may come next, bool `[vocab_size]`; valid until the next call.

        End-of-generation tokens are among them exactly where the output may end.

        Raises:
            GrammarError: The rule cannot be followed any further.
        """

    def accept(self, token: int) -> None:
        """Takes the token that was chosen, one of those allowed.

        Raises:
            GrammarError: It is not, or the rule became too complex.
        """


class Constraint(Protocol):
    """A rule for outputs; requests may share one.

    Attributes:
        vocab_size: How many logits it is made for.
        source: What it was made of; None if nobody can write that down.
    """

    vocab_size: int
    source: Source | None

    def begin(self) -> Walk:
        """A walk from the start."""
