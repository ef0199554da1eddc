"""Batch jobs on three real agents, by the command line: shipped files, bounds, ends and views."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gated import Gated
from tests.lab import Device, Lab, process_job


def view_at(lab: Lab, device: Device, job: str) -> dict[str, Any]:
    done = lab.shoal(device, "job", "describe", job, "--json")
    assert done.code == 0, done
    return dict(json.loads(done.out))


def detached(lab: Lab, device: Device, *words: str) -> str:
    """Submit and do not wait; the job's id."""
    done = lab.shoal(device, "run", "--detach", *words)
    assert done.code == 0, done
    return done.out.strip()


def until_running(lab: Lab, device: Device, job: str) -> dict[str, Any]:
    with device.client() as client:
        return dict(
            lab.until(
                lambda: (view := client.job(job))["slots"][0]["state"] == "running" and view,
                f"{job} runs",
            )
        )


# ---- what runs, and with what -----------------------------------------------------------------


def test_the_exit_code_of_run_is_the_tasks(lab: Lab) -> None:
    for script, code in (("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("exit 255", 255)):
        done = lab.shoal(lab[0], "run", "--", "sh", "-c", script)
        assert done.code == code, (script, done)


def test_output_and_errors_of_the_task_come_as_they_are(lab: Lab) -> None:
    done = lab.shoal(lab[1], "run", "-q", "--", "sh", "-c", "printf 'a\\tb'; echo oops >&2")
    assert (done.code, done.out, done.err) == (0, "a\tb", "oops\n")


def test_shipped_files_are_there_and_run(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "detect.sh").write_text('#!/bin/sh\necho "$1: $(cat parts/a.txt)"\n')
    (tmp_path / "detect.sh").chmod(0o755)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/a.txt").write_text("of three\n")
    words = ("run", "--count", "3", "-f", "detect.sh", "-f", "parts/a.txt", "--", "./detect.sh")
    done = lab.shoal(lab[2], *words, "part", cwd=tmp_path)
    assert done.code == 0, done
    assert sorted(done.out.splitlines()) == [f"[{n}] part: of three" for n in range(3)]


def test_a_shipped_directory_keeps_its_shape_and_the_task_may_write_there(
    lab: Lab, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "deep/er").mkdir(parents=True)
    (tree / "deep/er/leaf").write_text("leaf")
    (tree / "link").symlink_to("/etc/passwd")
    script = "cat deep/er/leaf; echo new > deep/made && cat deep/made; ls -A link 2>&1"
    done = lab.shoal(lab[0], "run", "-C", str(tree), "--", "sh", "-c", script)
    assert "leafnew" in done.out and "No such file" in done.out, done
    assert "not shipped" in done.err and "link" in done.err


def test_a_program_that_was_not_shipped_names_the_flag(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "x.sh").write_text("true")
    done = lab.shoal(lab[0], "run", "./x.sh", cwd=tmp_path)
    assert done.code == 2 and "-f x.sh" in done.err
    done = lab.shoal(lab[0], "run", "-f", "x.sh", "--", "./x.sh", cwd=tmp_path)
    assert done.code == 2 and "chmod +x" in done.err


def test_each_partition_knows_its_number_and_how_many_there_are(lab: Lab) -> None:
    script = 'echo "$SHOAL_PARTITION_INDEX/$SHOAL_PARTITION_COUNT $BACALHAU_PARTITION_INDEX"'
    done = lab.shoal(lab[1], "run", "--count", "4", "--", "sh", "-c", script)
    assert done.code == 0
    assert sorted(done.out.splitlines()) == [f"[{n}] {n}/4 {n}" for n in range(4)]


def test_a_container_where_no_device_has_docker_fails_with_the_way_out(
    lab: Lab, tmp_path: Path
) -> None:
    """The socket that these devices have for docker's leads nowhere."""
    (tmp_path / "job.yaml").write_text(
        "{Name: nowhere, Type: batch, Tasks: [{Timeouts: {QueueTimeout: 2s},"
        " Engine: {Type: docker, Params: {Image: 'busybox:1'}}}]}"
    )
    done = lab.shoal(lab[0], "job", "run", "job.yaml", "--wait", "-q", cwd=tmp_path)
    absent = "engine docker is not here; this device has process"
    reason = f"QueueTimeout of 2 s is over: 3 peers: {absent}"
    assert done.code == 125 and reason in done.err, done
    described = lab.shoal(lab[1], "job", "describe", "nowhere").out
    assert re.search(rf"^State +failed: {re.escape(reason)}", described, re.MULTILINE), described
    (slot,) = view_at(lab, lab[2], "nowhere")["slots"]
    assert (slot["state"], slot["executor"]) == ("failed", "") and reason in slot["reason"], slot
    why = lab.shoal(lab[1], "why", "nowhere").out
    for device in lab.devices:
        assert re.search(rf"{device.name} +was not asked: {absent}", why), why
    assert "or with a docker there that the agent may use: sudo scripts/install --docker" in why


def test_the_variables_of_bacalhau_say_what_ours_do(lab: Lab) -> None:
    script = "echo $BACALHAU_JOB_ID $BACALHAU_EXECUTION_ID $BACALHAU_JOB_TYPE"
    done = lab.shoal(lab[2], "run", "-q", "--name", "twins", "--", "sh", "-c", script)
    seen = view_at(lab, lab[0], "twins")
    (slot,) = seen["slots"]
    assert (done.code, done.out.split()) == (0, [seen["id"], slot["execution"], "batch"])


def test_files_that_tasks_leave_are_fetched_from_wherever_they_ran(
    lab: Lab, tmp_path: Path
) -> None:
    script = "mkdir out; echo $SHOAL_PARTITION_INDEX > out/number; head -c 300000 /dev/zero > out/z"
    command = ("run", "--count", "3", "--name", "files", "-o", "out", "--", "sh", "-c", script)
    assert lab.shoal(lab[0], *command).code == 0
    for number, device in enumerate(lab.devices):
        target = tmp_path / str(number)
        done = lab.shoal(device, "job", "get", "files", "-o", str(target))
        assert done.code == 0, done
        for slot in range(3):
            assert (target / str(slot) / "out" / "number").read_text() == f"{slot}\n"
            assert (target / str(slot) / "out" / "z").stat().st_size == 300_000
    described = lab.shoal(lab[0], "job", "describe", "files").out
    assert "Files kept" in described


def test_blanks_of_a_job_file_are_filled_from_the_command_line(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "greet.yaml"
    file.write_text(
        "Name: greet-{{.who}}\nType: batch\nCount: {{.count}}\nTasks:\n  - Name: main\n"
        "    Engine: {Type: process, Params: {Command: [echo, 'hello {{ .who }}']}}\n"
    )
    words = ("job", "run", str(file), "--follow", "-q", "-V", "who=the attic")
    done = lab.shoal(lab[0], *words, "--variable", "count=2")
    assert (done.code, sorted(done.out.splitlines())) == (
        0,
        ["[0] hello the attic", "[1] hello the attic"],
    ), done
    assert view_at(lab, lab[1], "greet-the attic")["count"] == 2
    unfilled = lab.shoal(lab[0], *words)
    assert unfilled.code == 2 and "line 3: {{.count}} has no value" in unfilled.err, unfilled
    unused = lab.shoal(lab[0], *words, "-V", "count=1", "-V", "colour=red")
    assert unused.code == 2 and "-V colour: the file has no {{.colour}}" in unused.err, unused


def test_the_exit_code_is_the_highest_of_all_slots(lab: Lab) -> None:
    done = lab.shoal(lab[1], "run", "--count", "3", "--", "sh", "-c", "exit $SHOAL_PARTITION_INDEX")
    assert done.code == 2, done


def test_the_environment_is_the_jobs_and_nothing_of_the_agents(lab: Lab) -> None:
    words = ("run", "--env", "GREETING=hello world", "-q", "--", "env")
    done = lab.shoal(lab[0], *words)
    env = dict(line.split("=", 1) for line in done.out.splitlines())
    assert env["GREETING"] == "hello world"
    assert env["SHOAL_TERM"] == env["SHOAL_ATTEMPT"] == "1"
    assert {"SHOAL_JOB_ID", "SHOAL_EXECUTION_ID", "SHOAL_PEER_ID"} <= set(env)
    assert "PYTHONPATH" not in env and "SHOAL_DATA_DIR" not in env


def test_a_command_that_no_device_has_fails_with_that_reason(lab: Lab) -> None:
    done = lab.shoal(lab[2], "run", "--retry", "1", "--", "no-such-program")
    assert done.code == 125
    assert "no-such-program: no such command" in done.err, done


# ---- what cannot run, or not for ever ---------------------------------------------------------


def test_what_nobody_matches_is_said_at_once_and_ends_with_its_queue_timeout(lab: Lab) -> None:
    words = ("run", "--constraint", "colour=red", "--queue-timeout", "2s", "--", "true")
    begun = time.monotonic()
    done = lab.shoal(lab[0], *words)
    assert done.code == 125 and time.monotonic() - begun < 15
    assert "label colour: wanted 'red', but there is none" in done.err, done
    assert "QueueTimeout of 2 s is over" in done.err
    why = lab.shoal(lab[1], "why", "true", "--json")
    assert why.code == 0, why
    asked = json.loads(why.out)["why"][0]["asked"]
    assert {peer["name"] for peer in asked} == {"d00", "d01", "d02"}, "each peer's own reason"
    assert all(peer["answer"] == "filtered" and peer["reason"] for peer in asked)


def test_a_job_too_big_for_everybody_says_what_would_fit(lab: Lab) -> None:
    job = detached(lab, lab[0], "--cpu", "900", "--queue-timeout", "60", "--", "true")
    with lab[0].client() as client:
        lab.until(lambda: client.job(job)["why"], "the round is over")
    why = lab.shoal(lab[2], "why", job)
    assert "cpu: needs 900" in why.out and "fits with --cpu" in why.out, why
    assert "cpu: needs 900" in lab.shoal(lab[2], "jobs").out
    assert lab.shoal(lab[0], "stop", job).code == 0
    done = lab.shoal(lab[0], "job", "wait", job)
    assert done.code == 125 and "stopped" in done.err, done


def test_a_queue_timeout_of_zero_does_not_wait(lab: Lab) -> None:
    words = ("run", "--constraint", "colour=blue", "--queue-timeout", "0", "--", "true")
    done = lab.shoal(lab[1], *words)
    assert done.code == 125 and "label colour" in done.err, done


def test_a_task_that_runs_too_long_is_ended(lab: Lab) -> None:
    done = lab.shoal(lab[0], "run", "--timeout", "1", "--", "sh", "-c", "echo begun; sleep 60")
    assert (done.code, done.out) == (124, "begun\n"), done
    assert "ExecutionTimeout" in done.err


def test_a_failing_task_is_retried_elsewhere_where_the_job_asks_for_it(lab: Lab) -> None:
    script = 'echo "try $SHOAL_ATTEMPT"; test "$SHOAL_ATTEMPT" = 2'
    job = process_job("sh", "-c", script, name="stubborn", Retry={"On": ["failure"], "Backoff": 0})
    file = lab.directory / "stubborn.json"
    file.write_text(json.dumps(job))
    done = lab.shoal(lab[1], "job", "run", str(file), "--follow")
    assert done.code == 0 and "try 2" in done.out, done
    executions = lab.shoal(lab[1], "job", "executions", "stubborn", "--json")
    first, second = json.loads(executions.out)["executions"]
    assert (first["state"], second["state"]) == ("failed", "completed")
    assert first["peer"] != second["peer"], "on another peer first"


def test_without_retry_a_failing_task_runs_once(lab: Lab) -> None:
    done = lab.shoal(lab[1], "run", "--name", "once", "--", "false")
    assert done.code == 1
    executions = lab.shoal(lab[1], "job", "executions", "once", "--json")
    assert len(json.loads(executions.out)["executions"]) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Name: odd\nType: batch\nTasks: []\n", "Tasks"),
        ("Name: odd\nType: batch\nColour: red\n", "Colour"),
        ("Name: odd\nType: odd\n", "Type"),
        (
            "Tasks: [{Name: t, Engine: {Type: docker2, Params: {}}}]\nName: odd\nType: batch",
            "Engine",
        ),
        ("Name: [", "line 2: not YAML"),
    ],
)
def test_a_wrong_job_file_is_told_by_its_place_and_nothing_is_submitted(
    lab: Lab, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with lab[0].client() as client:
        done = lab.shoal(lab[0], "job", "run", str(file))
        assert done.code == 2 and said in done.err, done
        assert client.jobs(name="odd")["jobs"] == []


@pytest.mark.parametrize("kind", ["batch", "ops", "daemon", "service", "schedule"])
def test_every_example_is_taken_as_it_stands(lab: Lab, tmp_path: Path, kind: str) -> None:
    if kind == "ops":  # it is for devices with a label, and refused where there is none
        assert lab.shoal(lab[0], "label", "set", "role=sensor").code == 0
    file = tmp_path / f"{kind}.yaml"
    file.write_text(lab.shoal(lab[0], "job", "example", kind).out)
    assert lab.shoal(lab[0], "job", "validate", str(file)).code == 0
    planned = lab.shoal(lab[0], "job", "run", str(file), "--dry-run")
    assert planned.code == 0 and "nothing was submitted" in planned.out, planned
    accepted = lab.shoal(lab[0], "job", "run", str(file))
    assert accepted.code == 0, accepted
    verb = "stop" if kind in ("batch", "ops") else "delete"
    ended = lab.shoal(lab[0], "job", verb, accepted.out.strip())
    assert ended.code == 0, ended
    if kind == "ops":
        assert lab.shoal(lab[0], "label", "unset", "role").code == 0


# ---- the same job, seen and steered from every peer -------------------------------------------


def test_a_job_is_seen_from_a_peer_that_neither_coordinates_nor_ran_it(lab: Lab) -> None:
    script = "echo one; echo two >&2"
    words = ("run", "--name", "seen", "--constraint", "hostname", "--", "sh", "-c", script)
    assert lab.shoal(lab[0], *words).code == 0
    view = view_at(lab, lab[0], "seen")
    slot = view["slots"][0]
    assert view["coordinator"] == lab[0].peer
    others = [device for device in lab.devices[1:] if device.peer != slot["executor"]]
    for device in others:
        assert view_at(lab, device, "seen")["slots"] == view["slots"]
        assert view_at(lab, device, view["id"][:8])["id"] == view["id"]
        assert "seen" in lab.shoal(device, "jobs").out
        assert "awarded slot 0" in lab.shoal(device, "why", "seen").out
        done = lab.shoal(device, "logs", "seen")
        assert (done.out, done.err) == ("one\n", "two\n"), done
        assert lab.shoal(device, "job", "wait", "seen").code == 0
        rows = lab.shoal(device, "job", "executions", "seen").out.splitlines()
        assert len(rows) == 2 and "completed" in rows[1]


def test_logs_are_followed_across_peers_while_the_task_runs(lab: Lab) -> None:
    gated = Gated(lab, "followed")
    job = detached(lab, lab[0], "--name", "followed", "--", *gated.command(3))
    view = until_running(lab, lab[0], job)
    far = next(d for d in lab.devices[1:] if d.peer != view["slots"][0]["executor"])
    try:
        with far.client() as client:
            lines = client.logs(job, follow=True)
            assert next(lines)["data"] == "begun\n"
            gated.open()
            assert [line["data"] for line in lines] == ["through\n"]
    finally:
        gated.open()
    assert lab.shoal(far, "job", "wait", job).code == 3


def test_who_waits_at_another_peer_hears_of_the_end_soon(lab: Lab) -> None:
    gated = Gated(lab, "waited")
    job = detached(lab, lab[0], "--", *gated.command())
    until_running(lab, lab[0], job)
    with lab[1].client() as near, lab[2].client() as far:
        followed = [near.follow(job, events=False), far.follow(job, events=False)]
        begun = time.monotonic()
        gated.open()
        assert ["final" in next(lines) for lines in followed] == [True, True]
    assert time.monotonic() - begun < 8, "no event comes there: it looks"


def test_a_job_is_stopped_from_another_peer(lab: Lab) -> None:
    job = detached(lab, lab[0], "--name", "endless", "--", "sleep", "600")
    until_running(lab, lab[0], job)
    done = lab.shoal(lab[2], "stop", "endless")
    assert done.code == 0, done
    done = lab.shoal(lab[1], "job", "wait", job)
    assert done.code == 125 and "stopped" in done.err, done
    with lab[0].client() as client:
        lab.until(lambda: client.job(job)["state"] == "stopped", "it is stopped")


def test_stopping_what_has_ended_says_so(lab: Lab) -> None:
    assert lab.shoal(lab[0], "run", "--name", "over", "--", "true").code == 0
    for device in lab.devices:
        done = lab.shoal(device, "stop", "over")
        assert done.code == 0 and "it has ended already" in done.err, done


def test_waiting_ends_at_its_own_timeout_and_the_job_goes_on(lab: Lab) -> None:
    job = detached(lab, lab[1], "--", "sleep", "600")
    until_running(lab, lab[1], job)
    done = lab.shoal(lab[2], "job", "wait", job, "--timeout", "1")
    assert done.code == 124 and "the job goes on" in done.err, done
    assert view_at(lab, lab[0], job)["state"] == "running"
    assert lab.shoal(lab[1], "stop", job).code == 0


def test_the_same_key_at_two_peers_is_one_job(lab: Lab) -> None:
    words = ("--key", "nightly-1", "--", "sh", "-c", "echo $SHOAL_EXECUTION_ID")
    first = lab.shoal(lab[0], "run", *words)
    again = lab.shoal(lab[1], "run", *words)
    assert first.code == again.code == 0, (first, again)
    assert first.out == again.out, "it ran once"
    other = lab.shoal(lab[2], "run", "--key", "nightly-1", "--", "echo", "another")
    assert other.code == 1 and "used for another job" in other.err, other


def test_a_job_that_nobody_knows_and_a_name_that_means_several(lab: Lab) -> None:
    for words in (("job", "describe"), ("logs",), ("stop",), ("why",), ("job", "wait")):
        done = lab.shoal(lab[1], *words, "never-heard-of")
        assert done.code == 4 and "no job 'never-heard-of'" in done.err, done
    for _ in range(2):
        assert lab.shoal(lab[0], "run", "--name", "twin", "--", "true").code == 0
    done = lab.shoal(lab[1], "logs", "twin")
    assert done.code == 1 and "give more of the id" in done.err, done


def test_events_tell_a_jobs_story_in_order(lab: Lab) -> None:
    done = lab.shoal(lab[0], "run", "--name", "story", "--json", "--", "true")
    lines = [json.loads(line) for line in done.out.splitlines()]
    job = lines[0]["submitted"]["job"]
    assert lines[-1]["final"]["state"] == "completed"
    told = lab.shoal(lab[0], "events", "--job", job, "--json")
    kinds = [json.loads(line)["kind"] for line in told.out.splitlines()]
    order = ["job.accepted", "job.asking", "job.bids", "job.awarded", "job.completed"]
    assert [kind for kind in kinds if kind in order] == order, kinds
