"""`boli serve`: an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import inspect
import threading
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from boli.cli.progress import TerminalProgress
from boli.cli.table import Column, print_table
from boli.cli.terminal import human_bytes, note, print_json
from boli.errors import MissingExtra, UsageError, install
from boli.server.settings import Origin, Settings, gather

if TYPE_CHECKING:
    from boli.engine.llm import LLM

HELP = """Serve a model to OpenAI's clients, and show what happens.

Clients use http://HOST:PORT/v1 as their base URL; a page with a chat is at http://HOST:PORT/. Every
option can also be set by a variable (BOLI_MAX_QUEUE for --max-queue) or in a TOML file (max_queue = 64),
in that order of precedence; --print-config says where each value comes from. The first Ctrl-C, or
SIGTERM, lets running requests end; the second ends at once.

\b
Examples:
  boli serve
  boli serve gemma3-270m --port 8080
  BOLI_API_KEY=secret boli serve --host 0.0.0.0
  boli serve --config server.toml --print-config
"""

_PACKAGES = ("fastapi", "uvicorn", "httptools", "prometheus_client", "llguidance")
_INTERRUPTED = 130

application = typer.Typer(add_completion=False, rich_markup_mode=None)


def serve(*, config: Path | None, print_config: bool, json: bool, **flags: Any) -> int:
    """Serves a model until a signal comes."""
    settings, origins = gather(
        {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()},
        config=config,
    )
    if print_config:
        _print_config(origins, json=json)
        return 0
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"the server needs {', '.join(missing)}", remedy=install("serve"))
    _check_exposure(settings)
    # Python takes half a second to read the web framework; the weights are read meanwhile.
    threading.Thread(target=_import_server, daemon=True).start()
    from boli.engine.loading import load  # noqa: PLC0415
    from boli.server.sockets import bind  # noqa: PLC0415

    with bind(settings.host, settings.port) as bound, TerminalProgress() as progress:
        llm = load(
            settings.model,
            threads=settings.threads,
            context=settings.context,
            kv_cache_bytes=settings.kv_cache_bytes,
            weights=settings.weights,
            kv_cache_type=settings.kv_cache_type,
            speculation=settings.speculation,
            progress=progress,
        )
        with llm:
            from boli.server import logs, run  # noqa: PLC0415

            logs.configure(settings.log_level, settings.log_format)
            port = bound.getsockname()[1]
            with asyncio.Runner(loop_factory=run.loop_factory()) as runner:
                done = runner.run(
                    run.serve(llm, settings, bound, ready=lambda _: _announce(llm, settings, port))
                )
    return 0 if done else _INTERRUPTED


def _import_server() -> None:
    pass


def _check_exposure(settings: Settings) -> None:
    """Refuses to be open to a network without a key, and says so loudly where that is wanted."""
    from boli.server.sockets import is_loopback  # noqa: PLC0415

    if is_loopback(settings.host) or settings.api_key:
        return
    if not settings.allow_no_key:
        raise UsageError(
            f"{settings.host} can be reached from other machines, and no API key is set",
            cause="anybody who reaches it could use the model and read its metrics",
            remedy="set BOLI_API_KEY, or say --allow-no-key if everybody on that network may",
        )
    note(
        f"WARNING: everybody who can reach {settings.host}:{settings.port} may use this server: "
        "there is no API key.",
        "red",
    )


def _announce(llm: LLM, settings: Settings, port: int) -> None:
    """Says where the server is, what memory it takes, and how to try it."""
    shown = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    name = (settings.served_model_names or (llm.title,))[0]
    totals = llm.ledger.totals()
    weights = sum(size for category, size in totals.items() if category.startswith("weights/"))
    parts = {
        "weights": weights,
        "KV cache": totals.get("kv_cache", 0),
        "workspace": totals.get("workspace", 0),
        "the rest": llm.ledger.total - weights - totals.get("kv_cache", 0) - totals.get("workspace", 0),
    }
    note(f"{name} is served at {url}/v1 (loaded in {llm.load_seconds:.1f} s)", "bold")
    note(
        f"memory: {human_bytes(llm.ledger.total)} at most = "
        + " + ".join(f"{human_bytes(size)} {part}" for part, size in parts.items())
    )
    note(f"context {llm.context:,} tokens, {llm.threads} threads, {settings.max_queue} requests may wait")
    key = ' -H "Authorization: Bearer $BOLI_API_KEY"' if settings.api_key else ""
    note("try it:")
    note(
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n"
        f"""    -d '{{"model": "{name}", "messages": [{{"role": "user", "content": "What is glass?"}}]}}'"""
    )


def _print_config(origins: dict[str, Origin], *, json: bool) -> None:
    """Shows each value and where it comes from; of a key only that there is one."""
    shown = {name: origin.value for name, origin in origins.items()}
    shown["api_key"] = ["(set)"] * len(shown["api_key"])
    if json:
        print_json({name: {"value": shown[name], "from": origins[name].source} for name in origins})
        return
    print_table(
        [Column("setting"), Column("value"), Column("from")],
        [[name, _words(shown[name]), origins[name].source] for name in origins],
    )


def _words(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "-" if value is None else str(value)


def _parameters() -> list[inspect.Parameter]:
    """An option for each setting, without a default: what is not said may come from elsewhere."""
    parameters = []
    for each in fields(Settings):
        kind = get_type_hints(Settings)[each.name]
        if get_origin(kind) is tuple:
            kind = list[str]
        elif type(None) in get_args(kind):
            kind = next(one for one in get_args(kind) if one is not type(None))
        default = _words(each.default)
        made = (
            typer.Argument(metavar="[MODEL]", help=each.metadata["help"], show_default=default)
            if each.name == "model"
            else typer.Option(help=each.metadata["help"], show_default=False if default == "-" else default)
        )
        parameters.append(
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, made],
            )
        )
    own = inspect.signature(_own, eval_str=True).parameters.values()
    return [*parameters, *own]


def _own(
    *,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A TOML file with settings.", show_default=False)
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show the settings, and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --print-config: one JSON document.")] = False,
) -> None:
    """Options that are no settings of the server."""


# Typer reads options off a function; these are read off `Settings`, so that each is written down once.
serve.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
serve.__annotations__ = {}
application.command(help=HELP)(serve)
