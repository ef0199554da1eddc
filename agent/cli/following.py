"""Following a job from the terminal: its progress and output, its end, and what Ctrl-C means.

The stream is read in a thread of its own, so that an interrupt never falls into the middle of an
answer: after the question the stream goes on where it was.
"""

from __future__ import annotations

import queue
import select
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from agent.cli import exitcodes, units
from agent.cli.exitcodes import CliError
from agent.cli.missing import Missing
from agent.cli.progress import Progress
from agent.cli.tables import note, show_json_line
from agent.client import Client, Unreachable, log_bytes
from agent.printable import clean

LINE_BYTES_MAX: Final = 64 * 1024  # a longer line is broken rather than kept
END_S: Final = 2.0
# A signal that falls just before a wait begins does not end the wait, only the next one: so waits
# are short, and Ctrl-C is heeded after this long at most.
HEED_S: Final = 0.25
FAILURES_MAX: Final = 8  # told one by one
# Of the events of a job on many devices those that are not of one of them.
_OF_ALL: Final = ("job.taken-over", "job.handed-over", "job.listed", "job.updated", "feed.dropped")
WAITING_MAX: Final = 256  # lines read ahead of what the terminal takes


class Following:
    """One job, from its submission or from now on, to its end."""

    def __init__(
        self,
        client: Client,
        lines: Iterator[dict[str, Any]],
        slots: int,
        *,
        quiet: bool,
        json: bool,
        by_peer: bool = False,
        prints_id: bool = False,
    ) -> None:
        self.job = ""
        self.name = ""
        self._client = client
        self._lines = _Reader(lines)
        self._json = json
        self._output = Output(slots, by_peer)
        self._missing = Missing(at_once=True)
        self._by_peer = by_peer
        self._prints_id = prints_id and not json
        self._progress = Progress(sys.stderr, quiet or json)

    def to_end(self, timeout_s: float | None = None) -> int:
        """Show what happens until the job has ended. Returns the exit code for it."""
        while True:
            try:
                line = self._lines.get(timeout_s)
                if line is None:
                    raise CliError(self._broken_off(), exitcodes.NO_AGENT)
                if (final := self._take(line)) is not None:
                    return self._end(final)
            except KeyboardInterrupt:
                self._progress.clear()
                if not self._interrupted():
                    return exitcodes.LEFT
            except Unreachable as error:
                self._progress.clear()
                if not self.job:
                    raise
                raise CliError(f"{error}; {self._goes_on()}", exitcodes.NO_AGENT) from None
            except queue.Empty:
                note(f"not waiting any longer; {self._goes_on()}")
                return exitcodes.TIMED_OUT

    def _take(self, line: dict[str, Any]) -> dict[str, Any] | None:
        """Show one line; the job's view where it was the last."""
        if self._json:
            show_json_line(line)
        final: dict[str, Any] | None = line.get("final")
        if accepted := line.get("submitted"):
            self.job, self.name = accepted["job"], accepted["name"]
            if self._prints_id:
                print(self.job, flush=True)
            if accepted.get("warning"):
                self._progress.warn(accepted["warning"])
        elif event := line.get("event"):
            if not self._by_peer or event["kind"] in _OF_ALL:
                self._progress.event(event)
        elif log := line.get("log"):
            self._progress.clear()
            if not self._json:
                self._output.write(log)
            self._missing.take(log)
        elif text := line.get("log_error"):
            self._progress.clear()
            note(f"its output cannot be read: {text}")
        return final

    def _end(self, final: dict[str, Any]) -> int:
        self._output.flush()
        self._lines.join()
        code = exitcodes.of_job(final)
        # Where no task gave that code nothing else says why, and who is quiet wants to know, too.
        self._progress.end(summary(final), code == exitcodes.NO_RESULT and not self._json)
        return code

    def _interrupted(self) -> bool:
        """Ask what is to become of the job; whether to go on following it."""
        if not self.job or not (sys.stdin.isatty() and sys.stderr.isatty()):
            note(self._goes_on() if self.job else "interrupted")
            return False
        try:
            print(
                "\nstop the job, or leave it running? [s/L] ", end="", file=sys.stderr, flush=True
            )
            if _answer().strip().lower() not in ("s", "stop"):
                note(self._goes_on())
                return False
            self._client.stop(self.job)
        except KeyboardInterrupt:
            print(file=sys.stderr)
            note(self._goes_on())
            return False
        return True

    def _goes_on(self) -> str:
        short = units.short_job(self.job)
        return f"the job goes on: `shoal logs -f {short}` shows it, `shoal stop {short}` ends it"

    def _broken_off(self) -> str:
        return f"the agent stopped telling of it; {self._goes_on()}" if self.job else "no answer"


