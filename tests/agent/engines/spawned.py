"""The process engine of an agent that is not root, one scenario a run; test_spawner.py reads what
it prints, as JSON.

Usage, as root: python -m tests.agent.engines.spawned SCENARIO ROOT SOCKET. All that it needs is
loaded first, since the agent's user may not enter the interpreter's place; then root's rights go.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import inotify_simple  # noqa: F401 -- loaded on demand otherwise
import trio

from agent.engines.beside import Place, run_beside
from agent.engines.cgroups import Cgroups
from agent.engines.docker import DockerEngine
from agent.engines.process import ProcessEngine
from agent.engines.sandbox import Sandbox
from agent.engines.spawner import Spawner
from agent.engines.task import TaskLaunch
from agent.volumes import Volumes
from protocol.effects import StartTask
from protocol.ids import ExecutionId, JobId
from protocol.job import JobSpec
from tests.agent.engines.test_process import printed
from tests.agent.whole import until

AGENT, TASKS = "daemon", "nobody"
WITHIN_S = 60.0


def launch(script: str, execution_id: str = "e1") -> TaskLaunch:
    return TaskLaunch(execution_id, ("/bin/sh", "-c", script), stop_grace_s=0.2)


async def ended(engine: ProcessEngine, wanted: TaskLaunch) -> dict[str, Any]:
    with trio.fail_after(WITHIN_S):
        await engine.start(wanted)
        told = await engine.wait(wanted.execution_id)
    out, err = await engine.tails(wanted.execution_id, 20)
    return {
        "code": told.code, "reason": told.reason.value, "detail": told.detail,
        "out": out.data.decode(), "err": err.data.decode(),
    }  # fmt: skip


async def identity(engine: ProcessEngine) -> object:
    """Who a task is, and what it may."""
    return await ended(engine, launch("id -u; id -G; grep -E 'Cap|NoNew' /proc/self/status; pwd"))


async def paths(engine: ProcessEngine) -> object:
    """A task reaches its own directories by their names, too."""
    work = await engine.directories.prepare("e1")
    (work / "own.sh").write_text("echo read")
    return await ended(engine, launch('cd "$HOME" && sh "$HOME/own.sh" && mktemp && touch x'))


async def gains(engine: ProcessEngine) -> object:
    """A task whose command is a file with rights of its own, which test_spawner.py made."""
    program = engine.root.parent / "mighty"
    wanted = TaskLaunch("e1", (str(program), "CapEff", "/proc/self/status"), stop_grace_s=0.2)
    return await ended(engine, wanted)


async def files(engine: ProcessEngine) -> object:
    """Inputs are the task's, what it leaves is the agent's, and all of it can be deleted."""
    work = await engine.directories.prepare("e1")
    (work / "in").mkdir()
    (work / "in/text").write_text("hello")
    await engine.hand_over("e1")
    script = "cat in/text; echo more >>in/text; mkdir shut; echo x >shut/x; chmod 0 shut/x shut"
    told = await ended(engine, launch(f"{script}; ln -s /etc/passwd link; stat -c %U in/text"))
    there = await engine.collect("e1", ["."])
    text = (there / "in/text").read_text()
    found = sorted(path.name for path in there.rglob("*"))
    shut = (there / "shut/x").read_text()
    owners = sorted({path.lstat().st_uid for path in there.rglob("*") if not path.is_symlink()})
    await engine.clear("e1")
    left = there.exists()
    await engine.remove("e1")
    return {
        **told, "text": text, "found": found, "shut": shut, "owners": owners, "left": left,
        "gone": not (engine.root / "e1").exists(), "passwd": os.stat("/etc/passwd").st_uid,
    }  # fmt: skip


async def deep(engine: ProcessEngine) -> object:
    """More directories within each other than the spawner goes down at once."""
    script = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done"
    told = await ended(engine, launch(script))
    await engine.remove("e1")
    return {**told, "left": os.listdir(engine.root)}


async def stop(engine: ProcessEngine) -> object:
    """At once after the start, when it may still be root's, and one that does not hear."""
    await engine.start(launch("trap '' TERM; while :; do sleep 0.05; done", "deaf"))
    await engine.start(launch("sleep 60", "quick"))
    told = {}
    for name in ("deaf", "quick"):
        with trio.fail_after(WITHIN_S):
            await engine.stop(name)
            told[name] = (await engine.wait(name)).reason.value
    return told


