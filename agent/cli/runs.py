"""`shoal run`, `shoal job run` and `shoal job wait`: submit a job and stay with it."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from typing import Any

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import FAILED, OK, USAGE, CliError, of_job
from agent.cli.following import Following, summary
from agent.cli.tables import note, show_json, show_json_line
from agent.client import AgentError, Client
from agent.control.backend import FINAL_STATES

_INTERPRETERS = ("sh", "bash", "dash", "env", "python", "python3", "perl", "node", "ruby")
_SCRIPT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Where a flag of `run` ends up in the spec, so that the agent's word on a path names the flag.
_FLAGS = {
    "Count": "--count",
    "Name": "--name",
    "Namespace": "--namespace",
    "Constraints": "--constraint",
    "Retry": "--retry",
    "Tasks[0].Resources.CPU": "--cpu",
    "Tasks[0].Resources.Memory": "--memory",
    "Tasks[0].Resources.Disk": "--disk",
    "Tasks[0].Env": "--env",
    "Tasks[0].ResultPaths": "--output",
    "Tasks[0].Timeouts.ExecutionTimeout": "--timeout",
    "Tasks[0].Timeouts.QueueTimeout": "--queue-timeout",
    "Tasks[0].Engine.Params.Command": "the command",
    "Tasks[0].Engine.Params.Parameters": "the arguments",
    "Tasks[0].Engine.Params.Image": "the image",
    "Tasks[0].Engine.Params.WorkingDirectory": "--workdir",
    "Tasks[0].Engine.Params.User": "--user",
    "Tasks[0].Engine.Params.Devices": "--device",
    "Tasks[0].Engine.Params.Capabilities": "--cap-add",
    "Tasks[0].Resources.GPU": "--gpu",
    "Tasks[0].Network.Ports": "--publish",
    "Tasks[0].Network": "--network",
    "Tasks[0].Engine.Params.EntryModule": "the module",
    "Tasks[0].Engine.Params.EntryPoint": "--entry-point",
    "Tasks[0].Engine.Params.Fuel": "--fuel",
}


def run(args: Namespace) -> int:
    """Ends with the task's exit code, the highest where there are several slots."""
    from agent.cli.shipping import check_command, collect

    if not args.command:
        raise CliError("what is to be run? shoal run [options] -- COMMAND [ARGUMENT ...]", USAGE)
    shipped = collect(args.file, args.directory)
    check_command(args.command, shipped)
    engine = {"Type": "process", "Params": {"Command": list(args.command)}}
    return _run(args, build_spec(args, engine), shipped)


def docker_run(args: Namespace) -> int:
    """As `run`, in a container."""
    from agent.cli.shipping import collect

    spec = build_spec(args, container_engine(args))
    network: dict[str, Any] = {"Type": args.network} if args.network else {}
    if args.publish:
        network["Ports"] = [_port(text) for text in args.publish]
    if network:
        spec["Tasks"][0]["Network"] = network
    return _run(args, spec, collect(args.file, args.directory))


def wasm_run(args: Namespace) -> int:
    """As `run`, of a WebAssembly module, which is shipped with the job."""
    from agent.cli.shipping import collect, with_module

    name, shipped = with_module(args.module, collect(args.file, args.directory))
    params = {
        "EntryModule": name,
        "EntryPoint": args.entry_point,
        "Parameters": list(args.command),
        "Fuel": args.fuel,
    }
    engine = {"Type": "wasm", "Params": {key: value for key, value in params.items() if value}}
    args.name = args.name or label([name.removesuffix(".wasm")])
    return _run(args, build_spec(args, engine), shipped)


def _run(args: Namespace, spec: dict[str, Any], shipped: dict[str, str]) -> int:
    from agent.cli.shipping import as_input, pack

    with connect(args) as client:
        try:
            if shipped:
                spec["Tasks"][0]["InputSources"] = [as_input(client.put_archive(pack(shipped)))]
            if args.detach:
                return _detached(client, spec, args)
            lines = client.run(spec, args.key or "", logs=True)
            following = Following(client, lines, args.count, quiet=args.quiet, json=args.json)
            return following.to_end()
        except AgentError as error:
            raise by_flag(error) from None


def container_engine(args: Namespace) -> dict[str, Any]:
    params = {
        "Image": args.image,
        "Entrypoint": [args.entrypoint] if args.entrypoint else [],
        "Parameters": list(args.command),
        "WorkingDirectory": args.workdir,
        "User": args.user,
        "Pull": args.pull,
        "Devices": args.device,
        "Capabilities": args.cap_add,
    }
    return {"Type": "docker", "Params": {name: value for name, value in params.items() if value}}


def build_spec(args: Namespace, engine: dict[str, Any]) -> dict[str, Any]:
    """The job that the flags of `shoal run` mean; the agent checks it."""
    task: dict[str, Any] = {"Name": "main", "Engine": engine}
    resources = {
        "CPU": args.cpu,
        "Memory": args.memory,
        "Disk": args.disk,
        "GPU": getattr(args, "gpu", None),
    }
    timeouts = {"ExecutionTimeout": args.timeout, "QueueTimeout": args.queue_timeout}
    parts = {
        "Resources": {name: value for name, value in resources.items() if value},
        "Timeouts": {name: value for name, value in timeouts.items() if value},
        "Env": dict(variable(text) for text in args.env),
    }
    task |= {name: part for name, part in parts.items() if part}
    spec: dict[str, Any] = {
        "Type": "batch",
        "Tasks": [task],
        "Name": args.name or label(args.command or [args.image.partition(":")[0]]),
    }
    if args.output:
        task["ResultPaths"] = [{"Name": _called(path), "Path": path} for path in args.output]
    if args.count != 1:
        spec["Count"] = args.count
    if args.namespace:
        spec["Namespace"] = args.namespace
    if args.retry is not None:
        on = ["lost", "system", "failure"] if args.retry > 1 else None
        spec["Retry"] = {"Attempts": args.retry, **({"On": on} if on else {})}
    if args.constraint:
        spec["Constraints"] = _constraints(args.constraint)
    return spec


