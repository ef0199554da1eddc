"""`shoal init`, `recover`, `join` and `up`: how a device comes to belong to a shoal, and lives."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from base64 import b64decode
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from agent.cli.connecting import load_config, refuse_host
from agent.cli.exitcodes import OK, USAGE, CliError
from agent.cli.tables import show_json, show_pairs
from agent.client import AgentError, Client, LocalRoute
from agent.printable import clean

JOIN_S: Final = 300.0  # loading libp2p on a small board, then every address of a token twice


def init(args: Namespace) -> int:
    """Start a shoal here and write the backup of its root key."""
    from agent.membership import name_problem
    from agent.shoalroot import create_shoal

    refuse_host(args, "init")
    if problem := name_problem(args.name):
        raise CliError(f"the shoal's name: {problem}", USAGE)
    labels, secret = labels_of(args.label), _passphrase(args.passphrase_file)
    loaded = load_config(args)
    if client := _service(args, loaded):
        with client:
            told = client.init(args.name, args.device, secret, labels)
        _keep_backup(told, args.backup)
        return _show_made(args, told, "`shoal invite` lets the next device in.")
    as_owner(loaded.config.data_dir)
    made = create_shoal(
        loaded.config.data_dir,
        args.name,
        secret,
        device=args.device,
        backup=Path(args.backup) if args.backup else None,
        labels=labels,
    )
    told = {"shoal": made.shoal, "name": made.name, "peer": made.peer}
    told |= {"backup": str(made.backup), "passphrase": made.passphrase}
    following = "`shoal up` runs the agent, `shoal invite` lets the next device in."
    return _show_made(args, told, following)


def _show_made(args: Namespace, told: dict[str, Any], following: str) -> int:
    if args.json:
        show_json(told)
        return OK
    pairs = [("Shoal", f"{told['name']} ({told['shoal']})"), ("This device", told["peer"])]
    pairs += [("Backup", told["backup"])]
    if told["passphrase"]:
        pairs += [("Passphrase", told["passphrase"])]
    show_pairs(pairs)
    kept = "Copy the backup to another place"
    if told["passphrase"]:
        kept += ", and write the passphrase down: it is shown this once"
    print(f"\n{kept}.\nWith both, `shoal recover BACKUP` lets any device take this one's place.")
    print(f"Next: {following}")
    return OK


def _keep_backup(told: dict[str, Any], wanted: str | None) -> None:
    """The service has one in its own directory; whoever asked for a file of his own gets it."""
    content = b64decode(told.pop("content"))
    if wanted is None:
        return
    try:
        with open(wanted, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(content)
    except OSError as error:
        print(f"shoal: --backup {wanted}: {error.strerror}; it is kept as below", file=sys.stderr)
        return
    told["backup"] = str(Path(wanted).resolve())


def recover(args: Namespace) -> int:
    """Make this device a member with every role, by the backup of the root key."""
    from agent.membership import load_member
    from agent.shoalroot import recover_member

    refuse_host(args, "recover")
    data_dir = load_config(args).config.data_dir
    secret = _passphrase(args.passphrase_file)
    secret = _ask_passphrase(args.backup) if secret is None else secret
    as_owner(data_dir)
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
    loaded = load_config(args)
    client = _service(args, loaded)
    if client is not None:
        from agent.jointoken import format_token, read_token

        with client:
            token = format_token(read_token(args.token))  # a file is its reader's own
            answer = client.join(token, args.name, args.new_identity)
    else:
        data_dir = loaded.config.data_dir
        as_owner(data_dir)
        answer = import_module("agent.join_command").join_shoal(
            data_dir, args.token, name=args.name, new_identity=args.new_identity
        )
    if args.json:
        show_json(answer)
        return OK
    who = f"the shoal {answer['shoal_name']} as {answer['name']} ({answer['peer']})"
    print(clean(f"this device is in {who} already" if answer.get("already") else f"joined {who}"))
    if client is None:
        print("Next: `shoal up` runs the agent.")
    return OK


def up(args: Namespace) -> int:
    """Run the agent until it is told to end."""
    from agent.log import set_up

    refuse_host(args, "up")
    loaded = load_config(args)
    _refuse_beside_service(loaded)
    as_owner(loaded.config.data_dir)
    log = loaded.config.log
    set_up(log.format, log.level, watched=sys.stderr.isatty())
    import_module("agent.main").run(loaded, move_to_board=args.adopt_board, wait=args.wait)
    return OK


def _refuse_beside_service(loaded: Any) -> None:
    """The service is this device's agent; one beside it is made on purpose, or runs already."""
    from agent.configload import find_socket
    from agent.identity import KEY_FILE

    config = loaded.config
    if find_socket(loaded) == config.socket_path or (config.data_dir / KEY_FILE).exists():
        return
    raise CliError(
        "this device's agent is the service shoal: `systemctl status shoal` says how it is, `sudo "
        "systemctl start shoal` starts it; one of your own beside it needs a --data-dir and a "
        "--listen of its own"
    )


def as_owner(data_dir: Path) -> None:
    """As root, become the user whom an installed agent's directory belongs to: what root wrote
    there the agent could not read. What was not readable to that user has to be read before."""
    try:
        held = data_dir.stat()
    except OSError:
        return
    if os.geteuid() != 0 or held.st_uid == 0:
        return
    import pwd

    try:
        entry = pwd.getpwuid(held.st_uid)
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    except KeyError:  # copied from elsewhere: a number without a name
        os.setgroups([])
        os.setresgid(held.st_gid, held.st_gid, held.st_gid)
    os.setresuid(held.st_uid, held.st_uid, held.st_uid)


def _service(args: Namespace, loaded: Any) -> Client | None:
    """The agent to ask for what changes its device: one that waits for it, or the system's, whose
    directory is not ours. None: it is done here."""
    from agent.configload import find_socket

    path = find_socket(loaded)
    foreign = path != loaded.config.socket_path
    if not foreign and not os.path.exists(path):
        return None
    client = Client(LocalRoute(path), timeout_s=JOIN_S)
    try:
        if foreign or client.status().get("state") == "waiting":
            return client
    except AgentError:
        pass
    client.close()
    return None


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
