"""Trouble with a broker: why there is no connection, in a sentence, with the way out."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agent.mqtt.settings import BrokerSettings, LoginError

QUIET_S: Final = 600.0  # the same trouble is told again after that at the earliest: a broker flaps


@dataclass(frozen=True, slots=True)
class Trouble:
    kind: str  # what is told once: refused, password, certificate, ...
    text: str
    fix: str


@dataclass(slots=True)
class Told:
    """What was told lately, so that each kind of trouble is told once and not at every try."""

    now: Callable[[], float]
    _at: dict[str, float] = field(default_factory=dict)

    def fresh(self, kind: str) -> bool:
        """Whether this kind is worth telling now; whoever asks tells it."""
        now = self.now()
        if now - self._at.get(kind, -QUIET_S) < QUIET_S:
            return False
        self._at[kind] = now
        return True


class ConnectRefused(Exception):
    """The broker's CONNACK: a reason code of MQTT 5, and its name."""

    def __init__(self, code: int, name: str) -> None:
        super().__init__(name)
        self.code = code


class BehindError(Exception):
    """This device did not take what came in time. What is let go of comes with the next connection
    alone, and is one of the few that a broker has under way."""


class TakenOverError(Exception):
    """The broker has another connection under the same client id (MQTT 5, reason code 142)."""


def explain(error: Exception, name: str, settings: BrokerSettings) -> Trouble:
    """What an attempt to connect came to."""
    at = f"{settings.host}:{settings.port}"
    section = f"[mqtt.brokers.{name}]"
    match error:
        case ConnectRefused():
            return _refused(error, section)
        case TakenOverError():
            return Trouble(
                "taken",
                f"another connection has taken ours to {at} over",
                "is the broker configured under two names, or its client_id another's, too? "
                f"See {section}",
            )
        case LoginError():
            return Trouble("login", str(error), f"see user, password_file, credential in {section}")
        case ssl.SSLCertVerificationError():
            return Trouble(
                "certificate",
                f"the certificate of {at} is not trusted: {error.verify_message}",
                f"ca_file in {section} has to name the authority that signed it; the name in url "
                "has to be one of the certificate's",
            )
        case ssl.SSLError():
            return Trouble(
                "tls",
                f"no TLS with {at}: {error}",
                f"is that port one for TLS? A broker may want cert_file in {section}",
            )
        case socket.gaierror():
            return Trouble(
                "host", f"no device is known as {settings.host}", f"see url in {section}, and DNS"
            )
        case ConnectionRefusedError():
            return Trouble(
                "refused", f"nothing listens at {at}", f"start the broker, or see url in {section}"
            )
        case TimeoutError():
            return Trouble(
                "silent",
                f"{at} does not answer",
                "is the broker reachable, and no firewall before?",
            )
        case OSError():
            text = (error.strerror or str(error) or type(error).__name__).lower()
            file = f"{error.filename}: " if error.filename else f"{at}: "
            return Trouble("system", f"{file}{text}", f"see url and the files in {section}")
        case BehindError():
            fix = "is the processor or the disk busy? See shoal doctor"
            return Trouble("behind", f"{at}: {error}", fix)
        case _:
            return Trouble("lost", f"{at}: {error}", "see the broker's own log")


def _refused(error: ConnectRefused, section: str) -> Trouble:
    match error.code:
        case 134 | 140:
            kind, fix = "password", f"see user, password_file, credential in {section}"
        case 135:
            kind, fix = "authorized", f"does the broker know that user? See {section}"
        case 132 | 1:
            kind, fix = "version", f'set version = "3.1.1" in {section}'
        case 133 | 2:
            kind, fix = "client", f"set client_id in {section}"
        case _:
            kind, fix = f"code{error.code}", "see the broker's own log"
    return Trouble(kind, f"the broker refuses: {str(error).lower()}", fix)