def job_run(args: Namespace) -> int:
    """Submit a job file; a wrong one is told of here, with its line, and nothing is submitted."""
    from agent.cli.jobfiles import load

    spec = load(args.file, args.variable)
    if spec.parameters is not None:
        raise CliError(
            f"{args.file} is a template, for its Parameters: shoal template set NAME FILE", USAGE
        )
    tree = dict(spec.to_plain())
    with connect(args) as client:
        if args.dry_run:
            from agent.cli.dryrun import dry_run

            return dry_run(client, spec, args)
        if not (args.wait or args.follow):
            return _detached(client, tree, args)
        if spec.standing and args.wait:
            noun = "schedule" if spec.schedule is not None else spec.type
            raise CliError(f"a {noun} does not end; leave --wait out, or --follow it", USAGE)
        lines = client.run(tree, args.key or "", logs=args.follow)
        following = Following(
            client,
            lines,
            spec.count,
            quiet=args.quiet,
            json=args.json,
            by_peer=not spec.type.counted,
        )
        return following.to_end()


def rerun(args: Namespace) -> int:
    """Submit a job that was run before once more, as a job of its own."""
    with connect(args) as client:
        view = client.job(args.job)
        if "parts" in view:
            raise CliError(
                f"{view['name']} stands until it is stopped, and is not run again by hand; after "
                "`shoal job stop` it goes on once its file is run: shoal job run FILE",
                USAGE,
            )
        spec = view.get("spec")
        if not spec:
            raise CliError(f"nobody who answered holds the spec of {args.job}; try again", FAILED)
        if not (args.wait or args.follow):
            return _detached(client, spec, args)
        lines = client.run(spec, args.key or "", logs=args.follow)
        following = Following(
            client,
            lines,
            int(spec.get("Count", 1)),
            quiet=args.quiet,
            json=args.json,
            by_peer=view["type"] == "ops",
        )
        return following.to_end()


def wait(args: Namespace) -> int:
    """Until a job ends; its exit code is ours. No output but how it ended."""
    limit = _seconds("--timeout", args.timeout) if args.timeout else None
    with connect(args) as client:
        view = client.job(args.job)
        if view["state"] in FINAL_STATES:
            return _ended(view, args)
        following = Following(
            client,
            client.follow(view["id"], events=False),
            len(view["slots"]),
            quiet=False,
            json=args.json,
        )
        following.job = view["id"]
        return following.to_end(limit)


def _ended(view: dict[str, Any], args: Namespace) -> int:
    if args.json:
        show_json_line({"final": view})
    else:
        note(summary(view))
    return of_job(view)


def _detached(client: Client, spec: dict[str, Any], args: Namespace) -> int:
    accepted = client.submit(spec, args.key or "")
    if args.json:
        show_json(accepted)
        return OK
    if accepted.get("warning"):
        note(accepted["warning"])
    what = "nothing changed" if accepted.get("unchanged") else "accepted"
    on = accepted.get("durable_on")
    where = f", kept on {units.plural(on, 'device')}" if on else ""
    note(f"{accepted['name']}: {what}{where}")
    if "Schedule" in spec and (reason := client.job(accepted["job"]).get("reason")):
        note(f"it waits: {reason}")
    print(accepted["job"])
    return OK


def by_flag(error: AgentError) -> AgentError:
    """The agent names the field of the spec; whoever typed a command knows the flag."""
    for path, flag in _FLAGS.items():
        if error.path == path or error.path.startswith((f"{path}.", f"{path}[")):
            return AgentError(error.status, error.text, flag)
    return error


def _port(text: str) -> dict[str, Any]:
    static, _, target = text.partition(":")
    if not static and target.isdecimal():
        return {"Name": f"port-{target}", "Target": int(target)}
    if not static.isdecimal() or not (target or static).isdecimal():
        raise CliError(f"--publish {text}: allowed: 8080, 8080:80, or :80", USAGE)
    return {"Name": f"port-{static}", "Static": int(static), "Target": int(target or static)}


def _called(path: str) -> str:
    """A result's name is the last part of its path, as far as names may hold that."""
    last = path.rstrip("/").rpartition("/")[2]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in last).lstrip("-.") or "files"


def variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if equals:
        return name, value
    if name not in os.environ:
        raise CliError(f"--env {name}: there is no such variable here; allowed: K=V", USAGE)
    return name, os.environ[name]


def _constraints(texts: list[str]) -> list[Any]:
    from protocol.constraints import parse_constraints

    found = [c for text in texts for c in parse_constraints(text, "--constraint")]
    return [constraint.to_plain() for constraint in sorted(set(found))]


def label(command: list[str]) -> str:
    """A label out of the command, where none was given: of `python3 -u detect.py`, detect.py."""
    words = [os.path.basename(word) for word in command]
    word = words[0]
    if word in _INTERPRETERS:
        word = next((w for w in words[1:] if "." in w and _SCRIPT.fullmatch(w)), word)
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in word)
    return kept.strip("._-")[:63].rstrip("._-") or "run"


def _seconds(flag: str, text: str) -> int:
    try:
        return units.parse_duration(text)
    except ValueError as error:
        raise CliError(f"{flag}: {error}", USAGE) from None
