"""What a task may do on a device: as root's agent, on a real machine, with hostile files too."""

from __future__ import annotations

import io
import os
import pwd
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gated import Gated
from tests.lab import Lab, LabError, process_job, supervisors_of
from tests.leftovers import leftovers

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="an agent that is not root cannot")
LOG_BYTES = 200_000


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(2)
    for device in lab.devices:
        device.flags = ["--task-log-bytes-max", str(LOG_BYTES)]
    with lab:
        yield lab


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    """Whatever became of a task: no process, mount, partial file or directory of it is left."""
    yield
    try:
        lab.until(lambda: not leftovers(lab), "nothing is left", 120)
    except LabError:
        assert leftovers(lab) == []


def run(lab: Lab, script: str, *words: str) -> str:
    done = lab.shoal(lab[0], "run", "-q", *words, "--", "sh", "-c", script)
    return done.out + done.err


# ---- whom it runs as, and what that keeps from it ---------------------------------------------


@as_root
def test_a_task_of_roots_agent_is_nobody_without_groups_or_capabilities(lab: Lab) -> None:
    user = pwd.getpwnam("nobody")
    out = run(lab, "id -u; id -G; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status")
    uid, groups, effective, no_new = out.splitlines()
    assert (int(uid), int(groups)) == (user.pw_uid, user.pw_gid)
    assert int(effective.split()[1], 16) == 0
    assert no_new.split()[1] == "1"


@as_root
def test_a_task_reaches_neither_key_nor_database_nor_socket(lab: Lab) -> None:
    for device in lab.devices:
        secrets = ("identity.key", "membership", "shoal.db", "shoal.db-wal", "lock", "archives")
        for name in secrets:
            path = device.data_dir / name
            if not path.exists():
                continue
            out = run(lab, f"cat {path}; ls {path}; echo > {path}; rm -rf {path}")
            assert out.count("Permission denied") >= 2, (name, out)
            assert path.exists()
        out = run(lab, f"ls {device.data_dir}; touch {device.data_dir}/planted")
        assert out.count("Permission denied") == 2, out
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{device.socket}')"
        out = run(lab, f'python3 -c "{connect}" || /usr/bin/python3 -c "{connect}"')
        assert "ermission denied" in out or "not found" in out, out


@as_root
def test_a_task_sees_nothing_of_another_execution(lab: Lab) -> None:
    gated = Gated(lab, "other")
    with lab[0].client() as client:
        task = {"Env": {"SECRET": "hunter2"}}
        job = client.submit(process_job(*gated.command(), name="other", Task=task))["job"]
        lab.until(gated.executions, "it runs")
    try:
        (execution,) = gated.executions()
        for device in lab.devices:
            directory = device.data_dir / "executions" / execution
            out = run(lab, f"cat {directory}/spec {directory}/stdout.*; ls {directory}")
            assert "hunter2" not in out and "begun" not in out, out
    finally:
        gated.open()
    assert lab.shoal(lab[0], "job", "wait", job).code == 0


# ---- what it leaves ---------------------------------------------------------------------------


def test_a_flood_of_output_is_bounded_on_disk_and_its_end_is_kept(lab: Lab) -> None:
    script = "i=0; while [ $i -lt 40 ]; do head -c 100000 /dev/zero | tr '\\0' x; i=$((i+1)); done"
    done = lab.shoal(
        lab[0], "run", "-d", "--name", "flood", "--", "sh", "-c", f"{script}; echo END"
    )
    assert done.code == 0
    assert lab.shoal(lab[1], "job", "wait", "flood").code == 0
    kept = lab.shoal(lab[1], "logs", "flood").out
    assert kept.endswith("xEND\n") and len(kept) <= 2 * LOG_BYTES
    sizes = [
        path.stat().st_size
        for device in lab.devices
        for path in (device.data_dir / "executions").glob("*/stdout.*")
    ]
    assert sum(sizes) <= 2 * LOG_BYTES + 100_000


