"""Exit codes of `shoal`, all of them.

`run`, `job run --wait` and `job wait` end with the exit code of the task: the highest of its slots,
128 + n for a task that signal n ended. The codes from 124 on are those of timeout(1) and of
`docker run`, so that scripts may tell a task's failure from ours.
"""

from __future__ import annotations

from typing import Any, Final

OK: Final = 0
FAILED: Final = 1  # the agent refused, or something is wrong on this device
USAGE: Final = 2  # a wrong command line, job file or configuration: nothing was done
NO_AGENT: Final = 3  # no agent answers, or its socket is not permitted
NOT_FOUND: Final = 4  # no such job, or the name may mean several
TIMED_OUT: Final = 124  # `job wait --timeout` is over; the job goes on
NO_RESULT: Final = 125  # the job ended without an exit code: nobody took it, lost, stopped
LEFT: Final = 130  # interrupted; what was asked for may go on


class CliError(Exception):
    """Ends the command with a sentence and a code."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


def of_job(view: dict[str, Any]) -> int:
    """The exit code for a job that has ended: the worst of its slots.

    Of an ops job every peer was meant: one that gave no exit code has failed, whatever others did.
    """
    bare = [slot.get("exit_code") is None for slot in view["slots"]]
    if view.get("type") == "ops" and any(bare):
        return NO_RESULT
    codes = [slot.get("exit_code") for slot in view["slots"]]
    worst = max((code for code in codes if code), default=0)
    if worst:
        return min(int(worst), 255)
    # What runs until it is stopped has ended well when it was.
    ended = ("stopped", "deleted") if "parts" in view else ("completed",)
    return OK if view["state"] in ended else NO_RESULT
