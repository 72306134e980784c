"""The OpenAPI document of a service: https://spec.openapis.org/oas/v3.1.0"""

from __future__ import annotations

from typing import Any

from covey.http.application import openapi
from covey.tools.surface import Surface


def document(surface: Surface) -> dict[str, Any]:
    """Return what the service serves as `/openapi.json`."""
    return openapi(surface.name, surface.routers, surface.version, surface.deprecated)
