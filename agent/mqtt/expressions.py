"""Expressions: JMESPath over payloads, held to what cannot grow beyond the payload by much.

A template comes from any member, and what it costs is paid by whoever hears its messages: an
expression of a kilobyte could otherwise make gigabytes of one message.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions

from agent.mqtt.interpreter import Interpreter, TooLongError
from protocol.errors import JobSpecError
from protocol.job import JobSpec

NODES_MAX: Final = 200
FUNCTIONS_MAX: Final = 8  # to_string of a to_string doubles every backslash
SELECTS_MAX: Final = 1  # [@, @] doubles what it is given, and the next one that
QUOTE_CHARS_MAX: Final = 300
_SELECTS: Final = ("multi_select_list", "multi_select_dict")
_JOIN: Final = "join"  # of a long glue and many short words
Value = dict[str, Any]


class ExpressionError(Exception):
    """It cannot be used, or not on this value; a sentence."""


def search(text: str, value: Any) -> Any:
    """What the expression gives of a value. Raises ExpressionError."""
    try:
        return Interpreter().visit(parsed(text).parsed, value)
    except TooLongError as error:
        raise ExpressionError(str(error)) from None
    except JMESPathError as error:
        raise ExpressionError(_first_line(error)) from None
    except RecursionError:
        raise ExpressionError("the value is nested too deep") from None
    except (ArithmeticError, TypeError, ValueError, LookupError) as error:
        raise ExpressionError(f"it cannot be evaluated: {str(error)[:QUOTE_CHARS_MAX]}") from None


def is_true(value: Any) -> bool:
    """As JMESPath has it: not null, false, nor an empty text, list or object; a zero is true."""
    return value is not None and value is not False and value not in ("", [], {})


def name_of(value: Any) -> str:
    """What a Dedup.Key gave as text; empty where it gave nothing."""
    if value is None or value == "":
        return ""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise ExpressionError("it gives no text, number or object of those") from None


@functools.lru_cache(maxsize=256)
def parsed(text: str) -> Any:
    """Read an expression. Raises ExpressionError."""
    try:
        expression = jmespath.compile(text)
    except JMESPathError as error:
        raise ExpressionError(f"no JMESPath: {_first_line(error)}") from None
    except RecursionError:
        raise ExpressionError("it is nested too deep") from None
    except (ValueError, LookupError) as error:  # of a literal
        raise ExpressionError(f"no JMESPath: {error}") from None
    nodes = list(_nodes(expression.parsed))
    kinds = [str(node["type"]) for node in nodes]
    calls = [node for node in nodes if node["type"] == "function_expression"]
    functions = [str(node["value"]) for node in calls]
    selects = sum(kinds.count(kind) for kind in _SELECTS)
    if len(nodes) > NODES_MAX or len(functions) > FUNCTIONS_MAX or selects > SELECTS_MAX:
        raise ExpressionError(
            f"too much for a message; allowed: {NODES_MAX} parts, {FUNCTIONS_MAX} functions and "
            f"{SELECTS_MAX} list or object in brackets"
        )
    if _JOIN in functions:
        raise ExpressionError("join() is not allowed here")
    for call in calls:
        _check_call(call)
    return expression


def check_trigger(spec: JobSpec) -> None:
    """Whether the expressions of a template's trigger can be used. Raises JobSpecError."""
    if spec.trigger is None:
        return
    mqtt = spec.trigger.mqtt
    for path, text in (("When", mqtt.when), ("Dedup.Key", mqtt.key)):
        try:
            if text:
                parsed(text)
        except ExpressionError as error:
            raise JobSpecError(f"Trigger.Mqtt.{path}", str(error)) from None


def _nodes(tree: Any) -> Iterator[Value]:
    """All parts of a parsed expression; iterative, for one may be nested deep."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        todo += [child for child in node["children"] if isinstance(child, dict)]


def _check_call(node: Value) -> None:
    """Raises ExpressionError for one that no value could be right for."""
    name, given = str(node["value"]), len(node["children"])
    if name not in Functions.FUNCTION_TABLE:
        raise ExpressionError(f"there is no function {name}()")
    signature = Functions.FUNCTION_TABLE[name]["signature"]
    wanted, more = len(signature), bool(signature[-1].get("variadic"))
    if given < wanted or (given > wanted and not more):
        takes = f"{wanted} or more" if more else f"{wanted}"
        raise ExpressionError(f"{name}() takes {takes} in its parentheses, not {given}")


def _first_line(error: Exception) -> str:
    """It may quote a whole message."""
    text = str(error)[:QUOTE_CHARS_MAX]
    return (text.splitlines() or [type(error).__name__])[0]
