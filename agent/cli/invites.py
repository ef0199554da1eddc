"""`shoal invite` and `shoal invites`: tokens for other devices, and those that are still good."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import OK, USAGE, CliError
from agent.cli.lifecycle import labels_of
from agent.cli.tables import note, show_json, show_table
from agent.printable import clean


def invite(args: Namespace) -> int:
    """Make a token; it is printed alone, so that it can be piped."""
    try:
        expires_s = units.parse_duration(args.expires)
    except ValueError as error:
        raise CliError(f"--expires: {error}", USAGE) from None
    roles = [role.strip() for text in args.role for role in text.split(",") if role.strip()]
    with connect(args) as client:
        made = client.invite(expires_s, args.uses, roles, labels_of(args.label))
    if args.json:
        show_json(made)
        return OK
    print(clean(made["token"]), flush=True)
    times = "once" if args.uses == 1 else f"{args.uses} times"
    note(f"on the other device: shoal join TOKEN (within {units.duration(expires_s)}, {times})")
    return OK


def invites(args: Namespace) -> int:
    """Those made here that still admit somebody; or withdraw one of them."""
    if args.withdraw == "":
        raise CliError("--withdraw: which one? `shoal invites` lists them", USAGE)
    with connect(args) as client:
        if args.withdraw is not None:
            gone = client.withdraw_invite(args.withdraw)
            if args.json:
                show_json(gone)
            else:
                print(clean(f"withdrew the invite {gone['id']}: its token admits nobody more"))
            return OK
        found = client.invites()
    if args.json:
        show_json({"invites": found})
        return OK
    show_table(("INVITE", "USED", "ROLES", "LABELS", "EXPIRES"), [_row(each) for each in found])
    return OK


def _row(invite: dict[str, Any]) -> list[str]:
    labels = ",".join(f"{key}={value}" for key, value in sorted(invite["labels"].items()))
    used = f"{invite['used']}/{invite['uses']}"
    expires = f"in {units.duration(invite['expires_in_s'])}"
    return [invite["id"][:12], used, ",".join(invite["roles"]), labels or "-", expires]
