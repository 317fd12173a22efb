"""Random requests out of our own OpenAPI document: each gets an answer, and in the right form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck

from boli.server.openapi import BODIES
from server.running import PATIENCE, Running, toy_server

EXPECTED = {200, 400, 404, 405, 413, 415}
FEW = {"type": "integer", "minimum": 1, "maximum": 3}  # so that answers are short


def described(here: Running) -> dict[str, Any]:
    """The server's own document, with the bodies that its models describe."""
    document = here.app.openapi()
    components: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    for path, model in BODIES.items():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        components |= {name: closed(each) for name, each in schema.pop("$defs", {}).items()}
        operation = document["paths"][path]["post"]
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": closed(schema)}},
        }
    return document


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without other fields than its own, that names the right model and asks for few tokens."""
    properties = dict(schema.get("properties", {}))
    for name in properties:
        if name in ("n", "best_of", "num_predict", "keep_alive") or name.startswith("max_"):
            properties[name] = FEW
    if "model" in properties:
        properties["model"] = {"const": "toy"}
    return {**schema, "properties": properties, "additionalProperties": False} if properties else schema


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy")) as server:
        yield server


@pytest.fixture(scope="module")
def api(here: Running) -> Any:
    schema = schemathesis.openapi.from_dict(described(here))
    schema.config.update(base_url=here.url)
    return schema


@pytest.mark.parametrize("negative", [False, True], ids=["meant well", "meant ill"])
@pytest.mark.parametrize("path", BODIES)
def test_whatever_is_asked_is_answered_in_the_right_form(
    api: Any, here: Running, path: str, negative: bool
) -> None:
    mode = schemathesis.GenerationMode.NEGATIVE if negative else schemathesis.GenerationMode.POSITIVE
    statuses: set[int] = set()

    @hypothesis.settings(
        max_examples=8, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(case=api[path]["POST"].as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        reply = case.call(timeout=PATIENCE)
        statuses.add(reply.status_code)
        told = f"{path} {str(case.body)[:500]}: {reply.status_code} {reply.content[:500]!r}"
        assert reply.status_code in EXPECTED, told
        if reply.status_code != 200:
            assert in_right_form(path, reply.json()), told

    one()
    here.settled()
    assert statuses


def in_right_form(path: str, error: Any) -> bool:
    """Whether an error is in the form of the API that it belongs to."""
    if path.startswith("/api/"):
        return isinstance(error["error"], str)
    if path.startswith("/v1/messages"):
        return set(error["error"]) == {"type", "message"}
    return set(error) == {"error"} and set(error["error"]) == {"message", "type", "param", "code"}
