"""Print the contracts of one service as JSON: `python -m covey.tools.describe order_service`.

A process for each service, started as `covey up` would start it: so a service sees its own code and settings only.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import redirect_stdout
from typing import Any

from covey.errors import CoveyError
from covey.tools import asyncapi, openapi
from covey.tools.surface import surface_of


async def contracts_of(package: str) -> dict[str, dict[str, Any]]:
    """Return the documents of a service by the names of their files."""
    surface = await surface_of(package)
    return {"asyncapi.json": asyncapi.document(surface), "openapi.json": openapi.document(surface)}


def main() -> None:
    """Print the documents to standard output; what the service prints meanwhile goes to standard error."""
    try:
        with redirect_stdout(sys.stderr):
            documents = asyncio.run(contracts_of(sys.argv[1]))
    except CoveyError as error:
        sys.exit(str(error))
    json.dump(documents, sys.stdout)


if __name__ == "__main__":
    main()
