"""Changes of a part: JSON Merge Patch (RFC 7396), sent with PATCH (RFC 5789) as `application/merge-patch+json`.

    @api.patch("/users/{user_id}")
    async def patch_user(
        user_id: UserId, patch: MergePatch[WholeProfile], work: Transaction, if_match: IfMatch = None
    ) -> UserView:
        user = await storage.to_change(work, user_id)
        require_match(if_match, user.version)
        profile = patch.applied_to(WholeProfile(name=user.name, phone=user.phone))

A patch has the shape of what it changes, with what shall change: a member that is absent stays, one that is null is
taken away, an object is patched member by member, everything else, also a list, is replaced. The result must be what
the model takes, whole; a member that the model does not have is refused, be it null. A body of another media type is
refused with 415, which names the right one in `Accept-Patch`.

Whoever patches has seen the present state: ask for `If-Match`. Without it two patches that are right alone can be wrong
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

from fastapi import Body
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, GetCoreSchemaHandler, RootModel, SecretBytes, SecretStr, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, PydanticSerializationError, core_schema, to_json

from covey.errors import DefinitionError

M = TypeVar("M", bound=BaseModel)

MEDIA_TYPE = "application/merge-patch+json"


class Patch(Generic[M]):
    """A change of what the model `M` describes. A parameter of a route is a `MergePatch[M]`."""

    def __init__(self, model: type[M], document: Mapping[str, Any]) -> None:
        self._model = model
        self._document = document

    def applied_to(self, present: M) -> M:
        """Return what is there when the present state is changed like this.

        Raises RequestValidationError, 422 with every broken rule, where the model does not take the result, or does not
        know a member of the patch.
        """
        unknown = [_unknown(place) for place in _unknown_members(self._model, self._document, ())]
        if unknown:
            raise RequestValidationError(unknown)
        try:
            document = merged(present.model_dump(mode="json", by_alias=True), self._document)
            return self._model.model_validate_json(to_json(document))
        except (RecursionError, PydanticSerializationError):
            raise RequestValidationError([_mistake((), "recursion", "it is nested too deeply, or no text")]) from None
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Take any JSON object; in a document of OpenAPI it is the model without what it requires."""
        (model,) = get_args(source)
        _require_that_it_comes_back(model)
        return core_schema.no_info_plain_validator_function(
            partial(cls._read, model),
            metadata={"pydantic_js_functions": [lambda _, __: schema_of(model)]},
        )

    @classmethod
    def _read(cls, model: type[M], value: Any) -> Patch[M]:
        if not isinstance(value, dict):
            raise PydanticCustomError("dict_type", "a merge patch is a JSON object")
        return cls(model, value)


MergePatch = Annotated[Patch[M], Body(media_type=MEDIA_TYPE)]
"""The type of a route's parameter that is the body of a PATCH."""


def merged(target: Any, patch: Any) -> Any:
    """Return the target as the patch changes it: the algorithm of RFC 7396, section 2."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of a patch: nothing is required, and what can be taken away may be null."""
    whole = model.model_json_schema()
    patch = _loosened(_inlined({**whole, "$defs": {}}, whole.get("$defs", {}), ()))
    return {**patch, "title": f"{model.__name__}Patch", "description": f"What shall change of {model.__name__}."}


def _inlined(node: Any, definitions: Mapping[str, Any], above: tuple[str, ...]) -> Any:
    """Return a schema with what it mentions in its place; what mentions itself may be anything below."""
    if isinstance(node, list):
        return [_inlined(one, definitions, above) for one in node]
    if not isinstance(node, dict):
        return node
    if isinstance(reference := node.get("$ref"), str):
        name = reference.rpartition("/")[2]
        return {} if name in above else _inlined(definitions[name], definitions, (*above, name))
    return {key: _inlined(value, definitions, above) for key, value in node.items()}


def _loosened(schema: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in schema.items() if name not in ("$defs", "required", "default")}
    if "anyOf" in schema:
        kept["anyOf"] = [_loosened(one) for one in schema["anyOf"]]
    if "properties" in schema:
        needed = set(schema.get("required", ()))
        kept["properties"] = {
            name: _member(_loosened(member), name in needed) for name, member in schema["properties"].items()
        }
    return kept


def _member(schema: dict[str, Any], needed: bool) -> dict[str, Any]:
    null = {"type": "null"}
    if needed and null in schema.get("anyOf", ()):
        return {
            **schema,
            "anyOf": [one for one in schema["anyOf"] if one != null],
        }  # null takes away what must be there
    if needed or null in schema.get("anyOf", ()):
        return schema
    return {"anyOf": [schema, null]}


def _require_that_it_comes_back(model: type[BaseModel], above: tuple[type[BaseModel], ...] = ()) -> None:
    """Raise DefinitionError for a model that cannot be read from what it is shown as: a patch would change the rest."""
    if model.model_computed_fields:
        raise DefinitionError(f"{model.__name__} shows what is computed, so that it cannot be patched")
    for name, one in model.model_fields.items():
        shown, read = one.serialization_alias or name, one.validation_alias or name
        mentioned = set(_mentioned(one.annotation))
        if one.exclude or shown != read or mentioned & {SecretStr, SecretBytes}:
            raise DefinitionError(f"{model.__name__}.{name} is not shown as it is read, so that it cannot be patched")
        for inner in mentioned - {*above, model}:
            if issubclass(inner, BaseModel):
                _require_that_it_comes_back(inner, (*above, model))


def _mentioned(annotation: Any) -> Iterator[type]:
    """Yield the classes of an annotation, those in lists, mappings and unions too."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for one in get_args(annotation):
        yield from _mentioned(one)


def _unknown(place: tuple[str, ...]) -> dict[str, Any]:
    return _mistake(place, "extra_forbidden", "there is no such member")


def _mistake(place: tuple[str, ...], kind: str, text: str) -> dict[str, Any]:
    return {"type": kind, "loc": ("body", *place), "msg": text}


def _unknown_members(
    model: type[BaseModel], patch: Mapping[str, Any], place: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    fields = {field.validation_alias or field.alias or name: field for name, field in model.model_fields.items()}
    for name, value in patch.items():
        if name not in fields:
            yield (*place, name)
        elif isinstance(value, dict) and (inner := _model_in(fields[name].annotation)) is not None:
            yield from _unknown_members(inner, value, (*place, name))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation is, or None is the alternative to; of others the model itself judges."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None if issubclass(annotation, RootModel) else annotation
    if get_origin(annotation) in (Union, UnionType):
        several = [one for one in get_args(annotation) if one is not NoneType]
        return _model_in(several[0]) if len(several) == 1 else None
    return None
