"""`shoal config`, `version` and `completion`: about this installation, without its agent."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from agent.cli.connecting import connect, load_config, wanted_host
from agent.cli.exitcodes import OK
from agent.cli.tables import show_json, show_table
from agent.version import VERSION


def show(args: Namespace) -> int:
    """Each setting, its value and where it came from."""
    from agent.configload import find_socket

    loaded = load_config(args)
    service = find_socket(loaded) != loaded.config.socket_path  # whose settings are not our own
    if args.agent or wanted_host(args) or service:
        with connect(args) as client:
            view: dict[str, Any] = client.config()
    else:
        view = loaded.view()
    if args.json:
        show_json(view)
        return OK
    show_table(
        ("SETTING", "VALUE", "FROM"),
        [(key, _text(entry["value"]), entry["source"]) for key, entry in view.items()],
    )
    return OK


def example(args: Namespace) -> int:
    from agent.configload import example_text

    if args.json:
        show_json({"text": example_text()})
    else:
        print(example_text(), end="")
    return OK


def version(args: Namespace) -> int:
    if args.json:
        show_json({"version": VERSION})
    else:
        print(f"shoal {VERSION}")
    return OK


def completion(args: Namespace) -> int:
    """To be kept where the shell looks, e.g. ~/.local/share/bash-completion/completions/shoal."""
    import shtab

    from agent.cli.parser import build

    text = shtab.complete(build(None), args.shell)
    if args.json:
        show_json({"shell": args.shell, "text": text})
    else:
        print(text)
    return OK


def _text(value: Any) -> str:
    match value:
        case None | "" | [] | {}:
            return "-"
        case bool():
            return str(value).lower()
        case list():
            return ", ".join(value)
        case dict():
            return ", ".join(f"{key}={text}" for key, text in value.items())
        case _:
            return str(value)
