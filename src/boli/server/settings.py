"""How a server is set up: each value from the command line, the environment, a file, or a default.

The first of these that gives a value wins. `BOLI_MAX_QUEUE` and, in the file, `max_queue` mean
`--max-queue`; what boli does not know is refused by name, in the file as on the command line.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from boli.errors import UsageError

PREFIX = "BOLI_"
#: Of the whole program, not of the server.
OTHER_VARIABLES = {"BOLI_CONFIG", "BOLI_DEBUG", "BOLI_KEEP_RUNS", "BOLI_SIMD"}
_LARGEST_FILE = 1 << 20


def _setting(default: Any, help: str, **limits: Any) -> Any:  # as Typer calls it
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set; what each is, stands beside it.

    Raises:
        UsageError: A value has the wrong type or is out of range.
    """

    model: str = _setting("smollm2", "What to serve: an alias, a folder, a .gguf file, hf:org/name, …")
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8000, "Port; 0 takes a free one.", low=0, high=65535)
    api_key: tuple[str, ...] = _setting((), "A key that requests must carry; may be given several times.")
    allow_no_key: bool = _setting(False, "Listen beyond this machine without a key.")
    allowed_hosts: tuple[str, ...] = _setting((), "Another name by which the server may be addressed.")
    allowed_origins: tuple[str, ...] = _setting((), "Origin of a page that may use the server (CORS).")
    served_model_names: tuple[str, ...] = _setting((), "What the model is called in requests.")
    threads: int | None = _setting(None, "Threads to compute with; all cores by default.", low=1)
    context: int | None = _setting(None, "Tokens of context, prompt included.", low=2)
    kv_cache_bytes: int | None = _setting(
        None, "Memory for the KV cache; enough for one context by default.", low=1
    )
    weights: Literal["auto", "bf16", "int8", "int4"] = _setting("auto", "Round a model in floating point.")
    kv_cache_type: Literal["bf16", "int8", "f32"] = _setting("bf16", "What keys and values are kept as.")
    speculation: Literal["auto", "off"] = _setting(
        "auto", "Guess tokens where it pays; the text is the same."
    )
    max_queue: int = _setting(64, "Requests that may wait; more are refused with 429.", low=0, high=100_000)
    max_connections: int = _setting(512, "Connections that are held at once.", low=1, high=100_000)
    stream_interval: float = _setting(
        0.04, "Seconds between two pieces of a stream, where many run.", low=0, high=10
    )
    shutdown_timeout: float = _setting(30.0, "Seconds that running requests get when the server ends.", low=0)
    stall_timeout: float = _setting(60.0, "Seconds after which a step counts as stuck.", low=0.1)
    trace: bool = _setting(False, "Let each key replay its recent requests with POST /trace.")
    log_format: Literal["text", "json"] = _setting("text", "How lines of the log look.")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "What is logged.")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            object.__setattr__(self, each.name, _checked(each.name, value, each.metadata))
        if any(not key or not key.isprintable() for key in self.api_key):
            raise UsageError("an API key must have at least one character, and no control characters")


@dataclass(frozen=True, slots=True)
class Origin:
    """A value and where it comes from, in words."""

    value: Any
    source: str


def gather(
    flags: Mapping[str, Any],
    *,
    environment: Mapping[str, str] = os.environ,
    config: Path | None = None,
) -> tuple[Settings, dict[str, Origin]]:
    """The settings, and where each comes from.

    Args:
        flags: What stands on the command line, by name; None where nothing does.
        environment: Variables.
        config: A TOML file; `BOLI_CONFIG` names one too.

    Raises:
        UsageError: A value is wrong, or a name is not known; it says in which place.
    """
    origins = {each.name: Origin(each.default, "default") for each in fields(Settings)}
    path = config or (Path(environment["BOLI_CONFIG"]) if environment.get("BOLI_CONFIG") else None)
    if path is not None:
        for name, value in _read(path).items():
            _known(name, f"{path}", "setting")
            origins[name] = Origin(_from_file(name, value, path), f"{path}")
    for variable, text in environment.items():
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and variable == variable.upper() and variable not in OTHER_VARIABLES:
            _known(name, "the environment", f"variable {variable}, and no setting")
            origins[name] = Origin(_from_text(name, text, variable), variable)
    for name, value in flags.items():
        if value is not None and value != ():
            origins[name] = Origin(
                value, f"--{name.replace('_', '-')}" if name != "model" else "the command line"
            )
    values = {name: origin.value for name, origin in origins.items()}
    try:
        return Settings(**values), origins
    except UsageError as error:
        named = next((name for name in origins if error.message.startswith(f"{name} ")), None)
        if named is not None and not error.cause:
            error.cause = f"it comes from {origins[named].source}"
        raise


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}", cause=error.strerror or str(error)) from error
    if len(data) > _LARGEST_FILE:
        raise UsageError(f"{path} is too large for a file of settings")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML", cause=str(error)) from error


def _known(name: str, place: str, what: str) -> None:
    names = [each.name for each in fields(Settings)]
    if name not in names:
        near = get_close_matches(name, names, n=1)
        raise UsageError(
            f"there is no {what} {name!r}",
            cause=f"it stands in {place}",
            remedy=f"did you mean {near[0]!r}?" if near else "'boli serve --help' shows all that there is",
        )


def _from_file(name: str, value: Any, path: Path) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if get_origin(_TYPES[name]) is tuple and isinstance(value, str):
        return (value,)
    if isinstance(value, dict):
        raise UsageError(f"{name} is one value, not a table", cause=f"it stands in {path}")
    return value


def _from_text(name: str, text: str, variable: str) -> Any:
    """A value out of a variable: lists are separated by commas."""
    kind = _TYPES[name]
    try:
        if get_origin(kind) is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}[
                text.lower()
            ]
        if int in (kind, *get_args(kind)):
            return int(text)
        return float(text) if kind is float else text
    except (ValueError, KeyError):
        raise UsageError(f"{variable} has a value that makes no sense: {text[:80]!r}") from None


def _checked(name: str, value: Any, limits: Mapping[str, Any]) -> Any:
    """A value of the right type and within its limits."""
    kind = _TYPES[name]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if choices:
        if value not in choices:
            raise UsageError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    elif get_origin(kind) is tuple:
        if not isinstance(value, tuple) or not all(isinstance(each, str) for each in value):
            raise UsageError(f"{name} must be one text or several")
    elif kind is float or int in (kind, *get_args(kind)):
        if value is None and kind not in (int, float):
            return None
        wanted = (int, float) if kind is float else int
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise UsageError(f"{name} must be a number, not {value!r}")
        low, high = limits.get("low", float("-inf")), limits.get("high", float("inf"))
        if not low <= value <= high:
            reach = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
            raise UsageError(f"{name} must be {reach}, not {value}")
    elif not isinstance(value, kind):
        raise UsageError(f"{name} must be {'true or false' if kind is bool else 'a text'}, not {value!r}")
    return value


_TYPES: dict[str, Any] = get_type_hints(Settings)
