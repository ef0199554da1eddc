"""`shoal metrics`: what a Prometheus would read of this device."""

from __future__ import annotations

from argparse import Namespace

from agent.cli.connecting import connect
from agent.cli.exitcodes import OK
from agent.cli.tables import show_json
from agent.printable import clean


def metrics(args: Namespace) -> int:
    """As they come; as JSON each series with its value."""
    with connect(args) as client:
        text = client.metrics()
    if not args.json:
        print("\n".join(clean(line) for line in text.splitlines()))
        return OK
    series = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    show_json({name: float(value) for name, _, value in series})
    return OK
