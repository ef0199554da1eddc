"""`shoal template`: jobs with blanks, kept by every device, run by name with the blanks filled."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import NOT_FOUND, OK, USAGE, CliError
from agent.cli.following import Following
from agent.cli.tables import note, show_json, show_pairs, show_table
from agent.client import Client
from agent.printable import clean

SILENT = (
    "nothing came since its agent started; if something was sent, look at the broker's access "
    "list: Mosquitto grants a topic that it denies, and sends nothing of it"
)


def put(args: Namespace) -> int:
    """Keep a job file under a name, in place of what was kept there before."""
    from agent.cli.jobfiles import load

    tree = {"Parameters": [], **load(args.file, name=args.name).to_plain(), "Name": args.name}
    with connect(args) as client:
        answer = client.submit(tree)
    return _told(args, answer, "nothing changed" if answer["unchanged"] else "kept")


def list_templates(args: Namespace) -> int:
    with connect(args) as client:
        found = client.templates()
    if args.json:
        show_json({"templates": found})
        return OK
    rows = [
        (
            str(view["name"]),
            str(view["namespace"]),
            str(view["generation"]),
            ", ".join(_shown(each) for each in _parameters(view)) or "-",
            units.age(view["created_ms"]),
        )
        for view in found
    ]
    show_table(("NAME", "NAMESPACE", "GENERATION", "PARAMETERS", "AGE"), rows)
    return OK


def show(args: Namespace) -> int:
    with connect(args) as client:
        view = _found(client, args)
    if args.json:
        show_json(view)
        return OK
    author = units.named(view.get("author_name", ""), view["author"])
    show_pairs(
        [
            ("Name", view["name"]),
            ("Namespace", view["namespace"]),
            ("Set", f"{units.age(view['created_ms'])} ago by {author}"),
            ("Generation", str(view["generation"])),
        ]
    )
    if "trigger" in view:
        _show_trigger(view["trigger"])
    print()
    rows = [
        (str(each["Name"]), str(each.get("Default", "-")), str(each.get("Description", "-")))
        for each in _parameters(view)
    ]
    show_table(("PARAMETER", "DEFAULT", "DESCRIPTION"), rows)
    print("\n" + json.dumps(view.get("spec", {}), indent=2))
    return OK


def _show_trigger(trigger: dict[str, Any]) -> None:
    """Who hears it and what came of it, and why not where nothing does."""
    who = ", ".join(trigger["hearers"]) or "no device: see PROBLEM, and [mqtt] allow of each"
    which = "each, by ids one fires" if trigger["keyed"] else "one, elected"
    print()
    show_pairs(
        [
            ("Trigger", f"{trigger['topic']} at broker {trigger['broker']}"),
            ("Heard by", f"{who} ({which})" if trigger["hearers"] else who),
        ]
    )
    print()
    columns = ("DEVICE", "HEARS", "HEARD", "FILTERED", "FIRED", "REFUSED", "LAST FIRED", "PROBLEM")
    rows = [
        (
            units.named(part["peer_name"], part["peer"]),
            "yes" if part["hears"] else "no",
            str(part["heard"]),
            str(part["filtered"]),
            str(part["fired"]),
            str(sum(part["refused"].values())),
            f"{units.age(part['last_fired_ms'])} ago" if part["last_fired_ms"] else "-",
            part["problem"] or "-",
        )
        for part in trigger["devices"]
    ]
    show_table(columns, rows)
    for part in trigger["devices"]:
        name = units.named(part["peer_name"], part["peer"])
        if part["hears"] and not part["heard"] and not part["problem"]:
            print(f"{name}: {SILENT}")
        for kind in ("refused", "unanswered"):
            for reason, count in sorted(part[kind].items(), key=lambda each: (-each[1], each[0])):
                print(f"{name}: {count} {kind}: {clean(str(reason))}")


def delete(args: Namespace) -> int:
    with connect(args) as client:
        view = _found(client, args)
        answer = client.delete(view["id"])
    if args.json:
        show_json(answer)
    else:
        note(f"{args.name}: deleted")
    return OK


def run(args: Namespace) -> int:
    """Fill the blanks and run it; the same key again is the same job."""
    params = dict(_pair(text) for text in args.param)
    with connect(args) as client:
        answer = client.run_template(args.name, params, args.key or "", args.namespace)
        if not args.follow:
            return _told(args, answer, "is there already" if answer["unchanged"] else "accepted")
        lines = client.follow(answer["job"], logs=True)
        following = Following(client, lines, 1, quiet=args.quiet, json=args.json)
        following.job = answer["job"]
        return following.to_end()


def _told(args: Namespace, answer: dict[str, Any], what: str) -> int:
    if args.json:
        show_json(answer)
        return OK
    if answer.get("warning"):
        note(answer["warning"])
    note(f"{answer['name']}: {what}")
    print(answer["job"])
    return OK


def _found(client: Client, args: Namespace) -> dict[str, Any]:
    found = client.templates(args.name, args.namespace)
    if not found:
        text = f"no template {args.name!r} in namespace {args.namespace} is known here"
        raise CliError(text, NOT_FOUND)
    return found[0]


def _parameters(view: dict[str, Any]) -> list[dict[str, Any]]:
    return list(view.get("spec", {}).get("Parameters", []))


def _shown(parameter: dict[str, Any]) -> str:
    return (
        f"{parameter['Name']}={parameter['Default']}"
        if "Default" in parameter
        else str(parameter["Name"])
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CliError(f"-p {text}: allowed: NAME=VALUE", USAGE)
    return name, value