async def leave(engine: ProcessEngine) -> object:
    """A task that this life of the agent does not see the end of."""
    await engine.start(launch("while [ ! -e go ]; do sleep 0.02; done; exit 7"))
    record = engine.root / "e1/supervisor"
    with trio.fail_after(WITHIN_S):
        await until(lambda: record.exists() and record.read_text())
    return record.read_text()


async def adopt(engine: ProcessEngine) -> object:
    """Another life of the agent finds what runs, its pid and its exit code."""
    (found,) = await engine.adopt()
    # The task's own directory is closed to the agent: the way in is what runs beside it.
    beside = await engine.run_beside("e1", ["sh", "-c", "touch go; id -u; pwd"])
    with trio.fail_after(WITHIN_S):
        told = await engine.wait("e1")
    same = (engine.root / "e1/supervisor").read_text()
    return {"running": found.exit is None, "beside": beside, "code": told.code, "same": same}


async def beside(engine: ProcessEngine) -> object:
    """A command that is given up ends with all that it started."""
    place = Place(Path("/"), {"PATH": "/usr/bin:/bin"}, None, engine.spawner)
    mark = f"{86400 + os.getpid()}"
    with trio.move_on_after(0.5):
        await run_beside(place, ["sh", "-c", f"sleep {mark} & sleep {mark}"])
    with trio.fail_after(WITHIN_S):
        await until(lambda: mark not in running())
    absent = await run_beside(place, ["no-such-command"])
    killed = await run_beside(place, ["sh", "-c", "echo ill >&2; kill -9 $$"])
    return {"absent": absent, "killed": killed, "mark": mark in running()}


