"""The grant: what an invite may give, by the inviter's certificate and within which bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent.jointoken import utc
from agent.labels import problem
from protocol.clock import Now
from protocol.errors import ShoalError
from protocol.records import Certificate, Role

EXPIRES_S: Final = 900  # time to walk to the other device, little for who reads over a shoulder
EXPIRES_S_MAX: Final = 90 * 86_400
ROLES: Final = (Role.COMPUTE, Role.SUBMIT)  # DESIGN 4: what an invited peer gets
USES_MAX: Final = 1000
LABELS_MAX: Final = 32
LABEL_LENGTH_MAX: Final = 256


class InviteError(ShoalError):
    """An invite cannot be made; a sentence for a person."""


def require_admit(certificate: Certificate, now: Now) -> None:
    """Raise InviteError unless this member may let others in at present."""
    if not certificate.holds(Role.ADMIT):
        raise InviteError(
            "this device may not admit others: make the invite on one that holds `admit`, or "
            "give this one the role from the backup of the shoal's root key"
        )
    if now.wall_trusted and now.wall_ms >= certificate.expires_ms:
        raise InviteError(
            f"the certificate of this device expired on {utc(certificate.expires_ms)}"
        )


def check_roles(roles: Sequence[str], certificate: Certificate) -> None:
    """Raise InviteError unless the holder of `certificate` can give all of `roles`."""
    if not roles:
        raise InviteError("an invite needs a role: " + ", ".join(Role))
    for role in roles:
        if role not in tuple(Role):
            raise InviteError(f"there is no role {role!r}: there are " + ", ".join(Role))
        if role == Role.ADMIT:
            # Chains are root, admit key, peer (DESIGN 4): what such a device signed would not hold.
            raise InviteError(
                "only the shoal's root key gives the role `admit`: bring the backup of it to the "
                "device that shall have it"
            )
        if role not in certificate.roles:
            raise InviteError(f"this device does not hold the role {role!r}, so it cannot give it")


def check_bounds(expires_s: int, uses: int, labels: dict[str, str]) -> None:
    """Raise InviteError where a number or a label is out of bounds."""
    if not 1 <= expires_s <= EXPIRES_S_MAX:
        raise InviteError(f"an invite lasts 1 to {EXPIRES_S_MAX} seconds, not {expires_s}")
    if not 1 <= uses <= USES_MAX:
        raise InviteError(f"an invite has 1 to {USES_MAX} uses, not {uses}")
    if len(labels) > LABELS_MAX:
        raise InviteError(f"an invite gives at most {LABELS_MAX} labels")
    if refusal := problem(labels):
        raise InviteError(refusal)
    for text in (*labels.keys(), *labels.values()):
        if len(text) > LABEL_LENGTH_MAX:
            raise InviteError(f"the label {text[:32]!r}... is over {LABEL_LENGTH_MAX} characters")
