"""Outside judges of the documents: the JSON Schema of the AsyncAPI Initiative, and a validator of OpenAPI."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

_ASYNCAPI = Path(__file__).with_name("asyncapi-3.0.0.schema.json")


def asyncapi_mistakes(document: dict[str, Any]) -> list[str]:
    """Return what is wrong with an AsyncAPI document: by the official schema, and references that lead nowhere."""
    wrong = [f"{error.json_path}: {error.message}" for error in _official().iter_errors(document)]
    return wrong + [reference for reference in _references(document) if not _leads_somewhere(reference, document)]


def openapi_mistakes(document: dict[str, Any]) -> list[str]:
    """Return what is wrong with an OpenAPI 3.1 document."""
    return [f"{error.json_path}: {error.message}" for error in OpenAPIV31SpecValidator(document).iter_errors()]


@cache
def _official() -> Draft7Validator:
    return Draft7Validator(json.loads(_ASYNCAPI.read_text()))


def _references(value: Any) -> list[str]:
    match value:
        case {"$ref": str(reference)}:
            return [reference]
        case dict():
            return [reference for part in value.values() for reference in _references(part)]
        case list():
            return [reference for part in value for reference in _references(part)]
        case _:
            return []


def _leads_somewhere(reference: str, document: Any) -> bool:
    for step in reference.removeprefix("#/").split("/"):
        if step not in document:
            return False
        document = document[step]
    return True
