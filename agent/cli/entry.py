"""The entry of the command `shoal`: parse, hand over, and end with a sentence and a code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agent.cli import exitcodes

if TYPE_CHECKING:
    from agent.client import AgentError

# What writing to a full disk, over a quota or to a terminal that has gone ends with; write(2).
_UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code."""
    words = sys.argv[1:] if words is None else words
    _take_streams()
    try:
        code = _run(words)
        sys.stdout.flush()  # here, where an error has its sentence
        return code
    except KeyboardInterrupt:
        return exitcodes.LEFT
    except BrokenPipeError:
        _silence_stdout()
        return exitcodes.OK  # whoever read us has enough
    except Exception as error:
        code, text = _explained(error)
        if not text:
            raise
        if isinstance(error, OSError):
            _silence_stdout()
        from agent.printable import clean

        print(f"shoal: {clean(text)}", file=sys.stderr)
        return code


def _take_streams() -> None:
    """Streams that take whatever is printed: also where they are closed (`>&-`), and where the
    terminal's own characters are fewer than ours, which it shows as `?` then."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 -- until the end
        elif stream.encoding.lower() not in ("utf-8", "utf8"):
            stream.reconfigure(errors="replace")


def _run(words: Sequence[str]) -> int:
    if list(words[:1]) == ["_relay"]:  # the far side of --host; not for people, so not in the help
        return _relay(words[1:])
    from agent.cli.parser import build, parse

    args = parse(words)
    handler = getattr(args, "handler", None)
    if handler is None:
        (getattr(args, "parser", None) or build(words)).print_help()
        return exitcodes.USAGE
    from importlib import import_module

    module, _, function = handler.partition(":")
    return int(getattr(import_module(f"agent.cli.{module}"), function)(args))


def _relay(words: Sequence[str]) -> int:
    from argparse import ArgumentParser

    from agent.cli.connecting import socket_path
    from agent.cli.remote import relay

    parser = ArgumentParser(prog="shoal _relay")
    parser.add_argument("--data-dir")
    parser.add_argument("--socket")
    return relay(str(socket_path(parser.parse_args(words))))


def _explained(error: Exception) -> tuple[int, str]:
    """The exit code and the sentence for an error that is no bug; no sentence for a bug."""
    from agent.client import AgentError, Unreachable
    from agent.settings import ConfigError

    if isinstance(error, exitcodes.CliError):
        return error.code, str(error)
    if isinstance(error, Unreachable):
        return exitcodes.NO_AGENT, str(error)
    if isinstance(error, AgentError):
        return code_of(error), str(error)
    if isinstance(error, ConfigError):
        return exitcodes.USAGE, str(error)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
        return exitcodes.FAILED, f"cannot write: {(error.strerror or '').lower()}"
    from protocol.errors import JobSpecError, ShoalError

    if isinstance(error, JobSpecError):
        return exitcodes.USAGE, str(error)
    return exitcodes.FAILED, str(error) if isinstance(error, ShoalError) else ""


def code_of(error: AgentError) -> int:
    """The exit code for what the agent refused."""
    if error.path:
        return exitcodes.USAGE
    known = {400: exitcodes.USAGE, 404: exitcodes.NOT_FOUND}
    return known.get(error.status, exitcodes.FAILED)


def _silence_stdout() -> None:
    """Nothing more can be written; the interpreter would try once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
