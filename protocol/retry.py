"""Retry and disconnect: what a job's author wants after a failure, or when contact is lost."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from protocol.jobtype import JobType
from protocol.quantities import format_duration, parse_duration_s
from protocol.tree import Node, Plain

ATTEMPTS_MAX: Final = 100
ATTEMPTS_DEFAULT: Final = 3  # DESIGN 6: peer loss and system faults, up to 3 attempts
BACKOFF_S_DEFAULT: Final = 1  # doubled at every attempt by whoever retries
BACKOFF_S_MAX: Final = 3600
RETRY_FIELDS: Final = ("Attempts", "Backoff", "On")
STOP_AFTER_S_MAX: Final = 366 * 86400

DISCONNECT_FIELDS: Final = ("StopAfter", "Replace")


class RetryOn(StrEnum):
    """Causes for which a slot of a batch job is tried again."""

    LOST = "lost"  # its peer went away or declined
    SYSTEM = "system"  # the device's fault: no input, no space, an engine that failed
    FAILURE = "failure"  # the task's own: an exit code other than zero, its timeout


class RetrySpec(msgspec.Struct, frozen=True, kw_only=True):
    """How often a slot is tried, for what, and the first pause between."""

    attempts: int = ATTEMPTS_DEFAULT  # in all; zero: for ever (standing jobs)
    backoff_s: int = BACKOFF_S_DEFAULT
    on: tuple[RetryOn, ...] = (RetryOn.LOST, RetryOn.SYSTEM)

    @classmethod
    def read(cls, node: Node | None, kind: JobType) -> RetrySpec:
        """Read `Retry`, or give the type's default where there is none.

        A daemon or service is restarted for ever whatever the cause, an ops job never.
        """
        if node is None:
            return cls._default(kind)
        if kind is JobType.OPS:
            node.fail("an ops job starts at most once on a peer; leave Retry out")
        fields = node.fields(*RETRY_FIELDS)
        backoff = fields.read("Backoff", _read_backoff_s, BACKOFF_S_DEFAULT)
        if kind.standing:
            for name in ("Attempts", "On"):
                if at := fields.get(name):
                    at.fail(f"a {kind} is restarted for ever; leave {name} out")
            return cls(attempts=0, backoff_s=backoff, on=tuple(RetryOn))
        attempts = fields.read("Attempts", lambda at: at.integer(1, ATTEMPTS_MAX), ATTEMPTS_DEFAULT)
        on = fields.read("On", _read_on, cls().on)
        return _ONCE if attempts == 1 else cls(attempts=attempts, backoff_s=backoff, on=on)

    @classmethod
    def _default(cls, kind: JobType) -> RetrySpec:
        if kind.standing:
            return cls(attempts=0, on=tuple(RetryOn))
        return _ONCE if kind is JobType.OPS else cls()

    def to_plain(self, kind: JobType) -> dict[str, Plain]:
        """Only what `read` takes back for the type; nothing for ops."""
        if kind is JobType.OPS:
            return {}
        if kind.standing:
            return {"Backoff": self.backoff_s}
        if self.attempts == 1:
            return {"Attempts": 1}
        on: list[Plain] = [cause.value for cause in self.on]
        return {"Attempts": self.attempts, "Backoff": self.backoff_s, "On": on}


_ONCE: Final = RetrySpec(attempts=1, backoff_s=0, on=())  # never retried: nothing else to say


class Disconnect(msgspec.Struct, frozen=True, kw_only=True):
    """What an execution and its coordinator do when they lose each other (DESIGN 5, the lease)."""

    stop_after_s: int | None = None  # the executor stops the task then; None: it runs on
    replace: bool = True  # the coordinator places the slot elsewhere once its lease has ended

    @classmethod
    def read(cls, node: Node, kind: JobType) -> Disconnect:
        fields = node.fields(*DISCONNECT_FIELDS)
        replace = fields.get("Replace")
        if replace is not None and not kind.counted:
            replace.fail(f"every peer runs its own part of {kind.noun}; leave Replace out")
        return cls(
            stop_after_s=fields.read("StopAfter", _read_stop_after_s, None),
            replace=replace.flag() if replace else True,
        )

    def to_plain(self) -> dict[str, Plain]:
        tree: dict[str, Plain] = {}
        if self.stop_after_s is not None:
            tree["StopAfter"] = self.stop_after_s
        if not self.replace:
            tree["Replace"] = False
        return tree


def _read_on(node: Node) -> tuple[RetryOn, ...]:
    named = {item.choice(tuple(RetryOn), "a cause") for item in node.items(len(RetryOn))}
    if not named:
        node.fail(f"names no cause; allowed: {', '.join(RetryOn)}; for no retry: Attempts: 1")
    return tuple(cause for cause in RetryOn if cause in named)


def _read_backoff_s(node: Node) -> int:
    return node.quantity(parse_duration_s, 0, BACKOFF_S_MAX, format_duration)


def _read_stop_after_s(node: Node) -> int | None:
    return node.quantity(parse_duration_s, 1, STOP_AFTER_S_MAX, format_duration)
