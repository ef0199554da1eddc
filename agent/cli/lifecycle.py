"""`shoal init`, `invite`, `join` and `up`: how a device comes to belong to a shoal, and lives."""

from __future__ import annotations

import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

from agent.cli import units
from agent.cli.connecting import connect, load_config, refuse_host
from agent.cli.exitcodes import OK, USAGE, CliError
from agent.cli.tables import note, show_json, show_pairs
from agent.printable import clean


def init(args: Namespace) -> int:
    """Start a shoal here and write the backup of its root key."""
    from agent.shoalroot import create_shoal

    refuse_host(args, "init")
    labels = _labels(args.label)
    made = create_shoal(
        load_config(args).config.data_dir,
        args.name,
        _passphrase(args.passphrase_file),
        device=args.device,
        backup=Path(args.backup) if args.backup else None,
        labels=labels,
    )
    if args.json:
        show_json(
            {
                "shoal": made.shoal,
                "name": made.name,
                "peer": made.peer,
                "backup": str(made.backup),
                "passphrase": made.passphrase,
            }
        )
        return OK
    pairs = [("Shoal", f"{made.name} ({made.shoal})"), ("This device", made.peer)]
    pairs += [("Backup", str(made.backup))]
    if made.passphrase:
        pairs += [("Passphrase", made.passphrase)]
    show_pairs(pairs)
    kept = "Copy the backup to another place"
    if made.passphrase:
        kept += ", and write the passphrase down: it is shown this once"
    print(f"\n{kept}. With both, a shoal whose devices are all lost can be had back.")
    print("Next: `shoal up` runs the agent, `shoal invite` lets the next device in.")
    return OK


def invite(args: Namespace) -> int:
    """Make a token; it is printed alone, so that it can be piped."""
    try:
        expires_s = units.parse_duration(args.expires)
    except ValueError as error:
        raise CliError(f"--expires: {error}", USAGE) from None
    roles = [role.strip() for text in args.role for role in text.split(",") if role.strip()]
    with connect(args) as client:
        made = client.invite(expires_s, args.uses, roles, _labels(args.label))
    if args.json:
        show_json(made)
        return OK
    print(clean(made["token"]), flush=True)
    times = "once" if args.uses == 1 else f"{args.uses} times"
    note(f"on the other device: shoal join TOKEN (within {units.duration(expires_s)}, {times})")
    return OK


def join(args: Namespace) -> int:
    """Join over the network. The part that needs it is loaded by name, so that no other command
    pays for it."""
    refuse_host(args, "join")
    data_dir = load_config(args).config.data_dir
    answer: dict[str, str] = import_module("agent.join_command").join_shoal(
        data_dir, args.token, name=args.name, new_identity=args.new_identity
    )
    if args.json:
        show_json(answer)
        return OK
    print(clean(f"joined the shoal {answer['shoal_name']} as {answer['name']} ({answer['peer']})"))
    print("Next: `shoal up` runs the agent.")
    return OK


def up(args: Namespace) -> int:
    """Run the agent until it is told to end."""
    from agent.log import set_up

    refuse_host(args, "up")
    loaded = load_config(args)
    log = loaded.config.log
    set_up(log.format, log.level, watched=sys.stderr.isatty())
    import_module("agent.main").run(loaded, move_to_board=args.adopt_board)
    return OK


def _labels(texts: list[str]) -> dict[str, str]:
    from agent.settings import read_labels

    try:
        return read_labels(texts)
    except ValueError as error:
        raise CliError(f"--label: {error}", USAGE) from None


def _passphrase(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        text = Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"--passphrase-file {file}: {error}", USAGE) from None
    return text.rstrip("\r\n")
