"""`shoal template`, and how a schedule is shown."""

import re
from pathlib import Path
from typing import Any

import pytest

from agent.cli.following import summary
from agent.client import Client
from agent.jobfile import example
from tests.agent.cli.conftest import ROOT, Shoal
from tests.agent.cli.test_ending import until
from tests.agent.memory_agent import MemoryAgent

FILE = """
Name: whatever
Type: batch
Parameters:
  - Name: what
  - Name: how
    Default: loud
    Description: how it is said
Tasks:
  - Engine: {Type: process, Params: {Command: [wait, "${what}", "${how}"]}}
"""


@pytest.fixture
def say(agent: MemoryAgent, shoal: Shoal) -> str:
    """The id of the template `say`."""
    Path("say.yaml").write_text(FILE)
    kept = shoal("template", "set", "say", "say.yaml")
    assert kept.code == 0 and "say: kept" in kept.err
    return kept.out.strip()


def test_a_file_is_kept_under_a_name(say: str, agent: MemoryAgent, shoal: Shoal) -> None:
    (spec,) = agent.backend.submitted
    assert spec["Name"] == "say"
    assert [each["Name"] for each in spec["Parameters"]] == ["what", "how"]
    listed = shoal("template", "list")
    assert "say" in listed.out and "what, how=loud" in listed.out
    assert shoal("template", "list", "--json").json["templates"][0]["id"] == say