def test_a_million_result_files_are_refused_with_the_reason(lab: Lab) -> None:
    some = "mkdir $d; (cd $d; seq 1000 | xargs touch)"
    fill = f"mkdir out; cd out; for d in $(seq 1000); do {some}; done"
    words = ("--name", "million", "--cpu", "1", "-o", "out", "--", "sh", "-c", fill)
    assert lab.shoal(lab[0], "run", "-d", *words).code == 0
    with lab[1].client() as client:
        lab.until(lambda: client.job("million")["state"] == "completed", "it ended", 400)
        (slot,) = client.job("million")["slots"]
    assert (slot["exit_code"], slot["archive"]) == (0, ""), slot
    described = lab.shoal(lab[1], "job", "describe", "million").out
    assert "Files left out of 0: more than 10000 result files: none is kept" in described


def test_a_sparse_result_of_ten_gigabytes_is_refused_with_the_reason(lab: Lab) -> None:
    words = ("--name", "hole", "-o", "out", "--", "sh", "-c", "mkdir out; truncate -s 10G out/hole")
    done = lab.shoal(lab[0], "run", *words)
    assert done.code == 0, done
    with lab[1].client() as client:
        (slot,) = client.job("hole")["slots"]
    assert (slot["state"], slot["exit_code"], slot["archive"]) == ("completed", 0, ""), slot
    reason = "more than 1024 MiB of result files: none is kept"
    assert f"Files left out of 0: {reason}" in lab.shoal(lab[1], "job", "describe", "hole").out
    got = lab.shoal(lab[1], "job", "get", "hole")
    assert reason in got.err, got


LINKS = """
cd out
ln -s /etc/shadow absolute
ln -s ../../../identity.key parent
ln -s . loop
mkfifo pipe
ln /etc/shadow hard || echo no hard link
echo x > file
"""


@as_root
def test_links_in_a_result_come_out_as_nothing_and_are_told_of(lab: Lab, tmp_path: Path) -> None:
    words = ("-q", "--name", "links", "-o", "out", "-o", "shadow", "--", "sh", "-c")
    done = lab.shoal(lab[0], "run", *words, f"mkdir out; ln -s /etc/shadow shadow; {LINKS}")
    assert done.code == 0, done
    described = lab.shoal(lab[1], "job", "describe", "links").out
    (told,) = re.findall(r"Files left out of 0: (.*)", described)
    for left_out in ("out/absolute", "out/loop", "out/parent"):
        assert f"{left_out}: neither a file nor a directory" in told, described
    assert told.endswith(f"; and {2 + ('no hard link' not in done.out)} more"), described
    got = lab.shoal(lab[1], "job", "get", "links", "-o", str(tmp_path / "got"))
    assert got.code == 0, got
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "got", "out"]
    (archive,) = lab.directory.glob(f"*/results/{archive_of(lab, 'links')}")
    with tarfile.open(archive) as kept:
        assert [(each.name, each.type) for each in kept] == [
            ("out", tarfile.DIRTYPE),
            ("out/file", tarfile.REGTYPE),
        ]


def archive_of(lab: Lab, job: str) -> str:
    with lab[0].client() as client:
        return str(client.job(job)["slots"][0]["archive"])


def test_what_a_task_left_running_ends_with_it(lab: Lab) -> None:
    done = lab.shoal(lab[0], "run", "-q", "--", "sh", "-c", "sleep 1234 & echo $!")
    pid = int(done.out)
    lab.until(lambda: not os.path.exists(f"/proc/{pid}"), "nothing of it is left", 60)


def test_a_stopped_task_that_ignores_it_is_killed(lab: Lab) -> None:
    gated = Gated(lab, "deaf")
    command = ("sh", "-c", f"trap '' TERM; {gated.command()[2]}")
    with lab[0].client() as client:
        job = client.submit(process_job(*command, name="deaf"))["job"]
        lab.until(gated.executions, "it runs")
        client.stop(job)
        lab.until(lambda: client.job(job)["state"] == "stopped", "it is stopped", 60)
    lab.until(lambda: not [p for d in lab.devices for p in supervisors_of(d)], "it is gone", 60)


# ---- in a sandbox -----------------------------------------------------------------------------


def offline(*command: str, **more: Any) -> dict[str, Any]:
    return process_job(*command, name="offline", Task={"Network": {"Type": "None"}}, **more)


def test_a_program_that_asked_for_no_network_has_none(lab: Lab) -> None:
    with lab[0].client() as client:
        job = client.submit(offline("cat", "/proc/net/route"))["job"]
        lab.until(lambda: client.job(job)["state"] not in ("pending", "running"), "it ended", 60)
        slot = client.job(job)["slots"][0]
        assert (slot["exit_code"], slot["stdout_tail"].count("\n")) == (0, 1), slot  # its heading


