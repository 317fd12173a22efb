"""OpenAI's published schemas of replies, as a check: what they are is in `openai_schemas.json`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_FILE = Path(__file__).with_name("openai_schemas.json")


@cache
def document() -> dict[str, Any]:
    """The file."""
    read: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return read


@cache
def _validator(name: str) -> Draft202012Validator:
    definitions = document()["$defs"]
    assert name in definitions
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})


@cache
def _events() -> dict[str, str]:
    """The schema of each type of event of `/v1/responses`."""
    definitions = document()["$defs"]
    return {definitions[name]["properties"]["type"]["enum"][0]: name for name in document()["events"]}


def check(name: str, reply: Any) -> None:
    """Checks a reply against a schema by its name, such as `CreateChatCompletionResponse`."""
    errors = [f"{error.json_path}: {error.message[:300]}" for error in _validator(name).iter_errors(reply)]
    assert not errors, f"{name}: {errors}"


def check_event(event: dict[str, Any]) -> None:
    """Checks an event of `/v1/responses` against the schema of its type.

    Before there is anything to count `usage` is null, in OpenAI's own examples too; the schema has no null.
    """
    response = event.get("response")
    if response is not None and response["usage"] is None:
        assert response["status"] == "in_progress"
        event = {**event, "response": {name: v for name, v in response.items() if name != "usage"}}
    check(_events()[event["type"]], event)