def test_a_file_without_parameters_is_a_template_all_the_same(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    Path("plain.yaml").write_text(example("batch"))
    assert shoal("template", "set", "plain", "plain.yaml", "--json").json["job"]
    assert agent.backend.submitted[0]["Parameters"] == []
    assert "-" in shoal("template", "show", "plain").out


def test_the_readmes_templates_are_kept_as_they_are_typed(agent: MemoryAgent, shoal: Shoal) -> None:
    """They have no name but the one on the command line."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    files = [block for block in blocks if "\nParameters:" in block]
    assert len(files) == 2
    for at, text in enumerate(files):
        Path("readme.yaml").write_text(text)
        kept = shoal("template", "set", "motion", "readme.yaml")
        assert (kept.code, agent.backend.submitted[at]["Name"]) == (0, "motion"), kept.err
    assert shoal("job", "run", "readme.yaml").code == 2


def test_what_it_asks_for_is_shown(say: str, shoal: Shoal) -> None:
    shown = shoal("template", "show", "say").out
    assert "how it is said" in shown and "${what}" in shown
    assert shoal("template", "show", "say", "--json").json["id"] == say
    missing = shoal("template", "show", "sing")
    assert missing.code == 4 and "no template 'sing'" in missing.err


def test_templates_are_not_among_the_jobs_unless_asked_for(say: str, shoal: Shoal) -> None:
    assert "say" not in shoal("job", "list").out
    assert "say" in shoal("job", "list", "--type", "template").out
    assert shoal("job", "describe", say).code == 0


def test_a_run_fills_the_blanks_and_one_key_is_one_job(say: str, shoal: Shoal) -> None:
    first = shoal("template", "run", "say", "-p", "what=hello=you", "--key", "k")
    again = shoal("template", "run", "say", "-p", "what=hello=you", "--key", "k", "--json")
    assert first.code == again.code == 0
    assert "say: accepted" in first.err
    assert first.out.strip() == again.json["job"] and again.json["unchanged"]
    followed = shoal("template", "run", "say", "-p", "what=hello", "--follow", "-q")
    assert (followed.code, followed.out) == (0, "hello\n")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("say",), 2, "missing parameter what"),
        (("say", "-p", "what"), 2, "-p what: allowed: NAME=VALUE"),
        (("sing",), 4, "no template 'sing'"),
        (("say", "--namespace", "other"), 4, "no template"),
        (("say", "-p", "what=x", "--key", "x" * 200), 2, "key: allowed"),
    ],
)
def test_what_cannot_be_run_is_refused(
    say: str, shoal: Shoal, words: tuple[str, ...], code: int, says: str
) -> None:
    refused = shoal("template", "run", *words)
    assert refused.code == code and says in refused.err


def test_a_template_is_deleted_by_name(say: str, agent: MemoryAgent, shoal: Shoal) -> None:
    assert "say: deleted" in shoal("template", "delete", "say").err
    assert agent.backend.views[say]["state"] == "deleted"
    assert shoal("template", "delete", "say", "--json").json["job"] == say


def test_a_template_is_not_run_as_a_job_file(say: str, shoal: Shoal) -> None:
    refused = shoal("job", "run", "say.yaml")
    assert refused.code == 2 and "shoal template set" in refused.err


def scheduled(agent: MemoryAgent, shoal: Shoal, **schedule: Any) -> str:
    job = shoal("run", "-d", "--name", "backup", "--", "wait").out.strip()
    view = agent.backend.views[job]
    until(lambda: view["state"] == "running")  # nothing of it changes by itself any more
    run = {"job": "r" * 32, "slot_ms": 1_800_000_000_000, "state": "completed", "on": ["pi-attic"]}
    shown = {"cron": "30 2 * * *", "zone": "Europe/Berlin", "next_ms": 1_800_086_400_000}
    view |= {
        "state": "scheduled",
        "parts": [],
        "slots": [],
        "schedule": {**shown, "problem": "", "runs": [run], **schedule},
    }
    return job


def test_a_schedule_shows_when_it_runs_next_and_its_last_runs(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    job = scheduled(agent, shoal)
    assert "scheduled, next 2027-01-1" in shoal("job", "list").out
    shown = shoal("job", "describe", job).out
    for text in ("30 2 * * * (Europe/Berlin)", "2027-01-1", "rrrrrrrr", "completed", "pi-attic"):
        assert text in shown


def test_a_schedule_with_nothing_to_come_and_a_problem(agent: MemoryAgent, shoal: Shoal) -> None:
    job = scheduled(agent, shoal, next_ms=0, runs=[])
    agent.backend.views[job]["reason"] = "this peer cannot tell its slots"
    assert "scheduled: this peer cannot tell" in shoal("job", "list").out
    assert shoal("job", "describe", job).code == 0


def test_why_a_schedule_runs_or_does_not(agent: MemoryAgent, shoal: Shoal) -> None:
    job = scheduled(agent, shoal)
    told = shoal("why", job).out
    assert "its next run is due at 2027-01-1" in told and "`shoal why rrrrrrrr`" in told
    agent.backend.views[job]["reason"] = "the time is not known here"
    assert "the time is not known here" in shoal("why", job).out


def test_whoever_keeps_a_schedule_is_told_that_nothing_fires_it(
    agent: MemoryAgent, shoal: Shoal, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("backup.yaml").write_text(example("schedule"))
    assert "it waits" not in shoal("job", "run", "backup.yaml").err
    monkeypatch.setattr(Client, "job", lambda *_: {"reason": "the time is not known here"})
    kept = shoal("job", "run", "backup.yaml")
    assert kept.code == 0 and "it waits: the time is not known here" in kept.err


def test_a_schedule_is_not_waited_for(agent: MemoryAgent, shoal: Shoal) -> None:
    Path("backup.yaml").write_text(example("schedule"))
    refused = shoal("job", "run", "--wait", "backup.yaml")
    assert refused.code == 2 and "a schedule does not end" in refused.err


def test_a_schedule_of_ops_jobs_ends_as_any_other_that_is_followed() -> None:
    view = {"id": "s" * 32, "type": "ops", "state": "stopped", "parts": [], "slots": []}
    assert summary(view) == "stopped"


def test_where_a_task_was_killed_is_said_once() -> None:
    slot = {"state": "failed", "executor": "p", "executor_name": "attic", "exit_code": 137}
    view = {"id": "s" * 32, "type": "batch", "state": "failed", "slots": [slot]}
    view["reason"] = "ended by SIGKILL on attic"
    assert summary(view) == "failed on attic with exit code 137: ended by SIGKILL"


def test_who_hears_a_trigger_is_shown_and_what_became_of_messages(
    say: str, agent: MemoryAgent, shoal: Shoal
) -> None:
    part = {
        "peer": "p", "peer_name": "attic", "hears": True, "elected": False, "problem": "",
        "waiting": 0, "heard": 12, "filtered": 7, "fired": 2,
        "refused": {"more than 2 a minute (MaxPerMinute)": 3},
        "unanswered": {"a response topic with\x1b a wildcard": 1}, "last_fired_ms": 1000,
    }  # fmt: skip
    deaf = {**part, "peer_name": "hall", "hears": False, "problem": "not listed", "refused": {}}
    deaf |= {"unanswered": {}, "last_fired_ms": 0}
    trigger = {
        "broker": "home", "topic": "ask/+", "keyed": True, "hearers": ["attic"],
        "devices": [part, deaf],
    }  # fmt: skip
    agent.backend.views[say]["trigger"] = trigger
    shown = shoal("template", "show", "say").out
    assert "ask/+ at broker home" in shown and "attic (each, by ids one fires)" in shown
    assert "attic: 3 refused: more than 2 a minute (MaxPerMinute)" in shown
    assert "attic: 1 unanswered: a response topic with" in shown and "\x1b" not in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("hall")]
    assert "not listed" in line and " no " in line and "nothing came" not in shown
    assert shoal("template", "show", "say", "--json").json["trigger"] == trigger
    part["heard"] = 0
    shown = shoal("template", "show", "say").out
    assert "attic: nothing came since its agent started" in shown and "hall: nothing" not in shown
    part["problem"] = "its disk is full: messages wait at the broker"
    assert "nothing came" not in shoal("template", "show", "say").out
    trigger["hearers"], trigger["keyed"] = [], False
    assert "no device" in shoal("template", "show", "say").out