def test_a_device_without_sandboxes_says_so_and_another_whose_owner_wants_them_uses_them() -> None:
    lab = Lab(2)
    lab.devices[0].flags = ["--task-sandbox", "never"]
    lab.devices[1].flags = ["--task-sandbox", "always"]
    with lab, lab[0].client() as client:
        there = {"Key": "shoal/peer", "Operator": "=", "Values": [lab[0].peer]}
        job = client.submit(offline("true", Constraints=[there]))["job"]
        lab.until(lambda: client.job(job)["why"], "a round is over", 60)
        asked = {each["name"]: each["reason"] for each in client.job(job)["why"][0]["asked"]}
        assert "only bubblewrap can keep a program from the network" in asked["d00"]
        client.stop(job)
        where = f"shoal/peer={lab[1].peer}"
        done = lab.shoal(lab[0], "run", "-q", "--constraint", where, "--", "ls", "/root", "/home")
        assert (done.code, done.out) == (0, "/home:\n\n/root:\n")
        there["Values"] = [lab[1].peer]
        keeps = {"Volumes": [{"Name": "state", "Target": "keep"}]}
        script = "echo kept > keep/it && cat keep/it"
        spec = process_job("sh", "-c", script, name="keeper", Task=keeps, Constraints=[there])
        job = client.submit(spec)["job"]
        lab.until(lambda: client.job(job)["state"] not in ("pending", "running"), "it ended", 60)
        assert client.job(job)["slots"][0]["stdout_tail"] == "kept\n", client.job(job)


# ---- hostile archives -------------------------------------------------------------------------


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


HOSTILE = {
    "symlink": packed((entry("l", tarfile.SYMTYPE, "/etc"), b"")),
    "link in a path": packed(
        (entry("l", tarfile.SYMTYPE, "/tmp"), b""),  # noqa: S108 -- nothing is written there
        (entry("l/planted-by-shoal-test"), b"x"),
    ),
    "hard link": packed((entry("h", tarfile.LNKTYPE, "/etc/passwd"), b"")),
    "parent": packed((entry("../../planted"), b"x")),
    "device": packed((entry("d", tarfile.CHRTYPE), b"")),
    "fifo": packed((entry("f", tarfile.FIFOTYPE), b"")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_fails_its_job_and_writes_nothing(lab: Lab, name: str) -> None:
    final = run_with(lab, HOSTILE[name], "true")
    assert final["state"] == "failed", final
    assert "shipped" in final["slots"][0]["reason"]
    assert not list(lab.directory.rglob("planted*"))
    assert not os.path.exists("/tmp/planted-by-shoal-test")  # noqa: S108


def test_an_absolute_name_lands_inside_and_no_bit_makes_it_another_user(lab: Lab) -> None:
    data = packed((entry("/etc/inside", mode=0o6755), b"here"))
    final = run_with(lab, data, "sh", "-c", "cat etc/inside; stat -c %a etc/inside")
    slot = final["slots"][0]
    assert final["state"] == "completed", final
    assert slot["stdout_tail"] == "here755\n"
    assert not os.path.exists("/etc/inside")


def test_a_bomb_is_refused_before_it_fills_the_disk(lab: Lab) -> None:
    member = entry("bomb")
    member.size = 1 << 40
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        archive.fileobj.write(member.tobuf())  # type: ignore[union-attr]
    final = run_with(lab, raw.getvalue(), "true")
    assert final["state"] == "failed"
    assert "too large unpacked" in final["slots"][0]["reason"], final["slots"][0]


def run_with(lab: Lab, data: bytes, *command: str) -> dict[str, Any]:
    """Ship an archive as a program of another make would; the job's view at its end."""
    with lab[0].client() as client:
        kept = client.put_archive(data)
        source = {"Type": "archive", "Params": {"Digest": kept["digest"], "Size": kept["size"]}}
        sources = {"InputSources": [{"Source": source, "Target": "."}]}
        spec = process_job(*command, name="hostile", Task=sources, Retry={"Attempts": 1})
        *_, last = client.run(spec)
    return dict(last["final"])