class Output:
    """Output of tasks: as it is where there is one slot, else in whole lines with the slot, or
    with the peer's name."""

    def __init__(self, slots: int, by_peer: bool = False) -> None:
        self._prefixed = slots > 1 or by_peer
        self._by_peer = by_peer
        self._begun: dict[tuple[bytes, str], bytes] = {}

    def write(self, log: dict[str, Any]) -> None:
        stream = "stderr" if log["stream"] == "stderr" else "stdout"
        data = log_bytes(log)
        if not self._prefixed:
            _write(stream, data)
            return
        key = (self._prefix(log), stream)
        *lines, rest = (self._begun.get(key, b"") + data).split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            lines, rest = [*lines, rest], b""
        self._begun[key] = rest
        if lines:
            _write(stream, b"".join(b"%s %s\n" % (key[0], line) for line in lines))

    def flush(self) -> None:
        """Write what was begun and never ended."""
        for (prefix, stream), rest in self._begun.items():
            if rest:
                _write(stream, b"%s %s\n" % (prefix, rest))
        self._begun.clear()

    def _prefix(self, log: dict[str, Any]) -> bytes:
        if not self._by_peer:
            return b"[%d]" % int(log["slot"])
        return f"{clean(units.named(log['peer_name'], log['peer']))}:".encode()


def summary(view: dict[str, Any]) -> str:
    """How a job ended, in a sentence."""
    slots = view["slots"]
    if view["type"] == "ops" and "parts" not in view:  # a schedule of such jobs has no list
        return clean(_of_each(view))
    where = dict.fromkeys(
        units.named(slot.get("executor_name", ""), slot.get("executor", "") or "nobody")
        for slot in slots
        if slot.get("executor")
    )
    on = f" on {', '.join(list(where)[:4])}" + (" and others" if len(where) > 4 else "")
    on = on if where else ""
    code = exitcodes.of_job(view)
    reason = f": {view['reason']}" if view.get("reason") else ""
    if f"exit code {code}" in reason:
        reason = ""  # said once
    match view["state"]:
        case "completed":
            return clean(f"done{on}")
        case "stopped" | "deleted":
            return clean(f"{view['state']}{reason}")
        case _ if code == exitcodes.NO_RESULT:
            return clean(f"failed{reason or ' without an exit code'}; `shoal why {view['id'][:8]}`")
        case _:
            said = f" with exit code {code}{reason.removesuffix(on)}"
            return clean(f"failed{on}{said}")


def _of_each(view: dict[str, Any]) -> str:
    """How an ops job ended: on how many devices, and on which not."""
    slots = view["slots"]
    failed = [slot for slot in slots if slot["state"] != "completed"]
    if not failed:
        return f"done on {units.plural(len(slots), 'device')}"
    texts = [_failure(slot) for slot in failed[:FAILURES_MAX]]
    more = len(failed) - len(texts)
    told = "; ".join(texts) + (f"; and {more} more" if more else "")
    short = units.short_job(view["id"])
    return f"{len(failed)} of {len(slots)} not done: {told}; `shoal job describe {short}`"


def _failure(slot: dict[str, Any]) -> str:
    name = units.named(slot["executor_name"], slot["executor"])
    reason = f": {slot['reason']}" if slot.get("reason") else ""
    if slot["exit_code"] is not None:
        return f"{name} {slot['state']} with exit code {slot['exit_code']}"
    return f"{name} {slot['state']}{reason}"


class _Reader:
    """Reads a stream ahead, in a thread; `get` may be interrupted and asked again."""

    def __init__(self, lines: Iterator[dict[str, Any]]) -> None:
        self._lines = lines
        self._queue: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue(WAITING_MAX)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def get(self, timeout_s: float | None) -> dict[str, Any] | None:
        """The next line; None at the end. Raises queue.Empty, and what the stream raised."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = HEED_S if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                line = self._queue.get(timeout=min(left_s, HEED_S))
            except queue.Empty:
                if left_s > HEED_S or deadline is None:
                    continue
                raise
            if isinstance(line, BaseException):
                raise line
            return line

    def join(self) -> None:
        """Wait for the end of a stream whose last line was read; it is on its way."""
        self._thread.join(END_S)

    def _read(self) -> None:
        try:
            for line in self._lines:
                self._queue.put(line)
            self._queue.put(None)
        except BaseException as error:
            self._queue.put(error)


def _answer() -> str:
    """A line from the terminal. Raises KeyboardInterrupt."""
    while not select.select([sys.stdin], [], [], HEED_S)[0]:
        pass
    return sys.stdin.readline()


def _write(stream: str, data: bytes) -> None:
    """Bytes as the task wrote them. Where text was put in its place (tests), as text."""
    out = sys.stdout if stream == "stdout" else sys.stderr
    raw: BinaryIO | None = getattr(out, "buffer", None)
    if raw is None:
        out.write(data.decode(errors="replace"))
    else:
        out.flush()
        raw.write(data)
    out.flush()
