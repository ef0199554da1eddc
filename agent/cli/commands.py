"""The commands: names, one line of help each, where they are handled, and their arguments.

Handlers are named, not imported, and the arguments of a command are added only where it is meant:
`shoal --help` reads this module alone.
"""

from __future__ import annotations

from argparse import REMAINDER, SUPPRESS, ArgumentParser, BooleanOptionalAction
from collections.abc import Callable
from typing import Final, NamedTuple


class Command(NamedTuple):
    """`name` is the words of the command; `handler` is `module:function` below agent.cli."""

    name: str
    help: str
    handler: str
    arguments: Callable[[ArgumentParser], None]


def _none(parser: ArgumentParser) -> None:
    pass


def add_common(parser: ArgumentParser, nested: bool) -> None:
    """Options of every command, before or after its name."""
    default = SUPPRESS if nested else None
    group = parser.add_argument_group("which agent")
    group.add_argument(
        "--host", metavar="URL", default=default,
        help="ask the agent of another device: ssh://pi@attic (SHOAL_HOST)",
    )  # fmt: skip
    group.add_argument(
        "--data-dir", metavar="DIR", default=default,
        help="the agent's data directory (SHOAL_DATA_DIR)",
    )  # fmt: skip
    group.add_argument("--socket", metavar="PATH", default=default, help="the agent's socket")
    group.add_argument("--config", metavar="FILE", default=default, help="its configuration file")
    parser.add_argument(
        "--json", action="store_true", default=SUPPRESS if nested else False,
        help="answer as JSON; streams are one object a line",
    )  # fmt: skip


