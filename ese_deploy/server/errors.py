"""Errors of the HTTP interface, in the shape of OpenAI's."""

from collections.abc import Mapping
from typing import Any

__all__ = ["ApiError", "error_body"]

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is not answered.

    Attributes:
        status: the HTTP status.
        message: what was got, what is allowed, what to do.
        param: the field of the request, such as ``dimensions``.
        code: a short name of the kind of error, such as ``model_not_found``.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})


def error_body(error: ApiError) -> dict[str, Any]:
    """The JSON body of an error."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
