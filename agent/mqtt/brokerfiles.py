"""Broker files: passwords and certificates that brokers' settings name, as the doctor sees them.

A task that can read the password may publish all that the agent may; a certificate that is over
ends the connection on a day that nobody thinks of.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from agent.control.backend import View
from agent.devicechecks import check
from agent.jointoken import utc
from agent.mqtt.settings import BrokerSettings

EXPIRES_SOON_DAYS: Final = 30  # most are renewed by a program, some days before
BYTES_MAX: Final = 1 << 20  # of a file of certificates
DAY_MS: Final = 86_400_000


def file_checks(name: str, settings: BrokerSettings, now_ms: int | None) -> list[View]:
    """Of one broker; nothing to say where all is well. `now_ms`: None where the time is not known.
    A file that is missing or none is told of by the connection that fails over it."""
    found = []
    for secret in _secrets(settings):
        if _open_to_others(secret):
            text = f"tasks and others can read {secret}, and be at that broker what this device is"
            fix = (
                f"sudo chown shoal: {secret}; sudo chmod 600 {secret} (of the service; else yours)"
            )
            found.append(check(f"broker {name} file", None, text, fix))
    if now_ms is None:
        return found
    for key, path in (("cert_file", settings.cert_file), ("ca_file", settings.ca_file)):
        until_ms = _good_until_ms(Path(path).expanduser(), key) if path else None
        if until_ms is None or until_ms - now_ms >= EXPIRES_SOON_DAYS * DAY_MS:
            continue
        over = until_ms < now_ms
        text = f"{key} {path} {'is over since' if over else 'is good until'} {utc(until_ms)}"
        fix = "put a newer one there; it is read at the next connection"
        found.append(check(f"broker {name} {key}", False if over else None, text, fix))
    return found


def _secrets(settings: BrokerSettings) -> list[Path]:
    named = (settings.password_file, settings.key_file or settings.cert_file)
    return [Path(path).expanduser() for path in named if path]


def _open_to_others(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return readable_by_others(status.st_mode, status.st_gid, os.getegid())


def readable_by_others(mode: int, group: int, own: int) -> bool:
    """Of groups the agent's own and root's are none that tasks are in."""
    return bool(mode & 0o004 or (mode & 0o040 and group not in (0, own)))


def _good_until_ms(path: Path, key: str) -> int | None:
    """Of the device's own certificate the first there; of authorities the last to go. None where
    that cannot be told."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        with path.open("rb") as file:
            found = load_pem_x509_certificates(file.read(BYTES_MAX))
    except (OSError, ValueError):
        return None
    ends = [each.not_valid_after_utc.timestamp() for each in found]
    if not ends:
        return None
    return int((ends[0] if key == "cert_file" else max(ends)) * 1000)
