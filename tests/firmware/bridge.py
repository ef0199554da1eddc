"""What the agent makes of a message: the one place to call its own functions from.

Until triggers are merged the libraries that they use are called as they are. Then `value_of` is
`agent.mqtt.payload.value_of`, and `search` is `agent.mqtt.expressions.search`.
"""

from __future__ import annotations

import json
from typing import Any

import cbor2
import jmespath


def value_of(payload: bytes, content_type: str) -> Any:
    """What a template's expressions see of a payload."""
    return cbor2.loads(payload) if content_type == "application/cbor" else json.loads(payload)


def search(expression: str, value: Any) -> Any:
    return jmespath.search(expression, value)
