"""Connecting: from --host, --socket, --data-dir and the environment to a client of an agent."""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from agent.cli.exitcodes import USAGE, CliError
from agent.client import Client, LocalRoute


def connect(args: Namespace) -> AbstractContextManager[Client]:
    """A client of the agent that is meant: this device's, or over ssh another's."""
    if host := wanted_host(args):
        from agent.cli.remote import SshRoute

        return Client(SshRoute(host), timeout_s=120.0)  # a passphrase may have to be typed
    return Client(LocalRoute(socket_path(args)))


def wanted_host(args: Namespace) -> str:
    return getattr(args, "host", None) or os.environ.get("SHOAL_HOST", "")


def refuse_host(args: Namespace, command: str) -> None:
    """For commands that change the device they are typed on."""
    if host := wanted_host(args):
        where = host.removeprefix("ssh://")
        raise CliError(
            f"`shoal {command}` works on the device itself: ssh {where} shoal {command}", USAGE
        )


def socket_path(args: Namespace) -> Path:
    from agent.configload import find_socket

    return find_socket(load_config(args))


def load_config(args: Namespace) -> Any:
    """The configuration as the command line has it (configload.Loaded)."""
    from agent.configload import load

    flags: dict[str, Any] = {}
    for key in ("data_dir", "socket"):
        if value := getattr(args, key, None):
            flags[key] = value
    for name, value in vars(args).items():
        if name.startswith("set_") and value is not None:
            flags[name.removeprefix("set_")] = value
    file = getattr(args, "config", None)
    return load(flags, None, Path(file) if file else None)
