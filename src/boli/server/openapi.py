"""The server's own description, at `/openapi.json`: routes, and what their bodies may hold."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from boli.server.chat_wire import ChatRequest
from boli.server.completions_wire import CompletionRequest
from boli.server.embeddings import EmbeddingRequest
from boli.server.messages_request import CountRequest, MessagesRequest
from boli.server.ollama_request import ChatBody, EmbedBody, GenerateBody, ShowBody
from boli.server.responses_request import ResponsesRequest
from boli.server.tokens import DetokenizeRequest, TokenizeRequest
from boli.server.traces import TraceRequest

# Routes read and check their bodies themselves, so that errors have the form of their API.
BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": CountRequest,
    "/api/chat": ChatBody,
    "/api/generate": GenerateBody,
    "/api/embed": EmbedBody,
    "/api/show": ShowBody,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
    "/trace": TraceRequest,
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def install(app: FastAPI) -> None:
    """Adds the bodies to what FastAPI says of an application."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if "Error" in schemas:
            return document
        schemas["Error"] = _ERROR
        for path, model in BODIES.items():
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            schemas[model.__name__] = schema
            operation = document["paths"][path]["post"]
            operation["requestBody"] = {"required": True, "content": _json(model.__name__)}
            operation["responses"]["4XX"] = {"description": "Refused", "content": _json("Error")}
        return document

    app.openapi = described  # type: ignore[method-assign]


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
