"""Constraints from JSON schemas, regular expressions and grammars, through llguidance.

    Grammars(tokenizer, vocab_size).json_schema({...}) ─▶ Constraint ─▶ Engine.submit(..., constraint=…)

A grammar from outside is hostile until shown otherwise. Its size and depth are checked here, it is compiled
in a child process first (`grammar_check.py`), and the compiler and every later step have limits of work and
memory. What cannot be promised is refused: a schema is taken only if all of its keywords are followed, so
that an output that ends is valid.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from boli.engine.constraint import MAX_GRAMMAR_BYTES, Bools, Constraint, Source, Walk
from boli.engine.gbnf import is_gbnf, plain_escapes
from boli.engine.grammar_check import refused, shared_checker
from boli.engine.grammar_vocabulary import bridge
from boli.errors import GrammarError

if TYPE_CHECKING:
    from boli.text import Tokenizer

MAX_SCHEMA_DEPTH = 64
MAX_PROPERTIES = 1000
"""Of one object: the compiler's time grows with their square."""
MAX_KEPT = 32
"""Compiled grammars that are kept. Each may grow to 16,000 states of the lexer, measured below 1 kB each."""
MAX_KEPT_BYTES = 2 << 20
"""Source of the grammars that are kept; compiled it takes up to about 200 times as much."""
_LIMITS: dict[str, int | bool] = {
    "max_lexer_states": 16_000,
    "max_grammar_size": 50_000,
    "max_items_in_row": 5_000,
    "verbose_errors": False,  # what a user wrote stays out of messages
}
# Between the parts of a JSON text; bounded, because a model can go on with spaces for ever.
_SPACES = r"[ \n\t\r]{1,40}"
_JSON_OPTIONS = {"whitespace_pattern": _SPACES, "lenient": False, "coerce_one_of": False}


