"""Refusals: why a message did not come to be with the broker, in words, and what that concerns."""

from __future__ import annotations

from typing import Final

LOST: Final = "the connection was lost"  # the end of a message that may have arrived or not
LARGER: Final = "larger than the {} bytes that the broker takes"
UNSENDABLE: Final = "it cannot be sent: {}"
_TOPICS: Final = ("not authorized", "topic name invalid")  # reason codes of MQTT 5, 2.4
_MESSAGES: Final = ("packet too large", "payload format invalid")


def concerns_topic(problem: str) -> bool:
    """Whether any other message to that topic would be refused, too."""
    return problem in _TOPICS


def concerns_message(problem: str) -> bool:
    """Whether this message would be refused again, and perhaps no other."""
    begins = tuple(text.partition("{}")[0] for text in (LARGER, UNSENDABLE))
    return problem in _MESSAGES or problem.startswith(begins)
