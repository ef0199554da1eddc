"""The interpreter: JMESPath's, with a bound on its steps.

It runs in the agent's loop, on messages of whoever may publish: a few hundred characters of
expression could otherwise hold up all else for minutes.
"""

from __future__ import annotations

from typing import Any, Final

from jmespath.functions import Functions
from jmespath.visitor import TreeInterpreter

STEPS_MAX: Final = 50_000  # some 50 to 100 ms on a small server (measured)
TEXT_STEP: Final = 16  # characters of a text that count as a step, where all of it is gone through
_EQUALITY: Final = ("eq", "ne")


class TooLongError(Exception):
    """The expression takes too many steps on this value."""


class Interpreter(TreeInterpreter):
    """For one evaluation. A step is a part of the expression looked at, or an item that is gone
    through at once; what is made counts, too, so that no value can grow beyond the bound.

    Raises TooLongError.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls = Functions()
        self._left = STEPS_MAX
        self._methods: dict[str, Any] = {}

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise TooLongError(f"it takes more than {STEPS_MAX} steps on this message")

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        """As jmespath has it, without a call in between: this is most of the time."""
        self._left -= 1
        if self._left < 0:
            self._spend(0)
        kind = node["type"]
        method = self._methods.get(kind)
        if method is None:
            method = self._methods[kind] = getattr(self, f"visit_{kind}", self.default_visit)
        return method(node, *args, **kwargs)

    def visit_flatten(self, node: Any, value: Any) -> Any:
        flat = super().visit_flatten(node, value)
        self._spend(len(flat or ()))
        return flat

    def visit_slice(self, node: Any, value: Any) -> Any:
        found = super().visit_slice(node, value)
        self._spend(len(found or ()))
        return found

    def visit_comparator(self, node: Any, value: Any) -> Any:
        """Lists and objects are compared with all that they hold. What has no order is neither more
        nor less but null, as the specification has it; jmespath does so too, but for a text and a
        number, of which it lets Python raise TypeError."""
        left, right = (self.visit(child, value) for child in node["children"])
        if node["value"] in _EQUALITY:
            if isinstance(left, list | dict) and isinstance(right, list | dict):
                self._go_through(left)
        elif not _have_order(left, right):
            return None
        return self.COMPARATOR_FUNC[node["value"]](left, right)

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        arguments = [self.visit(child, value) for child in node["children"]]
        for argument in arguments:
            self._go_through(argument)
        made = self._calls.call_function(node["value"], arguments)
        if isinstance(made, str):
            self._spend(len(made) // TEXT_STEP)
        return made

    def _go_through(self, value: Any) -> None:
        """Count a value with all that it holds, and no further than there are steps left."""
        todo = [value]
        while todo:
            each = todo.pop()
            if isinstance(each, str):
                self._spend(1 + len(each) // TEXT_STEP)
            elif isinstance(each, list):
                self._spend(1 + len(each))
                todo += each
            elif isinstance(each, dict):
                self._spend(1 + 2 * len(each))
                todo += each.values()


def _have_order(left: Any, right: Any) -> bool:
    """Two numbers, of which true and false are none, or two texts: dates, say."""
    if isinstance(left, str) or isinstance(right, str):
        return isinstance(left, str) and isinstance(right, str)
    return all(isinstance(e, int | float) and not isinstance(e, bool) for e in (left, right))
