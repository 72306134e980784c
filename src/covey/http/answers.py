"""What becomes of an endpoint's result: the second half of FastAPI's `get_request_handler`, for a plain route."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import Response
from fastapi.datastructures import DefaultPlaceholder
from fastapi.responses import JSONResponse
from fastapi.routing import RouteContext, _extract_endpoint_context, serialize_response
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import ValidationError
from starlette.types import Scope

from covey.http.arguments import validator
from covey.http.sendable import SEEN, require_response


def are_plain(found: RouteContext) -> bool:
    """Tell whether `Answers` makes the answers of a route: FastAPI's default, JSON by pydantic."""
    return isinstance(found.response_class, DefaultPlaceholder) and found.response_class.value is JSONResponse


class Answers:
    """Runs one endpoint and makes answers of its results."""

    def __init__(self, found: RouteContext) -> None:
        self._endpoint: Any = found.dependant.call
        self._path = found.dependant.path
        self._status: int = found.status_code or 200
        self._parameter = found.dependant.response_param_name
        self._field = found.response_field
        self._options: dict[str, Any] = {
            "include": found.response_model_include,
            "exclude": found.response_model_exclude,
            "by_alias": found.response_model_by_alias,
            "exclude_unset": found.response_model_exclude_unset,
            "exclude_defaults": found.response_model_exclude_defaults,
            "exclude_none": found.response_model_exclude_none,
        }
        if self._field is not None:
            self._validate = validator(self._field)
            adapter = self._field._type_adapter
            dump = adapter.serializer.to_json if adapter.pydantic_complete else adapter.dump_json
            self._dump = partial(dump, **self._options)

    async def of(self, scope: Scope, arguments: dict[str, Any]) -> Response:
        """Run the endpoint and return its answer, ready to be sent.

        Raises what the endpoint raises, ResponseValidationError for a result that is not what the route promises, and
        Unsendable for what would cut the connection.
        """
        response = await self._response(scope, arguments)
        require_response(response, scope["method"])
        scope[SEEN] = response.raw_headers
        return response

    async def _response(self, scope: Scope, arguments: dict[str, Any]) -> Response:
        given = None
        if self._parameter is not None:
            arguments[self._parameter] = given = _Blank()
        result = await self._endpoint(**arguments)
        if isinstance(result, Response):
            return result
        status = (given.status_code if given is not None else None) or self._status
        response = await self._made(result, status, scope)
        if not is_body_allowed_for_status_code(status):
            response.body = b""
        if given is not None:
            response.raw_headers.extend(given.raw_headers)
        return response

    async def _made(self, result: Any, status: int, scope: Scope) -> Response:
        if self._field is None:
            return JSONResponse(await serialize_response(response_content=result), status)
        try:
            content = self._dump(self._validate(result))
        except ValidationError:
            content = None
        if content is None:
            content = await self._refused(result, scope)
        return _Json(content, status)

    async def _refused(self, result: Any, scope: Scope) -> Any:
        """Have FastAPI say what is wrong with a result."""
        described = _extract_endpoint_context(self._endpoint).copy()
        described["path"] = f"{scope['method']} {scope.get('root_path', '').rstrip('/')}{self._path}"
        return await serialize_response(
            field=self._field, response_content=result, endpoint_ctx=described, dump_json=True, **self._options
        )


class _Blank(Response):
    """What an endpoint sets headers and a status on that asks for a `Response`: without any until then."""

    def __init__(self) -> None:
        self.raw_headers = []
        self.status_code = None  # type: ignore[assignment]  # none was set
        self.background = None
        self.body = b""


class _Json(Response):
    """JSON, with the head that starlette would make for it."""

    media_type = "application/json"

    def __init__(self, content: bytes, status: int) -> None:
        self.body = content
        self.status_code = status
        self.background = None
        has_length = status >= 200 and status not in (204, 304)
        kind = (b"content-type", b"application/json")
        self.raw_headers = [(b"content-length", b"%d" % len(content)), kind] if has_length else [kind]
