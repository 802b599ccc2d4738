"""Why a request is refused: a status and one sentence, in the shape OpenAI's clients expect."""

import math
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class ErrorInfo(BaseModel):
    """What went wrong, in one sentence."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorInfo = Field(description="What was wrong, and what to do.")


class RefusedError(Exception):
    """A request that is not answered."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        kind = TYPES.get(self.status, "invalid_request_error")
        told = ErrorInfo(message=self.message, type=kind, param=self.param, code=self.code)
        return {"error": told.model_dump()}

    def response(self) -> JSONResponse:
        """The whole answer; says when to come back where that helps."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the refusals that a route may answer with."""
    return {status: {"model": ErrorBody, "description": REASONS[status]} for status in statuses}


REASONS = {
    400: "The body is no JSON, is nested too deeply, or the source cannot take the request.",
    401: "There is no key, or it is unknown, revoked or expired.",
    403: "The key may not ask this source, or without keys the request is not to loopback.",
    404: "There is no such source or page.",
    405: "The path takes another method.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "A field is unknown, missing or out of bounds.",
    429: "A limit of the key is reached, or the source has too much to do; Retry-After says when.",
    503: "The source is down or failed; Retry-After says when to try again.",
}