class Grammars:
    """Compiles constraints for one model, and keeps those that were used last. Threads may share it.

    Args:
        tokenizer: Of the model.
        vocab_size: How many logits the model has.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._bridge: Any = None
        self._kept: OrderedDict[str, _Grammar] = OrderedDict()
        self._lock = threading.Lock()
        self._compiling = threading.Lock()  # one at a time: a flood of schemas leaves a core to others

    def prepare(self) -> None:
        """Takes the vocabulary over, which the first constraint does otherwise.

        For 50,000 tokens this takes a tenth of a second, for 260,000 more than one, in which no other thread
        of Python runs: servers do it before anybody waits.
        """
        with self._compiling:
            if self._bridge is None:
                self._bridge = bridge(self._tokenizer, self.vocab_size)

    def json_object(self) -> Constraint:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def json_schema(self, schema: Mapping[str, object]) -> Constraint:
        """JSON that a schema accepts.

        Args:
            schema: As parsed from JSON. References are followed within it, and nowhere else.

        Raises:
            GrammarError: It is no schema, too large, impossible to fulfil, or has a keyword that cannot be
                followed.
        """
        return self._compile(json_grammar(schema), Source("json_schema", json.dumps(schema)))

    def regex(self, pattern: str) -> Constraint:
        """Text that a regular expression matches as a whole.

        Args:
            pattern: In the syntax of Rust's `regex`: linear time, no look-around, no back-references.

        Raises:
            GrammarError: It is no such expression, or too large.
        """
        from llguidance import LLMatcher  # noqa: PLC0415 (an extra, and slow to import)

        grammar = LLMatcher.grammar_from_regex(_bounded(pattern, "the regular expression"))
        return self._compile(grammar, Source("regex", pattern))

    def lark(self, source: str) -> Constraint:
        """Text of a context-free grammar in llguidance's dialect of Lark; it begins at `start`.

        A grammar with rules in the form of GBNF, `root ::= …`, is taken as llama.cpp's.

        Raises:
            GrammarError: It is no such grammar, or too large.
        """
        from llguidance import LLMatcher  # noqa: PLC0415

        lark = _bounded(source, "the grammar")
        gbnf = is_gbnf(lark)
        if gbnf:
            lark = shared_checker().converted(plain_escapes(lark))
        grammar = LLMatcher.grammar_from_lark(_bounded(lark, "the grammar"))
        return self._compile(grammar, Source("gbnf" if gbnf else "lark", source))

    def of(self, source: Source) -> Constraint:
        """The constraint that was made of a text.

        Raises:
            GrammarError: It cannot be used, as where it was made first.
        """
        if source.kind != "json_schema":
            return self.regex(source.text) if source.kind == "regex" else self.lark(source.text)
        try:
            schema = json.loads(source.text)
        except (ValueError, RecursionError) as error:
            raise GrammarError("the schema is not JSON", cause=str(error)[:300]) from error
        return self.json_schema(schema)

    def _compile(self, grammar: str, source: Source) -> Constraint:
        with self._lock:
            known = self._kept.get(grammar)
            if known is not None and not known.exhausted:
                self._kept.move_to_end(grammar)
                return known
        self.prepare()
        with self._compiling:
            shared_checker().check(grammar, _LIMITS)
            made = self._made(grammar, source)
        with self._lock:
            self._kept[grammar] = made
            self._kept.move_to_end(grammar)
            while len(self._kept) > MAX_KEPT or sum(map(len, self._kept)) > MAX_KEPT_BYTES:
                self._kept.popitem(last=False)
        return made

    def _made(self, grammar: str, source: Source) -> _Grammar:
        from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415

        limits = LLParserLimits(**_LIMITS)  # type: ignore[arg-type]  # each has its own type
        matcher = LLMatcher(self._bridge, grammar, log_level=0, limits=limits)
        first = matcher.deep_copy()
        first.compute_bitmask()  # a grammar that has no output shows only now
        if first.is_error():
            raise refused(first.get_error())
        return _Grammar(matcher, source, self.vocab_size, self._bridge.vocab_size)


class _Grammar:
    """A compiled grammar. Copies of its matcher share the states that the lexer has made so far.

    Attributes:
        vocab_size: How many logits it is made for.
        source: What it was made of.
        exhausted: A walk reached a limit, of states that all walks share; the next request gets a new one.
    """

    def __init__(self, matcher: Any, source: Source, vocab_size: int, bits: int) -> None:
        self.vocab_size = vocab_size
        self.source: Source | None = source
        self.exhausted = False
        self._matcher = matcher
        self._words = (bits + 31) // 32

    def begin(self) -> Walk:
        """A walk from the start."""
        return _Walk(self, self._matcher.deep_copy(), self._words)


class _Walk:
    """Where a request is in a compiled grammar."""

    def __init__(self, grammar: _Grammar, matcher: Any, words: int) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._mask = np.zeros(words, np.uint32)

    @property
    def finished(self) -> bool:
        """Whether nothing may follow."""
        stopped: bool = self._matcher.is_stopped()
        return stopped

    def allowed(self) -> Bools:
        """The tokens that may come next."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._grammar.vocab_size, bitorder="little")
        return bits.view(np.bool_)

    def accept(self, token: int) -> None:
        """Takes a token."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            self._grammar.exhausted = True
            why = str(self._matcher.get_error()).partition("\n")[0]
            raise GrammarError(
                "the output could not be held to its schema or grammar any longer",
                cause=why[:300],
                remedy="make the schema or grammar simpler",
            )


def json_grammar(schema: Mapping[str, object]) -> str:
    """A JSON schema as llguidance's grammar, checked for size and depth.

    Raises:
        GrammarError: It is no schema, too large or too deep.
    """
    from llguidance import LLMatcher  # noqa: PLC0415

    check_schema(schema)
    try:
        grammar: str = LLMatcher.grammar_from_json_schema(
            json.dumps(schema),
            overrides=_JSON_OPTIONS,  # type: ignore[arg-type]  # a plain dictionary
        )
    except ValueError as error:
        raise refused(str(error)) from error
    return grammar


def json_rule(schema: Mapping[str, object]) -> str:
    """A JSON schema as a right-hand side of a rule in Lark.

    Raises:
        GrammarError: It is no schema, too large or too deep.
    """
    check_schema(schema)
    return "%json " + json.dumps({**schema, "x-guidance": _JSON_OPTIONS})


def check_schema(schema: object) -> None:
    """Checks what can be told of a schema before anything is compiled.

    Raises:
        GrammarError: It is no schema, too large, too deep, or changes how it is read.
    """
    if not isinstance(schema, Mapping):
        raise GrammarError("a JSON schema must be an object", cause=f"this is {_kind(schema)}")
    if "x-guidance" in schema:
        raise GrammarError("a schema must not change how it is followed", cause="it has x-guidance")
    level: list[object] = [schema]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise GrammarError(
                "the schema is nested too deeply", cause=f"it may have {MAX_SCHEMA_DEPTH} levels"
            )
        below: list[object] = []
        for value in level:
            if isinstance(value, Mapping):
                if len(value) > MAX_PROPERTIES:
                    raise GrammarError(
                        f"an object of the schema has {len(value):,} entries",
                        cause=f"it may have {MAX_PROPERTIES:,}",
                    )
                below.extend(value.values())
            elif isinstance(value, (list, tuple)):
                below.extend(value)
        level = below
    try:
        size = len(json.dumps(schema).encode())
    except (TypeError, ValueError) as error:
        raise GrammarError("the schema is not plain JSON", cause=str(error)) from error
    if size > MAX_GRAMMAR_BYTES:
        raise _too_large("the schema", size)


def _kind(value: object) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


def _bounded(source: object, what: str) -> str:
    if not isinstance(source, str):
        raise GrammarError(f"{what} must be a text")
    try:
        size = len(source.encode())
    except UnicodeEncodeError:
        raise GrammarError(f"{what} is not valid Unicode", cause="half of a surrogate pair") from None
    if size > MAX_GRAMMAR_BYTES:
        raise _too_large(what, size)
    return source


def _too_large(what: str, size: int) -> GrammarError:
    return GrammarError(f"{what} has {size:,} bytes", cause=f"at most {MAX_GRAMMAR_BYTES:,} are compiled")
