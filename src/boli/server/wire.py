"""Reading a request: bytes to JSON to a checked model, with a bound on everything.

Fields that boli does not know are refused by name. Each model lists the ones that are accepted and change
nothing, because clients send them to every server; `docs/serve.md` has them all.
"""

from __future__ import annotations

import asyncio
import json
import math
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from boli.server.errors import ApiError, invalid
from boli.server.limits import MAX_BODY_BYTES, MAX_JSON_DEPTH, MAX_NAME_CHARACTERS

Name = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]

_BODY_SECONDS = 60.0  # that a client may take to send a body
_LARGE = 1 << 17  # bytes of JSON that take so long to read that a thread does it

AnyWire = TypeVar("AnyWire", bound="Wire")


class Wire(BaseModel):
    """What a client sends: strict types (no truth value is a number), finite numbers, no unknown fields.

    Attributes:
        tolerated: Fields that clients send and that change nothing.
        refused: Fields that are known and not supported, and why.
    """

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    tolerated: ClassVar[frozenset[str]] = frozenset()
    refused: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields = [field.alias or name for name, field in cls.model_fields.items()]
        for name, value in data.items():
            if name in fields or name in cls.tolerated or value is None:
                continue
            if name in cls.refused:
                raise PydanticCustomError("refused", "{why}", {"why": cls.refused[name], "field": name})
            near = get_close_matches(name, [*fields, *cls.tolerated], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise PydanticCustomError(
                "unknown", "there is no field {shown}{hint}",
                {"shown": repr(name[:100]), "hint": hint, "field": name[:100]},
            )  # fmt: skip
        return data


async def read(request: Request, model: type[AnyWire]) -> AnyWire:
    """The body of a request, checked.

    Raises:
        ApiError: 400 for what is wrong, 413 for too large a body, 415 for one that is not JSON, 408 for one
            that does not come.
    """
    return check(model, await read_json(request))


async def read_json(request: Request) -> dict[str, Any]:
    """The body of a request as a JSON object; errors as `read`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A page of another site can send anything but this without asking first.
    if kind != "application/json":
        raise ApiError(415, "the body must be application/json", "invalid_request_error")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "the body must not be compressed", "invalid_request_error")
    body = await _read_body(request)
    if len(body) < _LARGE:
        data = parse(body)
    else:
        data = await asyncio.get_running_loop().run_in_executor(None, parse, body)
    if not isinstance(data, dict):
        raise invalid("the body must be a JSON object")
    return data


def check(model: type[AnyWire], data: dict[str, Any]) -> AnyWire:
    """A checked model; the first thing that is wrong is named, with its path.

    Raises:
        ApiError: 400.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _told(error) from None


def parse(body: bytes) -> Any:
    """JSON, strictly: UTF-8, finite numbers, no lone surrogates, not too deep.

    Raises:
        ApiError: 400.
    """
    try:
        text = body.decode("utf-8")
        data = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise invalid(f"the body is not valid JSON: {error}") from None
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH:
        _check_depth(data)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise invalid("a text holds half of a surrogate pair, which is no character") from None
    return data


async def _read_body(request: Request) -> bytes:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise ApiError(408, "the body did not come in time", headers={"Connection": "close"}) from None
    return bytes(body)


def _too_large() -> ApiError:
    return ApiError(
        413,
        f"the body has more than {MAX_BODY_BYTES:,} bytes",
        "invalid_request_error",
        headers={"Connection": "close"},
    )


def _too_deep() -> ApiError:
    return invalid(f"the body is nested deeper than {MAX_JSON_DEPTH} levels")


def _check_depth(data: Any) -> None:
    level, depth = [data], 0
    while level := [each for each in level if isinstance(each, (dict, list))]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise _too_deep()
        level = [value for each in level for value in (each.values() if isinstance(each, dict) else each)]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is too large for a number")
    return number


def _told(error: ValidationError) -> ApiError:
    found = error.errors(include_url=False, include_input=False)
    # Of the members of a union, the one that got furthest is the one that was meant.
    first = max(found, key=lambda each: (len(each["loc"]), "field" in each.get("ctx", {})))
    first = next((each for each in found if "field" in each.get("ctx", {})), first)
    path = ""
    for part in first["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif "[" not in part and "(" not in part and part not in _UNION_TAGS:
            path += f".{part}" if path else part
    field = first.get("ctx", {}).get("field")
    if field is not None:
        path += f".{field}" if path else str(field)
    message = first["msg"][:1].lower() + first["msg"][1:]
    return invalid(f"{path}: {message}" if path else message, param=path or None)


# What pydantic puts into a path for the member of a union that it tried.
_UNION_TAGS = {
    "str",
    "int",
    "float",
    "bool",
    "list",
    "dict",
    "NoneType",
    "constrained-str",
    "constrained-int",
}
