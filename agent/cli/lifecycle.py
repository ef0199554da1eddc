"""`shoal init`, `recover`, `join` and `up`: how a device comes to belong to a shoal, and lives."""

from __future__ import annotations

import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

from agent.cli.connecting import load_config, refuse_host
from agent.cli.exitcodes import OK, USAGE, CliError
from agent.cli.tables import show_json, show_pairs
from agent.printable import clean


def init(args: Namespace) -> int:
    """Start a shoal here and write the backup of its root key."""
    from agent.shoalroot import create_shoal

    refuse_host(args, "init")
    labels = labels_of(args.label)
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
    print(f"\n{kept}.\nWith both, `shoal recover BACKUP` lets any device take this one's place.")
    print("Next: `shoal up` runs the agent, `shoal invite` lets the next device in.")
    return OK


def recover(args: Namespace) -> int:
    """Make this device a member with every role, by the backup of the root key."""
    from agent.membership import load_member
    from agent.shoalroot import recover_member

    refuse_host(args, "recover")
    data_dir = load_config(args).config.data_dir
    secret = _passphrase(args.passphrase_file)
    secret = _ask_passphrase(args.backup) if secret is None else secret
    recover_member(data_dir, Path(args.backup), secret, device=args.device)
    member = load_member(data_dir)
    shoal, name, peer = member.membership, member.certificate.name, member.keyring.peer
    if args.json:
        told = {"shoal": shoal.shoal, "shoal_name": shoal.shoal_name, "name": name, "peer": peer}
        show_json(told)
        return OK
    print(clean(f"{name} ({peer}) is a member of the shoal {shoal.shoal_name} with every role"))
    print("Next: `shoal up` runs the agent; restart one that runs already.")
    print("Where it does not find the others by itself, give it an address of one: --bootstrap.")
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


def labels_of(texts: list[str]) -> dict[str, str]:
    """What `--label` was given."""
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


def _ask_passphrase(backup: str) -> str:
    from getpass import getpass

    if not Path(backup).is_file():
        raise CliError(f"{backup} is no file", USAGE)
    if not sys.stdin.isatty():
        raise CliError("give the backup's passphrase with --passphrase-file FILE", USAGE)
    try:
        return getpass(f"Passphrase of {backup}: ")
    except EOFError:
        raise CliError("no passphrase was given", USAGE) from None
