"""What can be done with accounts, whoever asks: REST and gRPC translate, this decides.

Each is one function in the caller's transaction; what others must know of is published in it.
"""

from __future__ import annotations

from collections.abc import Callable

from covey.errors import NotFound
from covey.ids import new_id
from covey.work.unit_of_work import Work
from user_service import storage
from user_service.domain import Account, Closed, Preferences, Profile, User, UserId
from user_service.messages import user_changed

Expect = Callable[[int], None]
"""Given the present version, raises unless it is the one that the caller has read."""


async def open_account(work: Work, profile: Profile, preferences: Preferences) -> User:
    """Open an account, and tell others. Conflict when an open one has this e-mail, whatever the case of its letters."""
    user = await storage.add(work, User(UserId(new_id()), profile, preferences))
    work.publish(user_changed(user))
    return user


async def user_of(work: Work, user_id: UserId) -> User:
    """Return a user. NotFound when there never was one, and of a closed account: nothing is left to show."""
    return _open(await storage.by_id(work, user_id), user_id)


async def change_profile(work: Work, user_id: UserId, expect: Expect, change: Callable[[Profile], Profile]) -> User:
    """Change the profile of who writes their name as a whole, and tell others. Raises what `expect` does.

    Its parts stay while the name does.
    """
    found = await _to_change(work, user_id, expect)
    profile = change(found.profile).with_parts_of(found.profile)
    return await _changed(work, found.with_profile(profile))


async def change_preferences(
    work: Work, user_id: UserId, expect: Expect, change: Callable[[Preferences], Preferences]
) -> User:
    """Change the preferences, and tell others. Raises what `expect` does."""
    found = await _to_change(work, user_id, expect)
    return await _changed(work, found.with_preferences(change(found.preferences)))


async def revise(work: Work, user_id: UserId, expect: Expect, change: Callable[[User], User]) -> User:
    """Change profile and preferences together, parts of the name too, and tell others. Raises what `expect` does."""
    found = await _to_change(work, user_id, expect)
    return await _changed(work, change(found))


async def close_account(work: Work, user_id: UserId, expect: Expect | None = None) -> None:
    """Close an account: its personal data is erased, and others are told to erase theirs. Again changes nothing."""
    account = await storage.to_change(work, user_id)
    if isinstance(account, Closed):
        return
    found = _open(account, user_id)
    if expect is not None:
        expect(found.version)
    closed = found.closed()
    await storage.close(work, closed)
    work.publish(user_changed(closed))


async def announce(work: Work, after: UserId | None, limit: int) -> tuple[int, UserId | None]:
    """Publish accounts again as they are, closed ones too; return how many, and after whom the next ones begin."""
    accounts = await storage.accounts_after(work, after, limit)
    for account in accounts:
        work.publish(user_changed(account))
    return len(accounts), accounts[-1].id if len(accounts) == limit else None


async def _to_change(work: Work, user_id: UserId, expect: Expect) -> User:
    """Return a user whom nobody else changes until the transaction ends, if this is the version that was meant."""
    found = _open(await storage.to_change(work, user_id), user_id)
    expect(found.version)
    return found


async def _changed(work: Work, user: User) -> User:
    stored = await storage.change(work, user)
    work.publish(user_changed(stored))
    return stored


def _open(found: Account | None, user_id: UserId) -> User:
    if not isinstance(found, User):
        raise NotFound(f"there is no user {user_id}")
    return found
