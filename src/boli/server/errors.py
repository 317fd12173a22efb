"""Errors as OpenAI's API writes them, and which of boli's errors becomes which status.

The SDKs of OpenAI repeat a request that was answered with 408, 409, 429 or 5xx. So whatever the client can
mend is 400, and 5xx is left to what may work the next time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from boli.errors import (
    BoliError,
    ContextLengthExceeded,
    ModelNotFound,
    TextError,
    UnsupportedModel,
    UsageError,
)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class ApiError(Exception):
    """What a client is told instead of an answer.

    Args:
        status: The HTTP status.
        message: What happened, why, and what to do.
        type: OpenAI's class of error; the usual one of the status if left out.
        param: The field that is wrong, such as `messages[0].content`.
        code: Stable, for programs.
        headers: Of the response, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str | None = None,  # as the field is called
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's document, all four keys in it."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """The whole response."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that is wrong, and will be however often it is repeated."""
    return ApiError(400, message, param=param, code=code)


def overloaded(waiting: int, retry_after: int) -> ApiError:
    """The queue is full."""
    return ApiError(
        429,
        f"the queue is full ({waiting} requests wait): try again in {retry_after} s",
        code="queue_full",
        headers={"Retry-After": str(retry_after)},
    )


def shutting_down() -> ApiError:
    """The server ends, and takes no more requests or cannot finish this one."""
    return ApiError(503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "10"})


def as_api_error(error: BaseException) -> ApiError:
    """Any exception as one that a client may see: nobody is told of what nobody expected."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BoliError):
        message = ": ".join(part for part in (error.message, error.cause) if part)
        if error.remedy:
            message += f"; {error.remedy}"
        if isinstance(error, ModelNotFound):
            return ApiError(404, message, code=error.code)
        client = isinstance(error, (UsageError, ContextLengthExceeded, TextError, UnsupportedModel))
        return ApiError(400 if client else 500, message, code=error.code)
    return ApiError(500, "the server failed in a way that nobody expected; its log says how")


def install(app: FastAPI) -> None:
    """Makes an application answer every error in OpenAI's form."""

    @app.exception_handler(ApiError)
    @app.exception_handler(BoliError)
    async def _known(_request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        # The gate tells of it, in the form of the API that the path belongs to.
        message = {404: "there is no such page", 405: "this page does not take that method"}.get(
            error.status_code, str(error.detail)
        )
        raise ApiError(error.status_code, message, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def _fields(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"][1:])
        return invalid(f"{path}: {first['msg']}", param=path or None).response()
