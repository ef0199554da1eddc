"""`shoal label`: what this device is, for the constraints of jobs; found, given and set live."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import OK, USAGE, CliError
from agent.cli.tables import note, show_json, show_table


def label(args: Namespace) -> int:
    """Set and unset, or show where neither is asked for."""
    given = _pairs(args.pairs)
    if not given and not args.unset:
        return list_labels(args)
    return _change(args, given, args.unset)


def set_labels(args: Namespace) -> int:
    return _change(args, _pairs(args.pairs), [])


def unset(args: Namespace) -> int:
    return _change(args, {}, args.names)


def list_labels(args: Namespace) -> int:
    with connect(args) as client:
        found = client.labels()
    _show(args, found)
    return OK


def _change(args: Namespace, given: dict[str, str], taken: list[str]) -> int:
    both = sorted(given.keys() & set(taken))
    if both:
        raise CliError(f"{both[0]} is both set and unset", USAGE)
    with connect(args) as client:
        found = client.label(given, taken)
    if args.json:
        _show(args, found)
    else:
        changed = len(given) + len(set(taken))
        note(f"{units.plural(changed, 'label')} changed, and the others are told")
    return OK


def _show(args: Namespace, found: list[dict[str, Any]]) -> None:
    if args.json:
        show_json({"labels": found})
    else:
        rows = [(each["name"], each["value"], each["source"]) for each in found]
        show_table(("LABEL", "VALUE", "FROM"), rows)


def _pairs(texts: list[str]) -> dict[str, str]:
    """A value may hold commas, so each text is one pair."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise CliError(f"{text!r}: allowed: name=value, a space between several", USAGE)
        if pairs.get(name, value) != value:
            raise CliError(f"{name} is given twice", USAGE)
        pairs[name] = value
    return pairs
