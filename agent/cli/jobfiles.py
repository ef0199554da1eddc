"""`shoal job validate|example|schema`: about job files, without an agent."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
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


def load(file: str, variables: Sequence[str] | None = None, name: str = "") -> JobSpec:
    """Read a job file, `-` being standard input, its `{{.NAME}}` filled with `variables` (K=V);
    None leaves them as they are. `name` is for one that has none. Raises JobFileError with line
    and path."""
    from agent.jobfile import FILE_BYTES_MAX, filled, load_job

    try:
        if file == "-":
            text = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with open(file, "rb") as opened:
                text = opened.read(FILE_BYTES_MAX + 1)
        done = text if variables is None else filled(text, _pairs(variables))
        return load_job(done, name=name)
    except OSError as error:
        raise CliError(f"{file}: {(error.strerror or str(error)).lower()}", USAGE) from None


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    if wrong := [text for text in texts if "=" not in text or text.startswith("=")]:
        raise CliError(f"-V {wrong[0]}: allowed: NAME=VALUE", USAGE)
    return pairs
