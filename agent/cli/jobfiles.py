"""`shoal job validate|example|schema`: about job files, without an agent."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from agent.cli.exitcodes import OK, USAGE, CliError
from agent.cli.tables import show_json

if TYPE_CHECKING:
    from protocol.job import JobSpec


def validate(args: Namespace) -> int:
    spec = load(args.file)
    if args.json:
        show_json(spec.to_plain())
    else:
        print(f"{args.file}: a valid {spec.type} job, {spec.name!r}")
    return OK


def example(args: Namespace) -> int:
    from agent.jobfile import example as text_of

    text = text_of(args.kind)
    if args.json:
        show_json({"type": args.kind, "text": text})
    else:
        print(text, end="" if text.endswith("\n") else "\n")
    return OK


def schema(args: Namespace) -> int:
    from protocol.schema import job_schema

    show_json(job_schema())
    return OK


def load(file: str) -> JobSpec:
    """Read a job file, `-` being standard input. Raises JobFileError with line and path."""
    from agent.jobfile import FILE_BYTES_MAX, load_job

    try:
        if file == "-":
            return load_job(sys.stdin.buffer.read(FILE_BYTES_MAX + 1))
        with open(file, "rb") as opened:
            return load_job(opened.read(FILE_BYTES_MAX + 1))
    except OSError as error:
        raise CliError(f"{file}: {(error.strerror or str(error)).lower()}", USAGE) from None
