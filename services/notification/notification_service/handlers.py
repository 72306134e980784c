"""What notification does when it is asked to send a mail, and when a user has changed.

**Mail is at least once.** A mail server knows no idempotency key: when the process dies between its answer and our
commit, or the answer is lost, the mail is handed over again and may arrive twice. What can be done is done: a mail
that is known to be sent is not sent again, and every attempt has one Message-ID, by which a reader can tell them.

**A user who is unknown here** may be new: their event and the command come in two streams, and after an outage either
may be first. So the mail waits for the address, some seconds, and is then skipped with a reason. To skip it at once
would lose mails after each outage; to wait for ever would keep a saga open for a mistyped id. Meanwhile the command is
tried again with growing pauses, as for a mail server that does not answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from covey.errors import DependencyUnavailable, NotFound
from covey.message import Reply
from covey.messaging.router import ExternalEffect, Router
from covey.work.unit_of_work import Work
from notification_service import domain, storage
from notification_service.domain import Letter, Mail, Recipient, Status
from notification_service.messages import SendConfirmation, UserChanged
from notification_service.ports import Accepted, Mailer, Rejected


def notifications(mailer: Mailer, patience: timedelta) -> Router:
    """Return the router that keeps users and sends mail. It waits with `patience` for an address."""
    router = Router()
    router.on(UserChanged)(keep_user)
    confirm: ExternalEffect[SendConfirmation, Letter | Unaddressed, Accepted | Rejected] = Confirm(mailer, patience)
    router.external(SendConfirmation, confirm)
    return router


async def keep_user(event: UserChanged, work: Work) -> None:
    """Keep the user if they are newer than what is known; of a closed account only that it was one."""
    locale = event.locale or "en"
    storage.keep_recipient(work, Recipient(event.user_id, event.version, event.email, locale, event.wants_order_mail))


@dataclass(frozen=True, slots=True)
class Unaddressed:
    """A mail of which it is not known yet where it should go."""


class Confirm:
    """Send the confirmation of an order, if its user wants it. Done, also when there is nothing to send.

    What the user wants is asked anew for each attempt: who closes the account while the mail server is down gets none.
    """

    def __init__(self, mailer: Mailer, patience: timedelta) -> None:
        self._mailer = mailer
        self._patience = patience

    async def intend(self, command: SendConfirmation, work: Work) -> Letter | Unaddressed | Reply:
        """Write down that the mail is about to be sent, or why it never will be.

        Its id is the saga's, so to say, and not the command's: it is the same for a command that is sent anew, too.
        """
        asked = Mail(domain.mail_id(command.saga_id), command.order_id, command.user_id, command.total)
        found, age, recipient = await storage.asked_for(work, asked)
        mail = domain.proceed(found, recipient, patient=age < self._patience)
        if mail != found:
            storage.keep(work, mail)
        return _intent(mail, recipient)

    async def call(self, command: SendConfirmation, intent: Letter | Unaddressed, key: str) -> Accepted | Rejected:
        """Hand the mail to the mail server."""
        if isinstance(intent, Unaddressed):
            raise DependencyUnavailable("nothing is known of this user yet; the mail waits for an address")
        return await self._mailer.send(intent)

    async def settle(self, command: SendConfirmation, result: Accepted | Rejected, work: Work) -> Reply:
        """Record what has become of the mail."""
        mail = await storage.mail_to_change(work, domain.mail_id(command.saga_id))
        if mail is None:
            raise NotFound(f"the mail about order {command.order_id} is gone")
        settled = domain.sent(mail) if isinstance(result, Accepted) else domain.refused(mail, result.reason)
        storage.keep(work, settled)
        return Reply()


def _intent(mail: Mail, recipient: Recipient | None) -> Letter | Unaddressed | Reply:
    if mail.status is Status.WAITING:
        return Unaddressed()
    if mail.status is Status.SENDING and recipient is not None and recipient.address is not None:
        return domain.confirmation(mail, recipient.address, recipient.locale)
    return Reply()
