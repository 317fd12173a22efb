"""The child process that tries grammars out. Run as a script by `grammar_check.py`; imports nothing of boli.

A schema or a regular expression from outside is a stranger's program for a compiler. Here it is compiled for
the first time, where a crash, an endless loop or a hunger for memory hurts nobody.

A request is a line of JSON: `{"grammar", "limits"}` to compile, `{"gbnf"}` to convert a grammar of llama.cpp.
The answer is one too: `{"error": null or a text}`, and `lark` if something was converted.
"""

from __future__ import annotations

import json
import resource
import signal
import sys

SPARE_MEMORY_BYTES = 512 << 20
SECONDS = 10
"""How long a request may take before the process ends itself, whatever its parent does."""
MAX_MESSAGE_CHARACTERS = 500


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    sys.path.extend(sys.argv[1:])
    from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415 (the path comes first)

    with open("/proc/self/statm") as statm:  # noqa: PTH123 (pathlib would be one more import)
        size = int(statm.read().split()[0]) * resource.getpagesize()
    for what, limit in (
        (resource.RLIMIT_AS, size + SPARE_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(what, (limit, limit))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        # The kernel's own end of it: it strikes in the middle of compiled code, and when the parent is gone.
        signal.alarm(SECONDS)
        request = json.loads(line)
        if "gbnf" in request:
            answer = convert(request["gbnf"])
        else:
            limits = LLParserLimits(**request["limits"])
            wrong, told = LLMatcher.validate_grammar_with_warnings(request["grammar"], limits=limits)
            answer = {"error": told[0][:MAX_MESSAGE_CHARACTERS] if wrong else None}
        signal.alarm(0)
        print(json.dumps(answer), flush=True)


def convert(gbnf: str) -> dict[str, str | None]:
    """A grammar of llama.cpp in Lark, or what is wrong with it."""
    from llguidance.gbnf_to_lark import gbnf_to_lark  # noqa: PLC0415

    try:
        return {"error": None, "lark": gbnf_to_lark(gbnf)}
    except Exception as error:  # of many kinds, for texts that end too early or nest too deeply
        why = str(error) if type(error).__module__ != "builtins" or type(error) is Exception else ""
        return {"error": f"GBNF: {why or 'it ends too early, or nests too deeply'}"[:MAX_MESSAGE_CHARACTERS]}


if __name__ == "__main__":
    main()
