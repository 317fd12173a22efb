"""`/tokenize`, `/detokenize` and `/tokenizer_info`, as vLLM has them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import JSONResponse, Response

from boli.server.chat_wire import ChatRequest
from boli.server.completions_wire import Token
from boli.server.context import context_of
from boli.server.errors import invalid
from boli.server.limits import MAX_MESSAGES, MAX_TOOLS
from boli.server.long_lists import document, long_list
from boli.server.turns import prompt_of
from boli.server.wire import Name, Wire, check, read
from boli.text import Tokenizer

router = APIRouter()

MAX_TOKENS = 1 << 20
"""Most ids that are decoded at once: beyond any context, and a bound on time and memory."""


class TokenizeRequest(Wire):
    """What `/tokenize` takes: a text, or a conversation."""

    refused: ClassVar[dict[str, str]] = {
        "chat_template": "templates in requests are not rendered",
        "mm_processor_kwargs": "this model reads text only",
    }

    model: Name | None = None
    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: dict[str, bool | int | str] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _is_one_of_two(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("either", "either prompt or messages is needed", {"field": "prompt"})
        if self.messages is not None and self.add_special_tokens:
            # It would be the beginning-of-sequence token a second time.
            raise PydanticCustomError(
                "both", "the chat template writes the special tokens itself", {"field": "add_special_tokens"}
            )
        if self.prompt is not None and (self.tools or self.chat_template_kwargs):
            raise PydanticCustomError(
                "alone", "tools and chat_template_kwargs go with messages", {"field": "tools"}
            )
        return self

    def chat(self) -> ChatRequest:
        """The conversation, checked as one that is to be answered."""
        given = {
            "messages": self.messages, "tools": self.tools, "chat_template_kwargs": self.chat_template_kwargs
        }  # fmt: skip
        return check(ChatRequest, {name: value for name, value in given.items() if value is not None})


class DetokenizeRequest(Wire):
    """What `/detokenize` takes."""

    model: Name | None = None
    tokens: Annotated[list[Token], Field(max_length=MAX_TOKENS)]


@router.post("/tokenize")
async def tokenize(request: Request) -> Response:
    """The token ids of a text or of a conversation, and how many there may be."""
    context = context_of(request)
    wanted = await read(request, TokenizeRequest)
    context.check_model(wanted.model)
    if wanted.prompt is None:
        ids = await prompt_of(context, wanted.chat(), add_generation_prompt=wanted.add_generation_prompt)
    else:
        special = wanted.add_special_tokens is not False
        ids = await context.service.in_text_thread(_encode, context.llm.tokenizer, wanted.prompt, special)
    head = {"count": len(ids), "max_model_len": context.llm.context}

    def written() -> bytes:
        strings = [context.llm.tokenizer.piece(token) for token in ids] if wanted.return_token_strs else None
        shown = "null" if strings is None else long_list(strings)
        return document(head, tokens=long_list(ids), token_strs=shown)

    return Response(await context.service.in_text_thread(written), media_type="application/json")


@router.post("/detokenize")
async def detokenize(request: Request) -> Response:
    """The text of token ids; special tokens are written out."""
    context = context_of(request)
    wanted = await read(request, DetokenizeRequest)
    context.check_model(wanted.model)
    tokenizer = context.llm.tokenizer
    highest = max(wanted.tokens, default=0)
    if highest >= context.llm.blueprint.config.vocab_size:
        raise invalid(f"token id {highest} is not in the vocabulary", "tokens")
    return JSONResponse({"prompt": await context.service.in_text_thread(tokenizer.decode, wanted.tokens)})


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request) -> Response:
    """What a client needs to know of the tokenizer to count and to cut by itself."""
    context = context_of(request)
    tokenizer = context.llm.tokenizer
    template = tokenizer.chat_template
    ends = sorted(tokenizer.eos_token_ids)
    body = {
        "tokenizer_class": "boli.text.Tokenizer",
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "model_max_length": context.llm.context,
        "add_bos_token": tokenizer.add_bos,
        "bos_token": None if tokenizer.bos_token_id is None else tokenizer.piece(tokenizer.bos_token_id),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token": tokenizer.piece(ends[0]) if ends else None,
        "eos_token_ids": ends,
        "chat_template": None if template is None else template.source,
    }
    return JSONResponse(body)


def _encode(tokenizer: Tokenizer, text: str, special: bool) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=special)
