"""`shoal exec`, against an agent in memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli import ending, exitcodes, following
from protocol.job import JobSpec, JobType
from tests.agent.cli.conftest import Shoal
from tests.agent.cli.terminal import Terminal
from tests.agent.memory_agent import MemoryAgent


def submitted(agent: MemoryAgent) -> dict[str, Any]:
    return dict(agent.backend.submitted[-1])


def test_output_goes_by_the_names_of_devices_and_the_end_says_how_many(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    ended = shoal("exec", "--all", "--", "everywhere", "0", "0")
    assert ended.code == 0
    assert ended.out.splitlines() == ["pi-kitchen: 0 here", "pi-attic: 0 here"]
    assert ended.err.splitlines() == [
        "shoal: on 2 devices: pi-attic, pi-kitchen",
        "shoal: done on 2 devices",
    ]


def test_a_partial_failure_is_told_device_by_device_and_the_worst_code_is_ours(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    ended = shoal("exec", "--all", "--", "everywhere", "0", "7")
    assert ended.code == 7
    assert "1 of 2 not done: pi-attic failed with exit code 7; `shoal job describe" in ended.err


@pytest.mark.parametrize("state", ["lost", "unknown"])
def test_a_device_that_gave_no_exit_code_has_failed(
    agent: MemoryAgent, shoal: Shoal, state: str
) -> None:
    ended = shoal("exec", "--all", "--", "everywhere", "3", state)
    assert ended.code == exitcodes.NO_RESULT
    assert f"pi-kitchen failed with exit code 3; pi-attic {state}: why" in ended.err
    assert shoal("job", "wait", "everywhere").code == exitcodes.NO_RESULT


def test_of_very_many_failures_the_first_are_told(
    agent: MemoryAgent, shoal: Shoal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "FAILURES_MAX", 1)
    assert "exit code 2; and 1 more" in shoal("exec", "--all", "--", "everywhere", "2", "2").err


def test_it_is_an_ops_job_for_those_with_the_labels(agent: MemoryAgent, shoal: Shoal) -> None:
    words = ("--where", "room=attic", "--where", "!camera", "--timeout", "90", "--env", "A=b")
    ended = shoal("exec", *words, "--key", "k", "--", "uname", "-m")
    assert "on 1 device: pi-attic" in ended.err
    spec = JobSpec.from_plain(submitted(agent))
    assert (spec.type, spec.name) == (JobType.OPS, "uname")
    assert [str(each.to_plain()) for each in spec.constraints] == [
        "{'Key': 'camera', 'Operator': '!exists'}",
        "{'Key': 'room', 'Operator': '=', 'Values': ['attic']}",
    ]
    assert spec.task.timeouts.execution_s == 90
    assert spec.task.env == {"A": "b"}


def test_files_go_along(agent: MemoryAgent, shoal: Shoal) -> None:
    Path("check.sh").write_text("#!/bin/sh\n")
    Path("check.sh").chmod(0o755)
    shoal("exec", "--all", "-f", "check.sh", "--", "./check.sh")
    assert submitted(agent)["Tasks"][0]["InputSources"][0]["Target"] == "."


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--", "true"), "on which devices? --where LABEL=VALUE"),
        (("--all", "--where", "a=b", "--", "true"), "either --where or --all"),
        (("--all",), "what is to be run?"),
        (("--where", "a b c", "--", "true"), "--where"),
    ],
)
def test_it_has_to_be_said_where_and_what(
    agent: MemoryAgent, shoal: Shoal, words: tuple[str, ...], says: str
) -> None:
    ended = shoal("exec", *words)
    assert ended.code == exitcodes.USAGE and says in ended.err
    assert agent.backend.submitted == []


def test_many_devices_are_asked_about_first(
    agent: MemoryAgent, shoal: Shoal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.cli.execs.ASK_FROM", 1)
    ended = shoal("exec", "--all", "--", "everywhere", "0", "0")
    assert ended.code == exitcodes.USAGE
    assert "this would run everywhere on 2 devices, and nobody is here to ask: add --yes" in (
        ended.err
    )
    assert agent.backend.submitted == []
    assert shoal("exec", "--all", "--yes", "--", "everywhere", "0", "0").code == 0
    monkeypatch.setattr("agent.cli.execs.confirmed", lambda what: False)
    ended = shoal("exec", "--all", "--", "everywhere", "0", "0")
    assert (ended.code, ended.err) == (exitcodes.FAILED, "shoal: nothing was done\n")


def test_a_person_at_a_terminal_is_not_asked_for_a_few(agent: MemoryAgent) -> None:
    assert ending.ASK_FROM == 10
    with Terminal("exec", "--all", "--", "everywhere", "0", "0") as terminal:
        terminal.until(b"done on 2 devices")


def test_as_json_it_is_the_events_and_the_view(agent: MemoryAgent, shoal: Shoal) -> None:
    ended = shoal("exec", "--all", "--json", "--", "everywhere", "0", "4")
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert "submitted" in lines[0] and lines[-1]["final"]["type"] == "ops"
    assert ended.code == 4


def test_logs_of_an_ops_job_go_by_the_names_of_devices(agent: MemoryAgent, shoal: Shoal) -> None:
    shoal("exec", "--all", "--", "everywhere", "0", "0")
    assert "pi-kitchen: 0 here" in shoal("logs", "everywhere").out
