"""What the agent makes of a message: the one place to call its own functions from."""

from __future__ import annotations

from agent.mqtt.expressions import search
from agent.mqtt.payload import value_of

__all__ = ["search", "value_of"]
