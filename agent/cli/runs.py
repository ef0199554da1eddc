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
    "Labels": "--labels",
    "Priority": "--priority",
    "Retry": "--retry",
    "Tasks[0].Resources.CPU": "--cpu",
    "Tasks[0].Resources.Memory": "--memory",
    "Tasks[0].Resources.Disk": "--disk",
    "Tasks[0].Env": "--env",
    "Tasks[0].Name": "--task-name",
    "Tasks[0].InputSources": "--input",
    "Tasks[0].ResultPaths": "--output",
    "Tasks[0].Publisher": "--publisher",
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
    "Tasks[0].Network.Domains": "--domain",
    "Tasks[0].Network": "--network",
    "Tasks[0].Engine.Params.Entrypoint": "--entrypoint",
    "Tasks[0].Engine.Params.ImportModules": "--import-modules",
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

    ports = [text for text in args.publish if text[:1].isdigit() or text[:1] == ":"]
    args.publisher += [text for text in args.publish if text not in ports]
    spec = build_spec(args, container_engine(args))
    network: dict[str, Any] = {"Type": args.network} if args.network else {}
    if ports:
        network["Ports"] = [_port(text) for text in ports]
    if args.domain:
        network["Domains"] = args.domain
    if network:
        spec["Tasks"][0]["Network"] = network
    return _run(args, spec, collect(args.file, args.directory))


def wasm_run(args: Namespace) -> int:
    """As `run`, of a WebAssembly module, which is shipped with the job where it is a file here."""
    from agent.cli.shipping import collect
    from agent.cli.sources import is_uri

    shipped = collect(args.file, args.directory)
    module, shipped = _module(args, args.module, "main.wasm", shipped)
    imported = []
    for each in args.import_modules:
        for text in [each] if is_uri(each) else each.split(","):
            name, shipped = _module(args, text, "", shipped)
            imported.append(name)
    params = {
        "EntryModule": module,
        "ImportModules": imported,
        "EntryPoint": args.entry_point,
        "Parameters": list(args.command),
        "Fuel": args.fuel,
    }
    engine = {"Type": "wasm", "Params": {key: value for key, value in params.items() if value}}
    args.name = args.name or label([module.removesuffix(".wasm")])
    return _run(args, build_spec(args, engine), shipped)


def _module(
    args: Namespace, text: str, target: str, shipped: dict[str, str]
) -> tuple[str, dict[str, str]]:
    """A module's name there, and what is shipped with it among it: a file here, a source as with
    --input, or what one of those has as its target."""
    from agent.cli.shipping import with_module
    from agent.cli.sources import is_uri, source

    if is_uri(text):
        found = source("the module", text, target)
        if not found["Target"]:
            raise CliError(f"{text}: where is it to be? {text}:/app/lib.wasm", USAGE)
        args.input.append(found)
        return str(found["Target"]), shipped
    if os.path.exists(text):
        return with_module(text, shipped)
    path, _, place = text.rpartition(":")
    if os.path.isfile(path):
        with_module(path, {})  # that it is one
        name = place.lstrip("/")
        if shipped.setdefault(name, path) != path:
            raise CliError(f"{path} and {shipped[name]} would both be {name} there", USAGE)
        return place, shipped
    return (text, shipped) if args.input else with_module(text, shipped)


def _run(args: Namespace, spec: dict[str, Any], shipped: dict[str, str]) -> int:
    from agent.cli.shipping import as_input, pack

    if args.dry_run:
        return _print(spec, shipped)
    with connect(args) as client:
        try:
            if shipped:
                inputs = spec["Tasks"][0].setdefault("InputSources", [])
                inputs.insert(0, as_input(client.put_archive(pack(shipped))))
            if args.detach:
                return _detached(client, spec, args)
            lines = client.run(spec, args.key or "", logs=not args.id_only or args.follow)
            following = Following(
                client,
                lines,
                args.count,
                quiet=args.quiet or args.id_only,
                json=args.json,
                by_peer=spec["Type"] == "ops",
                prints_id=args.id_only,
            )
            return following.to_end()
        except AgentError as error:
            raise by_flag(error) from None


def _print(spec: dict[str, Any], shipped: dict[str, str]) -> int:
    """The job file for `shoal job run` that does the same."""
    import yaml

    from protocol.errors import JobSpecError
    from protocol.job import JobSpec

    if shipped:
        name = next(iter(shipped))
        raise CliError(f"--dry-run: a job file ships no files, as {name}; give an --input", USAGE)
    try:
        JobSpec.from_plain(spec)
    except JobSpecError as error:
        raise by_flag(AgentError(0, error.message, error.path)) from None
    print(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), end="")
    return OK


def container_engine(args: Namespace) -> dict[str, Any]:
    params = {
        "Image": args.image,
        "Entrypoint": [word for text in args.entrypoint if text for word in text.split(",")],
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
    spec: dict[str, Any] = {
        "Type": "batch" if args.target == "any" else "ops",
        "Tasks": [_task(args, engine)],
        "Name": args.name or label(args.command or [args.image.partition(":")[0]]),
    }
    if args.count != 1:
        spec["Count"] = args.count
    if args.namespace:
        spec["Namespace"] = args.namespace
    if args.priority is not None:
        spec["Priority"] = args.priority
    if args.labels:
        spec["Labels"] = dict(_label(text) for each in args.labels for text in each.split(","))
    if args.retry is not None:
        on = ["lost", "system", "failure"] if args.retry > 1 else None
        spec["Retry"] = {"Attempts": args.retry, **({"On": on} if on else {})}
    if args.constraint:
        spec["Constraints"] = _constraints(args.constraint)
    return spec


def _task(args: Namespace, engine: dict[str, Any]) -> dict[str, Any]:
    from agent.cli.sources import publisher, result_path, source

    task: dict[str, Any] = {"Name": args.task_name, "Engine": engine}
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
        "InputSources": [
            source("--input", each) if isinstance(each, str) else each for each in args.input
        ],
        "ResultPaths": [result_path(text) for text in args.output],
    }
    task |= {name: part for name, part in parts.items() if part}
    if len(args.publisher) > 1:
        raise CliError("--publisher: more than one; a task has one", USAGE)
    if args.publisher:
        task["Publisher"] = publisher(args.publisher[0])
    return task


def job_run(args: Namespace) -> int:
    """Submit a job file; a wrong one is told of here, with its line, and nothing is submitted."""
    from agent.cli.jobfiles import load

    spec = load(args.file, None if args.no_template else args.variable)
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


def _label(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")  # Bacalhau's may be a word alone
    return name, value


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
