"""The announcement of users to a reader that came too late: the same in every version."""

from __future__ import annotations

from covey.http.transaction import Transaction
from covey.security.access import requires
from user_service import use_cases
from user_service.routes.shapes import Announced, Announcement


@requires("staff")
async def announce_users(body: Announcement, work: Transaction) -> Announced:
    """Publish users again as they are now: a snapshot for a reader that came too late for the events.

    Closed accounts too, for a reader may still hold what it was told before. One that knows a user already drops
    what is not newer, so this harms nobody.
    """
    announced, following = await use_cases.announce(work, body.after, body.limit)
    return Announced(announced=announced, next=following)
