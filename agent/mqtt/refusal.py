"""Refusals: why a message did not come to be with the broker, in words, and what that concerns."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

LOST: Final = "the connection was lost"  # the end of a message that may have arrived or not
LARGER: Final = "larger than the {} bytes that the broker takes"
UNSENDABLE: Final = "it cannot be sent: {}"
# What connections ended under (agent.mqtt.suspects): its turn is to come, or it was that.
HELD: Final = "connections ended under it, so it goes alone, and after all others"
ENDS: Final = "the broker ends the connection over it"
ENDS_TOPIC: Final = "the broker ends the connection over what is published there"
ENDS_LARGE: Final = "the broker ends the connection over what is as large there"
_TOPICS: Final = ("not authorized", "topic name invalid", ENDS_TOPIC)  # MQTT 5, 2.4; and ours
_MESSAGES: Final = ("packet too large", "payload format invalid", ENDS)
_LATER: Final = ("", LOST, HELD)
_log = logging.getLogger("shoal.mqtt")


def tell(done: Callable[[str], None], problem: str) -> None:
    """Have `done` hear what became of a message. What it raises is logged and goes no further: it
    would end the connection, or all of trio's run (trio.lowlevel.TrioToken.run_sync_soon)."""
    try:
        done(problem)
    except Exception:
        _log.exception("a message's end")


def concerns_topic(problem: str) -> bool:
    """Whether any other message to that topic would be refused, too."""
    return problem in _TOPICS


def concerns_message(problem: str) -> bool:
    """Whether this message would be refused again, and perhaps no other."""
    return problem in _MESSAGES or unsent(problem)


def unsent(problem: str) -> bool:
    """Whether it never left this device."""
    return problem.startswith(tuple(text.partition("{}")[0] for text in (LARGER, UNSENDABLE)))


def refused(problem: str) -> bool:
    """Whether the broker does not take it: it is not just to be sent again."""
    return problem not in _LATER
