"""What keeps an agent from starting is told with the way out; the rest it survives."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from agent.engines.rlimits import limited, processes_more
from agent.engines.task import TaskLimits
from tests.integration.as_nobody import NOBODY
from tests.lab import (
    COMMAND_S,
    LISTEN,
    ROOT,
    Device,
    Done,
    Lab,
    environment_of,
    process_job,
)

AS_NOBODY = (sys.executable, "-m", "tests.integration.as_nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab(1)
    yield made
    made.close()


def ends_with(done: Done, *parts: str, code: int = 1) -> None:
    """One sentence on stderr, and nothing like a traceback."""
    assert done.code == code, done
    for part in parts:
        assert part in done.err, done
    lines = [line for line in done.err.splitlines() if line.startswith("shoal: ")]
    assert len(lines) == 1 and "Traceback" not in done.err, done.err


# ---- another is there already -----------------------------------------------------------------


def test_a_second_agent_on_one_data_directory_names_the_first(lab: Lab) -> None:
    lab.start(lab[0])
    again = lab.up(lab[0], "--socket", str(lab.directory / "other.sock"))
    ends_with(again, "another agent", f"process {lab[0].pid}", "a data directory of its own")


def test_a_port_that_is_taken_is_named(lab: Lab) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = lab.shoal(lab[0], "up", "--no-mdns", "--listen", f"/ip4/127.0.0.1/tcp/{port}")
    ends_with(done, str(port), "--listen")


def test_a_socket_where_another_agent_answers_is_left_to_it(lab: Lab) -> None:
    lab.start(lab[0])
    other = lab.add("d01")
    done = lab.shoal(other, "--socket", str(lab[0].socket), "up", "--no-mdns")
    ends_with(done, "another agent answers", "--data-dir")
    assert lab.shoal(lab[0], "peers").code == 0


def test_no_membership_says_how_to_get_one(lab: Lab) -> None:
    blank = lab.blank("blank")
    ends_with(lab.up(blank), "shoal init", "shoal join TOKEN")
    shutil.copytree(lab[0].data_dir, blank.data_dir)
    (blank.data_dir / "membership").unlink()
    ends_with(lab.up(blank), "belongs to no shoal yet", "shoal join TOKEN")


def test_a_command_without_an_agent_says_how_to_start_one(lab: Lab) -> None:
    for words in (("peers",), ("run", "--", "true"), ("jobs",), ("invite",), ("events",)):
        ends_with(lab.shoal(lab[0], *words), "no agent is running", "shoal up", code=3)
    done = lab.shoal(lab[0], "doctor")
    assert done.code != 0 and "shoal up" in done.out + done.err, done


# ---- rights -----------------------------------------------------------------------------------


def as_nobody(device: Device, *words: str) -> list[str]:
    return [*AS_NOBODY, "--data-dir", str(device.data_dir), *words]


def nobody_types(device: Device, *words: str) -> Done:
    done = subprocess.run(
        as_nobody(device, *words), check=False, capture_output=True, text=True, cwd=ROOT,
        env=environment_of(device), timeout=COMMAND_S,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


@as_root
def test_a_data_directory_of_somebody_else_is_named(lab: Lab) -> None:
    done = nobody_types(lab[0], "up", *LISTEN)
    ends_with(done, str(lab[0].data_dir), "Permission denied")
    blank = lab.blank("blank")
    ends_with(nobody_types(blank, "init", "home"), str(blank.data_dir), "cannot be written")
    shutil.copytree(lab[0].data_dir, blank.data_dir)
    give(blank, NOBODY)
    (blank.data_dir / "shoal.db").mkdir()
    blank.data_dir.chmod(0o500)
    ends_with(nobody_types(blank, "up", *LISTEN), str(blank.data_dir), "cannot be written")


def give(device: Device, uid: int) -> None:
    for path in (device.data_dir, *device.data_dir.rglob("*")):
        os.chown(path, uid, uid)


@as_root
def test_an_agent_that_is_not_root_runs_and_its_doctor_says_what_that_means(lab: Lab) -> None:
    give(lab[0], NOBODY)
    with (lab[0].data_dir / "agent.log").open("ab") as log:
        lab[0].process = subprocess.Popen(
            as_nobody(lab[0], "up", *LISTEN), stderr=log, env=environment_of(lab[0]), cwd=ROOT
        )
    lab.until(lambda: lab.shoal(lab[0], "peers").code == 0, "it answers")
    done = lab.shoal(lab[0], "run", "-q", "--", "id", "-u")
    assert (done.code, done.out) == (0, f"{NOBODY}\n"), done
    look = ("sh", "-c", "grep -E 'Max (data|processes)' /proc/self/limits")
    limits = lab.shoal(lab[0], "run", "-q", "--memory", "300Mi", "--", *look).out.splitlines()
    held = {line[:16].strip(): line.split()[-2] for line in limits}
    expected = limited(TaskLimits(memory_bytes=300 << 20), NOBODY)
    assert held["Max data size"] == str(expected.data_bytes_max), "it may make no control groups"
    assert int(held["Max processes"]) > processes_more(), "the agent's own come on top"
    doctor = lab.shoal(lab[0], "doctor").out
    assert "can read this device's key" in doctor and "run it as root" in doctor


@as_root
def test_a_socket_that_is_not_permitted_says_who_may(lab: Lab) -> None:
    lab.start(lab[0])
    lab[0].data_dir.chmod(0o711)
    done = nobody_types(lab[0], "peers")
    ends_with(done, "not allowed to use the agent's socket", "sudo", code=3)


@as_root
def test_a_socket_in_a_closed_place_says_what_to_choose(lab: Lab) -> None:
    shut = lab.directory / "shut"
    shut.write_text("a file")
    ends_with(lab.up(lab[0], "--socket", str(shut / "s.sock")), "cannot listen on", "--socket")
    ends_with(lab.up(lab[0], "--socket", str(shut)), "is no socket", "--socket")


# ---- what the disk holds ----------------------------------------------------------------------


def test_a_corrupt_database_is_set_aside_and_the_agent_starts(lab: Lab) -> None:
    lab.start(lab[0])
    assert lab.shoal(lab[0], "run", "--", "true").code == 0
    lab.kill(lab[0])
    for side in ("-wal", "-shm"):
        (lab[0].data_dir / f"shoal.db{side}").unlink(missing_ok=True)
    (lab[0].data_dir / "shoal.db").write_bytes(os.urandom(20_000))
    lab.start(lab[0])
    assert (lab[0].data_dir / "shoal.db.corrupt-1").exists()
    doctor = lab.shoal(lab[0], "doctor")
    assert "was damaged and is kept as shoal.db.corrupt-1" in doctor.out, doctor
    assert lab.shoal(lab[0], "run", "--", "true").code == 0


def test_a_database_that_is_gone_is_begun_anew_and_told_of(lab: Lab) -> None:
    lab.start(lab[0])
    lab.kill(lab[0])
    for path in lab[0].data_dir.glob("shoal.db*"):
        path.unlink()
    lab.start(lab[0])
    assert "the database was missing" in lab.shoal(lab[0], "doctor").out


def test_what_batch_slots_kept_survives_the_loss_of_the_database(lab: Lab) -> None:
    volumes = lab[0].data_dir / "volumes"
    keeps = {"Volumes": [{"Name": "state", "Target": "keep"}]}
    lab.start(lab[0])
    with lab[0].client() as client:
        job = client.submit(process_job("touch", "keep/it", name="keeper", Task=keeps))["job"]
        lab.until(lambda: client.job(job)["state"] == "completed", "it kept something")
    lab.kill(lab[0])
    for path in lab[0].data_dir.glob("shoal.db*"):
        path.unlink()
    lab.start(lab[0])
    with lab[0].client() as client:  # its deletion has all volumes looked through
        spec = process_job("sleep", "600", name="passing", Type="daemon", Task=keeps)
        client.submit(spec)
        lab.until(lambda: list(volumes.glob("standing-*")), "the daemon has its volume")
        assert lab.shoal(lab[0], "job", "delete", "passing", "--yes").code == 0
        lab.until(lambda: not list(volumes.glob("*standing-*")), "nobody wants that any more", 60)
    assert [path.name for path in volumes.glob("one-off-*/*/*")] == ["it"]


@pytest.mark.parametrize("name", ["identity.key", "membership"])
def test_a_damaged_key_or_membership_is_left_as_it_is_and_told_of(lab: Lab, name: str) -> None:
    path = lab[0].data_dir / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ends_with(lab.up(lab[0]), name, "damaged", "shoal join")
    assert path.read_bytes() == data


# ---- one identity, two devices ----------------------------------------------------------------


def copy_of(lab: Lab, device: Device, name: str) -> Device:
    copy = lab.blank(name)
    shutil.copytree(device.data_dir, copy.data_dir, ignore=shutil.ignore_patterns("*.sock", "lock"))
    return copy


def test_a_copied_card_is_refused_on_another_board_with_both_ways_out(lab: Lab) -> None:
    copy = copy_of(lab, lab[0], "copy")
    copy.environment = {"SHOAL_BOARD_ID": "another"}
    ends_with(lab.up(copy), "another board", "--new-identity", "--adopt-board")


def test_a_card_that_was_moved_on_purpose_is_adopted_for_good(lab: Lab) -> None:
    moved = copy_of(lab, lab[0], "moved")
    moved.environment, moved.flags = {"SHOAL_BOARD_ID": "another"}, ["--adopt-board"]
    lab.start(moved, wait=False, bootstrap=False)
    assert lab.shoal(moved, "peers").code == 0
    lab.kill(moved)
    moved.flags = []
    lab.start(moved, wait=False, bootstrap=False)


def test_an_identity_that_lives_twice_ends_the_copy_and_alarms_the_shoal(lab: Lab) -> None:
    twin = lab.add("d01")
    lab.start(lab[0], twin)
    copy = copy_of(lab, twin, "copy")
    boot = ("--bootstrap", lab.address(lab[0]))
    ends_with(lab.up(copy, *boot), "another agent with this device's key", "--new-identity")
    told = lab.shoal(lab[0], "events")
    assert "two devices run with the identity of d01" in told.out, told
    doctor = lab.shoal(lab[0], "doctor")
    assert doctor.code == 1 and "d01" in doctor.out, doctor
    assert lab.shoal(twin, "run", "--", "true").code == 0, "the first goes on"


def test_a_copied_card_gets_an_identity_of_its_own_by_a_token(lab: Lab) -> None:
    lab.start(lab[0])
    copy = copy_of(lab, lab[0], "copy")
    copy.environment = {"SHOAL_BOARD_ID": "another"}
    token = lab.shoal(lab[0], "invite").out.strip()
    joined = lab.shoal(copy, "join", "--new-identity", token, "--name", "copy")
    assert joined.code == 0, joined
    lab.start(copy, wait=False, bootstrap=False)
    peers = lab.shoal(copy, "peers", "--json").out
    lab.until(lambda: lab.shoal(copy, "peers").out.count("alive") == 1, "it knows the first")
    assert lab[0].peer not in [p for p in peers.split('"') if p.startswith("copy")]


# ---- clock and configuration ------------------------------------------------------------------


def test_a_clock_before_2026_starts_jobs_run_and_the_doctor_says_it(
    lab: Lab, clock_of_1999: dict[str, str]
) -> None:
    lab[0].environment = clock_of_1999
    lab.start(lab[0])
    assert lab.shoal(lab[0], "run", "--", "true").code == 0
    assert "time cannot be trusted" in lab.shoal(lab[0], "doctor").out
    assert lab.shoal(lab[0], "invite").code == 0


@pytest.fixture(scope="module")
def clock_of_1999(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process whose wall clock says 1999: libfaketime in ten lines."""
    directory = tmp_path_factory.mktemp("clock")
    source = directory / "clock.c"
    source.write_text(
        "#define _GNU_SOURCE\n#include <time.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n"
        "int clock_gettime(clockid_t id, struct timespec *at) {\n"
        "  int failed = syscall(SYS_clock_gettime, id, at);\n"
        "  if (!failed && id == CLOCK_REALTIME) at->tv_sec = 940000000 + at->tv_sec % 100000;\n"
        "  return failed;\n}\n"
    )
    library = directory / "clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listn = ['/ip4/0.0.0.0/tcp/1']", "did you mean 'listen'"),
        ("preset = 'fast'", "lan, wan, metered"),
        ("[offer]\ncpu = 'much'", "offer.cpu"),
        ("offer = 3", "[offer]"),
        ("[task]\nuser = 'no-such-user'", "no-such-user"),
        ("listen = ['nonsense']", "nonsense"),
        ("listen = ['/ip4/203.0.113.7/tcp/0']", "203.0.113.7"),
        ("bootstrap = ['/ip4/10.0.0.1/tcp/1']", "/p2p"),
        ("mdns = [", "not TOML"),
    ],
)
def test_a_wrong_configuration_is_told_by_its_place(lab: Lab, text: str, said: str) -> None:
    (lab[0].data_dir / "config.toml").write_text(text)
    done = lab.shoal(lab[0], "up", *(() if text.startswith("listen") else LISTEN))
    assert done.code in (1, 2) and said in done.err, done
    lines = [line for line in done.err.splitlines() if line.startswith("shoal: ")]
    assert len(lines) == 1 and "Traceback" not in done.err, done.err


def test_it_stops_at_once_and_quietly_when_asked(lab: Lab) -> None:
    lab.start(lab[0])
    assert lab[0].process is not None
    begun = time.monotonic()
    lab[0].process.terminate()
    assert lab[0].process.wait(60) == 0
    lab[0].process = None
    assert time.monotonic() - begun < 10
    assert "Traceback" not in lab[0].log()
    assert not lab[0].socket.exists()