async def speed(engine: ProcessEngine) -> object:
    """Milliseconds of starts that the spawner does, the best of many."""
    taken = []
    for number in range(30):
        began = time.perf_counter()
        await engine.start(launch(":", f"s{number}"))
        await engine.wait(f"s{number}")
        taken.append((time.perf_counter() - began) * 1000)
    return {"ms": min(taken), "median": sorted(taken)[len(taken) // 2]}


async def limits(engine: ProcessEngine) -> object:
    """Control groups that root made for the agent, and the agent makes its own in."""
    cgroups = Cgroups.find(f"test{os.getpid()}")
    if cgroups is None:
        return {"cgroups": None}
    held = ProcessEngine(engine.root, engine.user, cgroups=cgroups, spawner=engine.spawner)
    told = await ended(held, launch("cat /proc/self/cgroup"))
    await held.clear("e1")
    await held.start(launch("echo on; sleep 60", "e2"))
    with trio.fail_after(WITHIN_S):
        await printed(held, 1, "e2")
        leaves = "setsid sleep 60 >/dev/null 2>&1 & grep shoal/test /proc/self/cgroup | tail -n 1"
        beside = await held.run_beside("e2", ["sh", "-c", leaves])
        await held.stop("e2")
        await held.wait("e2")
    await held.clear("e2")
    cgroups.sweep([])
    return {**told, "cgroups": cgroups.version, "beside": beside}


async def sandbox(engine: ProcessEngine) -> object:
    """One that the agent's own service may not make, and the spawner's tasks may."""
    libc = ctypes.CDLL(None, use_errno=True)
    forbid_namespaces(libc)
    hidden = (engine.root.parent / "hidden",)
    own = Sandbox.find(None, True, hidden, ())
    made = Sandbox.find(engine.user, True, hidden, (), engine.spawner)
    held = ProcessEngine(engine.root, engine.user, sandbox=made, spawner=engine.spawner)
    await held.start(launch("echo on; sleep 60"))
    with trio.fail_after(WITHIN_S):
        await printed(held, 1)
        look = "id -u; ls -d /proc/[0-9]* | wc -l; readlink /proc/self/ns/mnt >&2"
        beside = await held.run_beside("e1", ["sh", "-c", look])
        await held.stop("e1")
        told = await held.wait("e1")
    outside = os.readlink("/proc/self/ns/mnt")
    return {
        "own": own is not None, "made": made is not None, "beside": beside, "outside": outside,
        "reason": told.reason.value, "detail": told.detail,
    }  # fmt: skip


async def volumes(engine: ProcessEngine) -> object:
    """Two runs of a slot find the same directory, which is a task's own; and it can be removed."""
    docker = DockerEngine(engine.root / "containers", Path("/nowhere"), "me")
    kept = Volumes(engine.root / "volumes", engine.user, docker, engine.spawner)
    task = {
        "Engine": {"Type": "process", "Params": {"Command": ["true"]}},
        "Volumes": [{"Name": "data", "Target": "/kept"}],
    }
    spec = JobSpec.from_plain({"Name": "job", "Type": "batch", "Tasks": [task]})
    script = "mkdir -p kept/deep; echo $$ >>kept/deep/x; wc -l <kept/deep/x; stat -Lc %U:%a kept"
    told = []
    for name in ("e1", "e2"):
        start = StartTask(ExecutionId(name), JobId("j"), spec, {}, None, (), 0)
        await kept.prepare(start, await engine.directories.prepare(name))
        told.append(await ended(engine, launch(script, name)))
        await engine.clear(name)
    (directory,) = kept.directories(start).values()
    there = directory.exists()
    kept.keeps = lambda job, standing: False
    await kept.prune()
    left = sorted(path.name for path in (engine.root / "volumes").iterdir())
    return {"told": told, "there": there, "left": left}


def forbid_namespaces(libc: ctypes.CDLL) -> None:
    """As RestrictNamespaces=yes of its unit does: a filter on calls of x86-64 and of arm64."""
    load, equal, any_of, end = 0x20, 0x15, 0x45, 0x06
    clone, unshare = (56, 272) if os.uname().machine == "x86_64" else (220, 97)
    refused, absent, allowed = 0x00050001, 0x00050026, 0x7FFF0000  # EPERM, ENOSYS
    steps = [
        (load, 0, 0, 0), (equal, 0, 1, 435), (end, 0, 0, absent),  # clone3
        (equal, 1, 0, clone), (equal, 0, 3, unshare), (load, 0, 0, 16),
        (any_of, 0, 1, 0x7E020080), (end, 0, 0, refused), (end, 0, 0, allowed),
    ]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    )
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, by a filter


def running() -> str:
    """All command lines, as far as they may be read."""
    texts = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            texts.append(path.read_text())
        except OSError:
            continue
    return "\n".join(texts)


SCENARIOS: dict[str, Callable[[ProcessEngine], Awaitable[object]]] = {
    each.__name__: each
    for each in (
        identity,
        paths,
        gains,
        files,
        deep,
        stop,
        leave,
        adopt,
        beside,
        speed,
        limits,
        sandbox,
        volumes,
    )
}


async def main(scenario: str, root: str, path: str) -> None:
    spawner = Spawner(Path(path))
    engine = ProcessEngine(Path(root), spawner.user(), spawner=spawner)
    print(json.dumps(await SCENARIOS[scenario](engine)))
    engine.close()


if __name__ == "__main__":
    me = pwd.getpwnam(AGENT)
    os.setgroups([])
    os.setresgid(me.pw_gid, me.pw_gid, me.pw_gid)
    os.setresuid(me.pw_uid, me.pw_uid, me.pw_uid)
    os.umask(0o077)  # as the installed service has it
    trio.run(main, *sys.argv[1:])
