"""Errors: who broke a promise decides which one is raised."""

from __future__ import annotations


class ShoalError(Exception):
    """Base of everything Shoal raises on purpose."""


class RemoteProtocolError(ShoalError):
    """A peer sent what no correct peer sends. Counted, dropped; the agent goes on."""


class UnreadableSpec(RemoteProtocolError):
    """A job's spec says what this version cannot read: nobody's fault, and not for this peer."""


class JobSpecError(ShoalError, ValueError):
    """A job file says something that cannot be meant.

    `path` is the field's place as it was written (`Tasks[0].Engine.Type`), `message` what was
    found there and what is allowed.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message
