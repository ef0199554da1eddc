"""The spawner: tasks of an agent that is not root run as another user, and outlive both."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.engines.spawner import MESSAGE_BYTES_MAX, Spawner
from agent.engines.supervisor import supervisor_path
from tests.agent.engines.spawned import AGENT, TASKS

ROOT = Path(__file__).parents[3]
PROGRAMS = {"supervise.c": "shoal-supervise", "spawn.c": "shoal-spawn"}
WARNINGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-static")
WITHIN_S = 60.0
CAP_SETUID = 7
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it is root's")
agent_user, task_user = pwd.getpwnam(AGENT), pwd.getpwnam(TASKS)


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    """Compiled from their sources, where any user may run them."""
    made = Path(tempfile.mkdtemp(prefix="shoal-programs-"))
    made.chmod(0o755)
    for source, name in PROGRAMS.items():
        path = supervisor_path().with_name(source)
        subprocess.run(["gcc", *WARNINGS, "-o", made / name, path], check=True)
    yield made
    shutil.rmtree(made)


class Spawning:
    """A spawner, and a directory of the agent's to start tasks in."""

    def __init__(self, programs: Path) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="shoal-spawn-"))
        self.place.chmod(0o711)
        self.root = self.place / "executions"
        self.root.mkdir()
        os.chown(self.root, agent_user.pw_uid, agent_user.pw_gid)
        self.socket = self.place / "tasks.sock"
        self.command = [str(programs / "shoal-spawn"), "--socket", str(self.socket), AGENT, TASKS]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        give_up_at = time.monotonic() + WITHIN_S
        while True:
            try:
                Spawner(self.socket).user()
                return
            except OSError:
                assert time.monotonic() < give_up_at and self.process.poll() is None

    def run(self, scenario: str) -> Any:
        command = [sys.executable, "-m", "tests.agent.engines.spawned", scenario]
        done = subprocess.run(
            [*command, str(self.root), str(self.socket)],
            check=False, capture_output=True, text=True, timeout=WITHIN_S, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def spawning(programs: Path) -> Iterator[Spawning]:
    made = Spawning(programs)
    yield made
    made.end()
    shutil.rmtree(made.place)


def test_a_task_is_another_user_without_any_right(spawning: Spawning) -> None:
    told = spawning.run("identity")
    lines = told["out"].split("\n")
    assert told["code"] == 0, told
    assert lines[0] == str(task_user.pw_uid) and lines[1] == str(task_user.pw_gid)
    rights = dict(line.split(":\t") for line in lines[2:-2])
    assert {rights[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
    assert rights["NoNewPrivs"] == "1"
    assert lines[-2] == str(spawning.root / "e1/work")


def test_it_reaches_its_own_directories_by_their_names(spawning: Spawning) -> None:
    told = spawning.run("paths")
    assert told["code"] == 0 and told["out"].startswith("read\n"), told
    assert str(spawning.root / "e1/tmp") in told["out"]


def test_a_command_with_rights_of_its_own_gives_it_none(spawning: Spawning) -> None:
    program = spawning.place / "mighty"
    shutil.copy(shutil.which("grep") or "grep", program)
    program.chmod(0o755)
    # Of <linux/capability.h>: revision 2, effective, CAP_SETUID permitted, none inheritable.
    rights = struct.pack("<5I", 0x02000001, 1 << CAP_SETUID, 0, 0, 0)
    os.setxattr(program, "security.capability", rights)
    told = spawning.run("gains")
    assert told["code"] == 0 and int(told["out"].split(":")[1], 16) == 0, told


def test_its_files_are_its_own_while_it_runs_and_the_agents_after(spawning: Spawning) -> None:
    told = spawning.run("files")
    assert told["code"] == 0 and told["out"] == f"hello{TASKS}\n", told
    assert told["text"] == "hellomore\n" and told["shut"] == "x\n"
    assert told["found"] == ["in", "link", "shut", "text", "x"]
    assert told["owners"] == [agent_user.pw_uid]
    assert (told["left"], told["gone"]) == (False, True)
    assert told["passwd"] == 0, "where a link leads is nobody's to take"


def test_whatever_depth_it_made_is_deleted(spawning: Spawning) -> None:
    told = spawning.run("deep")
    assert (told["code"], told["left"]) == (0, []), told


def test_it_is_stopped_at_once_and_however_deaf(spawning: Spawning) -> None:
    assert spawning.run("stop") == {"deaf": "stopped", "quick": "stopped"}


def adopted(spawning: Spawning, left: object) -> None:
    assert spawning.run("adopt") == {
        "running": True,
        "beside": [0, str(spawning.root / "e1/work")],
        "code": 7,
        "same": left,
    }


def test_the_next_agent_finds_it_and_a_command_runs_beside_it(spawning: Spawning) -> None:
    adopted(spawning, spawning.run("leave"))


def test_tasks_outlive_a_spawner_that_is_killed(spawning: Spawning) -> None:
    left = spawning.run("leave")
    spawning.process.kill()
    spawning.process.communicate(timeout=WITHIN_S)
    spawning.start()
    adopted(spawning, left)


def test_a_command_beside_is_told_of_and_ends_with_who_asked(spawning: Spawning) -> None:
    told = spawning.run("beside")
    assert told["absent"] == [127, "no-such-command: No such file or directory"]
    assert told["killed"] == [137, "ill"] and told["mark"] is False


def test_the_start_of_a_task_costs_milliseconds(spawning: Spawning) -> None:
    """Measured in scripts/test-install; here, that nothing waits in it."""
    assert spawning.run("speed")["ms"] < 100


def test_limits_hold_where_root_made_the_groups(spawning: Spawning) -> None:
    told = spawning.run("limits")
    assert told["cgroups"] in (1, 2), "root may make them on any machine of ours"
    assert told["code"] == 0 and "/shoal/test" in told["out"], told
    code, said = told["beside"]
    assert code == 0 and said.endswith("-e2"), "what runs beside it is held as it is"


def rights_of_its_unit() -> str:
    unit = (ROOT / "scripts/systemd/shoal-tasks.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")]
    names = line.removeprefix("CapabilityBoundingSet=").lower().split()
    return "-all," + ",".join("+" + name.removeprefix("cap_") for name in names)


def test_groups_are_made_in_a_root_that_is_closed_to_its_owner_as_the_kernels_is(
    programs: Path, tree: Path
) -> None:
    """Of a tree that is nobody's part the kernel lets not even root write to the root, 0555, unless
    by a right to pass over that. A container's is 0755, so no test in one saw this."""
    tree.chmod(0o555)
    place = Path(tempfile.mkdtemp(prefix="shoal-spawn-"))
    inside = 'mount --bind "$0" /sys/fs/cgroup && exec setpriv --bounding-set "$@"'
    command = [rights_of_its_unit(), str(programs / "shoal-spawn")]
    command += ["--socket", str(place / "tasks.sock"), AGENT, TASKS]
    process = subprocess.Popen(["unshare", "-m", "sh", "-ec", inside, str(tree), *command])
    try:
        give_up_at = time.monotonic() + WITHIN_S
        while not (place / "tasks.sock").exists():  # it listens once they are made
            assert time.monotonic() < give_up_at and process.poll() is None
            time.sleep(0.01)
        assert (tree / "shoal").owner() == AGENT
        assert stat.S_IMODE(tree.stat().st_mode) == 0o555
        assert (tree / "shoal/supervisors").is_dir()
    finally:
        process.terminate()
        process.wait(60)
        for made in (tree / "shoal/supervisors", tree / "shoal"):
            if made.exists():
                made.rmdir()
        shutil.rmtree(place)


def test_a_sandbox_is_made_where_the_agent_itself_may_make_none(spawning: Spawning) -> None:
    told = spawning.run("sandbox")
    assert (told["own"], told["made"]) == (False, True), told
    assert told["reason"] == "stopped", told
    code, said = told["beside"]
    assert code == 0 and said.startswith("mnt:") and said != told["outside"], told


def test_volumes_are_the_tasks_and_can_be_removed(spawning: Spawning) -> None:
    told = spawning.run("volumes")
    said = [each["out"] or each for each in told["told"]]
    assert said == [f"{count}\n{TASKS}:700\n" for count in (1, 2)], told
    assert (told["there"], told["left"]) == (True, [])


@pytest.mark.parametrize(
    "message",
    [b"", b"\0", b"start\0", b"start", b"take\0a\0b\0", b"beside\0arg=true\0", b"x" * 100_000],
)
def test_what_is_no_request_is_refused_and_the_next_one_heard(
    spawning: Spawning, message: bytes
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.settimeout(WITHIN_S)
        line.connect(str(spawning.socket))
        line.send(message)
        assert line.recv(100) in (b"failed 22", b"")
    assert Spawner(spawning.socket).user().uid == task_user.pw_uid


@pytest.mark.parametrize("count", [2, 4, 100])
def test_too_few_or_too_many_descriptors_are_refused_and_closed(
    spawning: Spawning, count: int
) -> None:
    own = Path(f"/proc/{spawning.process.pid}/fd")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.settimeout(WITHIN_S)
        line.connect(str(spawning.socket))
        held = set()
        for _ in range(2):
            socket.send_fds(
                line, [b"beside\0arg=true\0"], [spawning.process.stderr.fileno()] * count
            )
            assert line.recv(100).startswith(b"failed ")
            line.send(b"hello\0")  # answered once it is done with what came before
            assert line.recv(100).startswith(b"%d:" % task_user.pw_uid)
            held.add(len(os.listdir(own)))
        assert len(held) == 1


def test_nobody_but_the_agent_is_heard(spawning: Spawning) -> None:
    os.chmod(spawning.socket, 0o666)  # noqa: S103 -- what it then relies on is itself
    script = (
        "import os,socket,sys; os.setgroups([]); os.setresgid(2,2,2); os.setresuid(2,2,2);"
        "s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); s.connect(sys.argv[1]);"
        "s.settimeout(10); s.send(b'hello\\0'); print(s.recv(99))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(spawning.socket)],
        check=False, capture_output=True, text=True, timeout=WITHIN_S,
    )  # fmt: skip
    assert done.stdout.strip() in ("b''", "") and TASKS not in done.stdout


@pytest.mark.parametrize("users", [("root", TASKS), (AGENT, "root"), (AGENT, AGENT)])
def test_root_is_neither_of_the_two(programs: Path, tmp_path: Path, users: tuple[str, str]) -> None:
    command = [programs / "shoal-spawn", "--socket", tmp_path / "s", *users]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WITHIN_S)
    assert done.returncode == 2 and "neither is root" in done.stderr


def test_where_nobody_answers_the_way_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"systemctl status shoal-tasks\.socket"):
        Spawner(tmp_path / "absent").user()


def test_what_does_not_fit_is_refused_here(spawning: Spawning) -> None:
    with pytest.raises(OSError, match="have more than"):
        environment = {"BIG": "x" * MESSAGE_BYTES_MAX}
        Spawner(spawning.socket).beside(Path("/"), environment, ["true"], (0, 1, 2))
