"""The child process that renders chat templates. Run as a script by `sandbox.py`; imports nothing of boli.

A template comes with a model, so it is a stranger's program. Here it meets, from the outside in: limits of
the operating system on memory, time, files and core dumps; an environment without variables; a
limit on what it may write; and Jinja's immutable sandbox. The parent adds a wall clock, and kills.

Frames are four bytes of length, big-endian, and as many bytes of JSON. A request is
`{"template", "renders": [variables, ...]}`, the answer `{"texts": [...]}` with null for a render after the
first that failed, or `{"error", "message"}`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from datetime import datetime
from typing import Any, BinaryIO

SPARE_MEMORY_BYTES = 64 << 20
"""What a render may take beyond the started interpreter."""
SECONDS = 3
"""How long a request may take before the process ends itself, whatever its parent does."""
MAX_RESULT_CHARACTERS = 8 << 20
MAX_MESSAGE_CHARACTERS = 500
_OUT_OF_MEMORY = json.dumps({"error": "memory", "message": ""}).encode()
_KEPT_TEMPLATES = 4


class ResultTooLong(Exception):
    """The text grew beyond `MAX_RESULT_CHARACTERS`."""


def build_environment() -> Any:
    """The Jinja environment that chat templates are written for, with the names that transformers adds."""
    from jinja2 import Environment, TemplateError, nodes  # noqa: PLC0415
    from jinja2.exceptions import SecurityError  # noqa: PLC0415
    from jinja2.ext import Extension, loopcontrols  # noqa: PLC0415
    from jinja2.parser import Parser  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415
    from jinja2.utils import Namespace  # noqa: PLC0415

    class Generation(Extension):
        """`{% generation %}` marks what an assistant wrote, for training; it changes nothing in the text."""

        tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # A call block, not the bare body: what is set inside stays inside, as with transformers.
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> str:
            return str(caller())

    class ChatNamespace(Namespace):
        """Jinja's `namespace()`, without names that begin with an underscore."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            values = dict(*args[1:], **kwargs)
            for name in values:
                _check_name(name)
            Namespace.__init__(args[0], values)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            super().__setitem__(name, value)

    class Dict:
        """`dict(...)` without the attributes of the class."""

        def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args)

    def _check_name(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace cannot hold {name!r}")

    def raise_exception(message: object) -> None:
        raise TemplateError(str(message))

    def strftime_now(layout: str) -> str:
        return datetime.now().strftime(layout)

    def tojson(
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    environment: Environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "dict": Dict(),
        "namespace": ChatNamespace,
    }
    return environment


def render(template: Any, variables: dict[str, Any]) -> str:
    """Render, and stop as soon as the text is too long."""
    parts = []
    length = 0
    for part in template.generate(**variables):
        length += len(part)
        if length > MAX_RESULT_CHARACTERS:
            raise ResultTooLong
        parts.append(part)
    return "".join(parts)


def answer(environment: Any, request: dict[str, Any], compiled: dict[str, Any]) -> dict[str, Any]:
    """Answer one request; whatever a template raises becomes a message."""
    from jinja2 import TemplateError, TemplateSyntaxError  # noqa: PLC0415
    from jinja2.exceptions import SecurityError, UndefinedError  # noqa: PLC0415

    source = request["template"]
    texts: list[str | None] = []
    try:
        if source not in compiled:
            while len(compiled) >= _KEPT_TEMPLATES:
                del compiled[next(iter(compiled))]
            compiled[source] = environment.from_string(source)
        for variables in request["renders"]:
            try:
                texts.append(render(compiled[source], variables))
            except MemoryError:
                raise
            except Exception:
                if not texts:
                    raise
                texts.append(None)
    except ResultTooLong:
        return {"error": "length", "message": ""}
    except SecurityError as error:
        return _failure("security", error)
    except TemplateSyntaxError as error:
        return {
            "error": "syntax",
            "message": f"line {error.lineno}: {error.message}"[:MAX_MESSAGE_CHARACTERS],
        }
    except UndefinedError as error:
        return _failure("failed", error)
    except TemplateError as error:
        return _failure("raised", error)
    except MemoryError:
        raise
    except Exception as error:
        return _failure("failed", error, name=f"{type(error).__name__}: ")
    return {"texts": texts}


def _failure(kind: str, error: Exception, name: str = "") -> dict[str, Any]:
    return {"error": kind, "message": name + str(error)[:MAX_MESSAGE_CHARACTERS]}


def limit_resources() -> None:
    """Leave the process little more than it has."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123 (pathlib would be one more import)
        size = int(statm.read().split()[0]) * resource.getpagesize()
    for what, limit in (
        (resource.RLIMIT_AS, size + SPARE_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(what, (limit, limit))


def send(stream: BinaryIO, data: bytes) -> None:
    """Write one frame."""
    stream.write(struct.pack(">I", len(data)) + data)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """Read one frame; None where the parent is gone."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    data = stream.read(struct.unpack(">I", head)[0])
    return data if len(data) == struct.unpack(">I", head)[0] else None


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    sys.path.extend(sys.argv[1:])
    environment = build_environment()
    limit_resources()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    send(sink, json.dumps({"ready": True}).encode())
    compiled: dict[str, Any] = {}
    while (frame := receive(source)) is not None:
        # The kernel's own end of it: it strikes in the middle of C code, and when the parent is gone.
        signal.alarm(SECONDS)
        try:
            reply = json.dumps(answer(environment, json.loads(frame), compiled)).encode()
        except MemoryError:
            # What the template built is still alive in some traceback: a fresh process is the way out.
            send(sink, _OUT_OF_MEMORY)
            os._exit(1)
        signal.alarm(0)
        send(sink, reply)


if __name__ == "__main__":
    main()
