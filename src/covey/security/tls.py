"""How services are sure of each other on the way: mutual TLS (RFC 8446), or no encryption, on this machine alone.

Each end shows a certificate, and believes one that an authority of the system has signed. What goes in plaintext can be
read and changed by whoever is on the way, tokens and all, so only loopback is trusted without: a service that would
listen for gRPC or call over it beyond that does not start, unless it is told that something else, a mesh say, encrypts
there. HTTP is plaintext: what encrypts it stands in front of the service.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from covey.errors import ConfigurationError
from covey.settings import ServiceSettings


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a process is, and whom it believes; all of it PEM. Read it with `Identity.read`."""

    certificate: bytes
    key: bytes = field(repr=False)
    authorities: bytes

    @classmethod
    def read(cls, certificate: Path, key: Path, authorities: Path) -> Identity:
        """Return what these files hold: a chain, the leaf first, its key without a passphrase, and who signs others.

        Raises ConfigurationError for files that cannot be read, are something else, or do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate, key, _no_passphrase)
            context.load_verify_locations(authorities)
            return cls(certificate=certificate.read_bytes(), key=key.read_bytes(), authorities=authorities.read_bytes())
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise ConfigurationError(
                f"{certificate}, {key} and {authorities} make no identity for TLS: {error}. They are PEM: a"
                " certificate, the key that belongs to it, without a passphrase, and the authorities that sign others'"
            ) from None


@dataclass(frozen=True, kw_only=True)
class Encryption:
    """What a process says and asks on its connections. `by_others`: something else encrypts what leaves the machine."""

    identity: Identity | None = None
    by_others: bool = False

    @classmethod
    def of(cls, settings: ServiceSettings) -> Encryption:
        """Return what a service was told, with its files read. Raises ConfigurationError as `Identity.read` does."""
        told = (settings.tls_certificate, settings.tls_key, settings.tls_authorities)
        files = [file for file in told if file is not None]
        if len(files) not in (0, 3):
            raise ConfigurationError("TLS_CERTIFICATE, TLS_KEY and TLS_AUTHORITIES go together: set all three, or none")
        return cls(identity=Identity.read(*files) if files else None, by_others=settings.tls_by_others)

    def towards(self, host: str, what: str) -> Identity | None:
        """Return who to be on connections with `host`, or at it; None says that they are plain.

        Raises ConfigurationError where plaintext would leave this machine, naming `what` would do so.
        """
        if self.identity is None and not self.by_others and not _loopback(host):
            raise ConfigurationError(
                f"{what} would be in plaintext, which whoever is on the way can read and change: set TLS_CERTIFICATE,"
                " TLS_KEY and TLS_AUTHORITIES; or TLS_BY_OTHERS=true, where a mesh encrypts between machines"
            )
        return self.identity


LOCAL = Encryption()
"""None, and so on this machine only."""


def _no_passphrase() -> str:
    """Have a key that wants a passphrase refused; without this OpenSSL asks for one at the terminal."""
    raise ValueError("the key has a passphrase")


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