def _init(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the shoal's name")
    parser.add_argument("--device", metavar="NAME", help="this device's name (its host name)")
    parser.add_argument(
        "--label", metavar="K=V", action="append", default=[], help="a label of this device"
    )
    parser.add_argument("--backup", metavar="FILE", help="where the root key's backup goes")
    parser.add_argument(
        "--passphrase-file", metavar="FILE", help="a passphrase for it; else one is made and shown"
    )


def _invite(parser: ArgumentParser) -> None:
    parser.add_argument("--expires", metavar="TIME", default="15m", help="how long (15m)")
    parser.add_argument("--uses", metavar="N", type=int, default=1, help="for how many devices (1)")
    parser.add_argument(
        "--role", metavar="ROLES", action="append", default=[],
        help="compute, submit, operate, admit; comma between several (compute,submit)",
    )  # fmt: skip
    parser.add_argument(
        "--label", metavar="K=V", action="append", default=[], help="a label of what joins"
    )


def _invites(parser: ArgumentParser) -> None:
    parser.add_argument("--withdraw", metavar="INVITE", help="let its token admit nobody more")


def _recover(parser: ArgumentParser) -> None:
    parser.add_argument("backup", metavar="BACKUP", help="the file that `shoal init` wrote")
    parser.add_argument(
        "--device", metavar="NAME", help="this device's name (the one it has, or its host name)"
    )
    parser.add_argument(
        "--passphrase-file", metavar="FILE", help="its passphrase; else it is asked"
    )


def _join(parser: ArgumentParser) -> None:
    parser.add_argument("token", metavar="TOKEN|FILE", help="what `shoal invite` printed")
    parser.add_argument("--name", metavar="NAME", help="this device's name (its host name)")
    parser.add_argument(
        "--new-identity", action="store_true",
        help="set the present identity and its state aside: a copied card, or another shoal",
    )  # fmt: skip


def _up(parser: ArgumentParser) -> None:
    from agent.config import SETTINGS

    parser.add_argument(
        "--adopt-board", action="store_true", help="the card was moved to this board on purpose"
    )
    parser.add_argument(
        "--wait", action="store_true",
        help="where this device belongs to no shoal yet, wait for `shoal init` or `shoal join`",
    )  # fmt: skip
    group = parser.add_argument_group("settings, also in config.toml and as SHOAL_ variables")
    for setting in SETTINGS:
        if setting.key in ("data_dir", "socket"):
            continue  # common to all commands
        why = setting.why.replace("%", "%%")
        dest = f"set_{setting.key}"
        if setting.kind.name == "flag":
            group.add_argument(
                setting.flag, dest=dest, action=BooleanOptionalAction, default=None, help=why
            )
        elif setting.kind.name in ("words", "pairs"):
            metavar = "K=V" if setting.kind.name == "pairs" else "TEXT"
            group.add_argument(setting.flag, dest=dest, action="append", metavar=metavar, help=why)
        else:
            group.add_argument(setting.flag, dest=dest, metavar="VALUE", help=why)


def _peers(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--labels", metavar="NAMES", nargs="?", const="",
        help="with all labels, or a column for each of these, comma between",
    )  # fmt: skip
    parser.add_argument(
        "--where", metavar="EXPR", action="append", default=[],
        help="only those with these labels: arch=arm64, gpu, !camera, 'ram>4'",
    )  # fmt: skip


def _peer(parser: ArgumentParser) -> None:
    parser.add_argument("peer", metavar="PEER", help="its name, its id, or the end of its id")


def _peer_or_self(parser: ArgumentParser) -> None:
    parser.add_argument("peer", metavar="PEER", nargs="?", default="", help="(this device)")


def _drain(parser: ArgumentParser) -> None:
    _peer_or_self(parser)
    parser.add_argument("--off", action="store_true", help="take new work again")


def _peer_label(parser: ArgumentParser) -> None:
    parser.add_argument("pairs", metavar="K=V", nargs="*", help="to set; none shows them all")
    parser.add_argument("--unset", metavar="K", action="append", default=[], help="to take away")


def _label_set(parser: ArgumentParser) -> None:
    parser.add_argument("pairs", metavar="K=V", nargs="+", help="names and values")


def _label_unset(parser: ArgumentParser) -> None:
    parser.add_argument("names", metavar="K", nargs="+", help="names")


def _run(parser: ArgumentParser) -> None:
    parser.usage = "shoal run [options] [-f FILE ...] [-C DIR] -- COMMAND [ARGUMENT ...]"
    _one_off(parser)
    _publisher(parser, "-p")
    parser.add_argument("command", nargs=REMAINDER, metavar="-- COMMAND", help="what to run")


def _docker_run(parser: ArgumentParser) -> None:
    parser.usage = "shoal docker run [options] IMAGE [ARGUMENT ...]"
    _one_off(parser)
    _publisher(parser)
    group = parser.add_argument_group("the container")
    group.add_argument(
        "--entrypoint", metavar="PROGRAM[,WORD]", action="append", default=[],
        help="(the image's own)",
    )  # fmt: skip
    group.add_argument("-w", "--workdir", metavar="DIR", help="where it starts (the image's own)")
    group.add_argument("-u", "--user", metavar="USER", help="name or id, :group (the image's own)")
    group.add_argument(
        "--network", metavar="TYPE",
        help="what it may reach: none, bridge, host; none starts in half the time (bridge)",
    )  # fmt: skip
    group.add_argument("--domain", metavar="NAME", action="append", default=[], help=SUPPRESS)
    group.add_argument(
        "-p", "--publish", metavar="PORT[:PORT]", action="append", default=[],
        help="a port of the device, and the container's that it leads to (the same); with "
        "anything else, -p is short for --publisher",
    )  # fmt: skip
    group.add_argument(
        "--pull", choices=("missing", "always", "never"), help="when to fetch the image (missing)"
    )
    group.add_argument("--gpu", metavar="N", help="graphics processors")
    group.add_argument(
        "--device", metavar="PATH", action="append", default=[],
        help="a device file, where its owner allows that: /dev/i2c-1",
    )  # fmt: skip
    group.add_argument(
        "--cap-add", metavar="NAME", action="append", default=[],
        help="a capability, where the device's owner allows that: NET_ADMIN",
    )  # fmt: skip
    parser.add_argument("image", metavar="IMAGE", help="e.g. busybox:1.37.0")
    parser.add_argument("command", nargs=REMAINDER, metavar="ARGUMENT", help="(the image's own)")


def _wasm_run(parser: ArgumentParser) -> None:
    parser.usage = "shoal wasm run [options] MODULE.wasm [ARGUMENT ...]"
    _one_off(parser)
    _publisher(parser, "-p")
    group = parser.add_argument_group("the module")
    group.add_argument(
        "-I", "--import-modules", metavar="MODULE", action="append", default=[],
        help="one to link with it: a file, which is shipped, or the target of an input",
    )  # fmt: skip
    group.add_argument("--entry-point", metavar="NAME", help="the function to run (_start)")
    group.add_argument(
        "--fuel", metavar="N", type=int, help="end it after about so many instructions (none)"
    )
    parser.add_argument(
        "module", metavar="MODULE.wasm",
        help="a file, which is shipped with it; or as with --input; or the target of an input",
    )  # fmt: skip
    parser.add_argument("command", nargs=REMAINDER, metavar="ARGUMENT", help="what it is told")


def _one_off(parser: ArgumentParser) -> None:
    """What `run`, `docker run` and `wasm run` have in common."""
    parser.add_argument(
        "--count", "--concurrency", metavar="N", type=int, default=1, help="slots to run it in (1)"
    )
    parser.add_argument(
        "--target", choices=("any", "all"), default="any",
        help="all: once on every device that matches, instead of in slots",
    )  # fmt: skip
    parser.add_argument(
        "--priority", metavar="N", type=int, help="0 to 100; the highest first, of those that wait"
    )
    parser.add_argument("--cpu", metavar="CORES", help="what each needs: 2, 0.5, 500m")
    parser.add_argument("--memory", metavar="SIZE", help="64Mi, 1.5Gi")
    parser.add_argument("--disk", metavar="SIZE", help="2Gi")
    parser.add_argument("--timeout", metavar="TIME", help="how long each may run: 90, 15m")
    parser.add_argument("--queue-timeout", metavar="TIME", help="how long to wait for a device")
    parser.add_argument(
        "--env", "-e", metavar="K=V", action="append", default=[],
        help="a variable of the task; K alone takes it from here",
    )  # fmt: skip
    parser.add_argument(
        "-s", "--constraint", "--constraints", "--selector", metavar="EXPR", action="append",
        default=[], help="labels it needs: arch=arm64, gpu, !camera, 'zone in (a,b)', 'ram>4'",
    )  # fmt: skip
    parser.add_argument("--name", metavar="NAME", help="a label for people")
    parser.add_argument("--task-name", metavar="NAME", default="main", help=SUPPRESS)
    parser.add_argument(
        "-l", "--labels", metavar="K=V", action="append", default=[], help="labels of the job"
    )
    parser.add_argument("--namespace", metavar="NAME", help="where it belongs (default)")
    parser.add_argument(
        "--retry", metavar="N", type=int, help="attempts in all, also when the task itself fails"
    )
    parser.add_argument("--key", metavar="KEY", help="running it again with this key is one job")
    parser.add_argument(
        "-f", "--file", metavar="FILE", action="append", default=[], help="ship a file with it"
    )
    parser.add_argument("-C", "--directory", metavar="DIR", help="ship what is in a directory")
    parser.add_argument(
        "-i", "--input", metavar="URI[:PATH]", action="append", default=[],
        help="what it finds at PATH (/inputs): https://…, s3://BUCKET/KEY, file:///PATH of the "
        "device, peer://DIGEST; or src=URI,dst=PATH,opt=NAME=VALUE",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="[NAME:]PATH", action="append", default=[],
        help="keep what it leaves there, for `shoal job get`",
    )  # fmt: skip
    parser.add_argument("-d", "--detach", action="store_true", help="do not wait for the end")
    parser.add_argument("--id-only", action="store_true", help="print its id, and wait in silence")
    parser.add_argument("--dry-run", action="store_true", help="print its job file; run nothing")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the task's own output")
    # Bacalhau's; here it is so without a word. -f ships a file.
    parser.add_argument("--follow", action="store_true", help=SUPPRESS)


def _publisher(parser: ArgumentParser, *short: str) -> None:
    parser.add_argument(
        *short, "--publisher", metavar="URI", action="append", default=[],
        help="where what is at --output goes, too: s3://BUCKET/KEY,opt=endpoint=URL",
    )  # fmt: skip


def _exec(parser: ArgumentParser) -> None:
    parser.usage = "shoal exec (--where EXPR | --all) [options] -- COMMAND [ARGUMENT ...]"
    parser.add_argument(
        "--where", metavar="EXPR", action="append", default=[],
        help="on those with these labels: role=sensor, gpu, !camera, 'zone in (a,b)'",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="on every device that is there")
    parser.add_argument(
        "-y", "--yes", action="store_true", help="do not ask, on however many devices it runs"
    )
    parser.add_argument("--timeout", metavar="TIME", help="how long each may run: 90, 15m")
    parser.add_argument(
        "--env", "-e", metavar="K=V", action="append", default=[],
        help="a variable of the task; K alone takes it from here",
    )  # fmt: skip
    parser.add_argument("--key", metavar="KEY", help="running it again with this key is one job")
    parser.add_argument(
        "-f", "--file", metavar="FILE", action="append", default=[], help="ship a file with it"
    )
    parser.add_argument("-C", "--directory", metavar="DIR", help="ship what is in a directory")
    parser.add_argument("command", nargs=REMAINDER, metavar="-- COMMAND", help="what to run")


def _job_run(parser: ArgumentParser) -> None:
    _file(parser)
    parser.add_argument(
        "-V", "--variable", "--template-vars", metavar="K=V", action="append", default=[],
        help="fills {{.K}} in the file, as in Bacalhau's",
    )  # fmt: skip
    parser.add_argument(
        "--no-template", action="store_true", help="leave what is in {{braces}} as it is"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it would change and where it would run"
    )
    _following(parser)


def _versions(parser: ArgumentParser) -> None:
    _job(parser)
    parser.add_argument("--diff", action="store_true", help="what each changed")


def _rollback(parser: ArgumentParser) -> None:
    _job(parser)
    parser.add_argument(
        "--to", metavar="GENERATION", type=int, help="to this one (the one before the present)"
    )


def _rerun(parser: ArgumentParser) -> None:
    _job(parser)
    _following(parser)


def _following(parser: ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="until it ends; its exit code is ours")
    parser.add_argument("--follow", action="store_true", help="wait, and show its output")
    parser.add_argument("--key", metavar="KEY", help="running it again with this key is one job")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the task's own output")


def _file(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a job file, YAML or JSON; - reads from here")


def _job(parser: ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="its id, the beginning of it, or its name")


def _list(parser: ArgumentParser) -> None:
    parser.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="of ids")
    parser.add_argument("--limit", metavar="N", type=int, default=50, help="at most so many (50)")
    for name in ("state", "type", "namespace", "name"):
        parser.add_argument(f"--{name}", metavar=name.upper(), help="only these, comma between")


def _get(parser: ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="its id, the beginning of one, or its name")
    parser.add_argument("-o", "--output", metavar="DIR", help="where they go (NAME-ID)")
    parser.add_argument("--slot", metavar="N", type=int, help="of this slot alone")
    parser.add_argument("--peer", metavar="PEER", help="of this device alone")


def _logs(parser: ArgumentParser) -> None:
    _job(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="as it is written")
    parser.add_argument("--slot", metavar="N", type=int, help="of one slot")
    parser.add_argument(
        "--stream", choices=("stdout", "stderr", "both"), default="both", help="(both)"
    )
    parser.add_argument("--tail", metavar="N", type=int, default=-1, help="begin with the last N")
    parser.add_argument("--since", metavar="TIME", help="begin 10m ago, or at 2026-11-26T12:00:00Z")
    parser.add_argument("--peer", metavar="PEER", help="of this device alone: its name or id")


def _wait(parser: ArgumentParser) -> None:
    _job(parser)
    parser.add_argument("--timeout", metavar="TIME", help="give up after: 90, 15m")


def _stop(parser: ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", nargs="+", help="ids, beginnings of ids, or names")
    parser.add_argument(
        "-y", "--yes", action="store_true", help="do not ask, on however many devices it runs"
    )


def _example(parser: ArgumentParser) -> None:
    types, engines = ("batch", "ops", "daemon", "service"), ("docker", "wasm")
    kinds = (*types, *engines, "s3", "schedule", "template", "trigger")
    parser.add_argument("kind", nargs="?", choices=kinds, default="batch", help="(batch)")


def _template(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the template")
    parser.add_argument("--namespace", metavar="NAME", default="default", help="(default)")


def _template_set(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the template")
    _file(parser)


def _filled(parser: ArgumentParser) -> None:
    _template(parser)
    parser.add_argument(
        "-p", "--param", metavar="K=V", action="append", default=[], help="fills one blank"
    )
    parser.add_argument("--key", metavar="KEY", help="running it again with this key is one job")
    parser.add_argument("--follow", action="store_true", help="wait, and show its output")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the task's own output")


def _events(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="and what happens from now on")
    parser.add_argument("--job", metavar="JOB", default="", help="of one job")
    parser.add_argument("--since", metavar="SEQ", type=int, default=0, help="after this number")


def _show(parser: ArgumentParser) -> None:
    parser.add_argument("--agent", action="store_true", help="what the running agent goes by")


def _completion(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="for which shell")


GROUPS: Final = {
    "peer": "The devices of the shoal, one by one",
    "label": "What this device is, for the constraints of jobs",
    "job": "Jobs in files, and what became of them",
    "template": "Jobs with blanks, kept by every device to be run by name",
    "docker": "Containers",
    "wasm": "WebAssembly modules",
    "config": "The configuration of this device's agent",
}
SHORT: Final = ("jobs", "logs", "why", "stop")
COMMANDS: Final = (
    Command("init", "start a shoal on this device", "lifecycle:init", _init),
    Command("recover", "join with the backup of the root key", "lifecycle:recover", _recover),
    Command("invite", "make a token for another device", "invites:invite", _invite),
    Command("invites", "tokens made here that are still good", "invites:invites", _invites),
    Command("join", "join a shoal with a token", "lifecycle:join", _join),
    Command("up", "run the agent", "lifecycle:up", _up),
    Command("peers", "short for `peer list`", "peers:peers", _peers),
    Command("run", "run a command somewhere in the shoal", "runs:run", _run),
    Command("docker run", "run a container somewhere in the shoal", "runs:docker_run", _docker_run),
    Command("wasm run", "run a module somewhere in the shoal", "runs:wasm_run", _wasm_run),
    Command("exec", "run a command once on each device that matches", "execs:run", _exec),
    Command("jobs", "short for `job list`", "jobs:list_jobs", _list),
    Command("logs", "short for `job logs`", "logs:logs", _logs),
    Command("why", "short for `job why`", "why:why", _job),
    Command("stop", "short for `job stop`", "ending:stop", _stop),
    Command("peer list", "the devices of the shoal", "peers:peers", _peers),
    Command("peer describe", "all about one device", "peers:describe", _peer_or_self),
    Command("peer drain", "take no new work here; what runs ends", "peers:drain", _drain),
    Command("peer undrain", "take new work here again", "peers:undrain", _peer_or_self),
    Command("peer forget", "remember a device no longer that is gone", "peers:forget", _peer),
    Command("peer label", "short for the `label` ones", "labels:label", _peer_label),
    Command("label set", "set labels of this device", "labels:set_labels", _label_set),
    Command("label unset", "take labels of this device away", "labels:unset", _label_unset),
    Command("label list", "its labels, and where each comes from", "labels:list_labels", _none),
    Command("job run", "run a job file", "runs:job_run", _job_run),
    Command("job list", "jobs, the newest first", "jobs:list_jobs", _list),
    Command("job describe", "all about one job", "jobs:describe", _job),
    Command("job where", "where it runs, and how it is reached there", "jobs:where", _job),
    Command("job executions", "each attempt of each slot", "jobs:executions", _job),
    Command("job logs", "what its tasks wrote", "logs:logs", _logs),
    Command("job get", "fetch the files its tasks left", "results:get", _get),
    Command("job versions", "what a daemon or service was before", "versions:versions", _versions),
    Command("job rollback", "run an earlier version again", "versions:rollback", _rollback),
    Command("job rerun", "run a job again that has ended", "runs:rerun", _rerun),
    Command("job history", "what became of a job, in order", "events:history", _job),
    Command("job wait", "until it ends; its exit code is ours", "runs:wait", _wait),
    Command("job stop", "end jobs", "ending:stop", _stop),
    Command("job delete", "end daemons and services for good", "ending:delete", _stop),
    Command("job why", "who was asked, and why it runs where it does", "why:why", _job),
    Command("job validate", "check a job file", "jobfiles:validate", _file),
    Command("job example", "print a job file to start from", "jobfiles:example", _example),
    Command("job schema", "print the JSON Schema of job files", "jobfiles:schema", _none),
    Command("template set", "keep a job file under a name", "templates:put", _template_set),
    Command("template list", "the templates of the shoal", "templates:list_templates", _none),
    Command("template show", "what it asks for, and what it runs", "templates:show", _template),
    Command("template delete", "delete a template; its runs stay", "templates:delete", _template),
    Command("template run", "run a template with its blanks filled", "templates:run", _filled),
    Command("events", "what happened, as this device saw it", "events:events", _events),
    Command("doctor", "check this device and its agent", "doctor:doctor", _none),
    Command("metrics", "figures of the agent, as Prometheus reads them", "figures:metrics", _none),
    Command("config show", "settings and where they come from", "settings:show", _show),
    Command("config example", "print a commented config.toml", "settings:example", _none),
    Command("version", "print the version", "settings:version", _none),
    Command("completion", "print completions for a shell", "settings:completion", _completion),
)
