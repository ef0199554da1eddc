"""`shoal doctor`: what is wrong with this device and its agent, and what to do about it."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from agent.cli.connecting import connect, load_config, wanted_host
from agent.cli.exitcodes import FAILED, OK
from agent.cli.tables import show_json
from agent.client import Unreachable
from agent.configload import find_socket
from agent.printable import clean

_MARKS = {True: "ok  ", False: "bad ", None: "?   "}


def doctor(args: Namespace) -> int:
    """Checks of the device first, then the agent's own; ends with 1 where one is bad."""
    checks: list[dict[str, Any]] = [] if wanted_host(args) else _device(args)
    try:
        with connect(args) as client:
            checks += client.doctor()
    except Unreachable as error:
        checks.append(_check("agent", False, str(error), ""))
    if args.json:
        show_json({"checks": checks})
    else:
        for check in checks:
            print(f"{_MARKS[check['ok']]} {clean(check['check'])}: {clean(check['text'])}")
            if check["ok"] is not True and check["fix"]:
                print(f"     -> {clean(check['fix'])}")
    return FAILED if any(check["ok"] is False for check in checks) else OK


def _device(args: Namespace) -> list[dict[str, Any]]:
    """What can be seen without the agent. A wrong configuration ends the command as everywhere."""
    loaded = load_config(args)
    if find_socket(loaded) != loaded.config.socket_path:
        return []  # the system's agent is asked, and looks after its own directory
    return [_data_directory(loaded.config.data_dir)]


def _data_directory(path: Path) -> dict[str, Any]:
    try:
        held = path.stat()
    except FileNotFoundError:
        return _check(
            "data directory", False, f"{path} is not there",
            "start a shoal with `shoal init NAME` or join one with `shoal join TOKEN`",
        )  # fmt: skip
    except OSError as error:
        return _check("data directory", None, f"{path}: {error.strerror}", "ask with sudo")
    if held.st_uid != os.geteuid() and os.geteuid() != 0:
        return _check("data directory", None, f"{path} belongs to another user", "ask with sudo")
    if held.st_mode & 0o022:
        return _check(
            "data directory", False, f"{path} can be written by others", f"chmod go-w {path}"
        )
    return _check("data directory", True, str(path), "")


def _check(name: str, ok: bool | None, text: str, fix: str) -> dict[str, Any]:
    return {"check": name, "ok": ok, "text": text, "fix": fix}
