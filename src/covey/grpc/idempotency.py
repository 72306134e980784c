"""A call done once, however often it is sent: `request_id` is to gRPC what `Idempotency-Key` is to HTTP.

    async with transaction() as work:
        return await once(work, request, CreateUserResponse, lambda: create(work, request))

The key is claimed in the transaction of the effect, and the answer is kept in it (https://google.aip.dev/155).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import TypeVar

from google.protobuf.message import Message

from covey import context
from covey.errors import Invalid
from covey.work.idempotency import Answer, claim
from covey.work.unit_of_work import Work

A = TypeVar("A", bound=Message)

_KEY = re.compile(r"[A-Za-z0-9._~:/+=-]{1,255}")
_RULE = "send 1 to 255 letters, digits and . _ ~ : / + = -, others for every new request"
_OK = 200


async def once(work: Work, request: Message, answer: type[A], effect: Callable[[], Awaitable[A]]) -> A:
    """Return what `effect` gives, and for the same request the same again without a second effect.

    Two requests are the same if they have one `request_id`, one type and one content. Raises Invalid without an id,
    KeyReused when it belongs to another request, InProgress while the first one is under way.
    """
    key = str(getattr(request, "request_id", ""))
    if not _KEY.fullmatch(key):
        raise Invalid(f"request_id: {_RULE}", [{"in": "message", "pointer": "#/request_id", "what": _RULE}])
    scope = f"{context.current().principal or ''}\x1f{request.DESCRIPTOR.full_name}"
    fingerprint = sha256(request.SerializeToString(deterministic=True)).digest()
    claimed = await claim(work, scope, key, fingerprint)
    if isinstance(claimed, Answer):
        return answer.FromString(claimed.body)
    given = await effect()
    claimed.keep(Answer(_OK, [], given.SerializeToString()))
    return given
