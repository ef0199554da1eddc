"""`shoal job versions|rollback`: what a standing job was, and back to it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agent.cli.conftest import Shoal
from tests.agent.memory_agent import MemoryAgent


def version(generation: int, command: str) -> dict[str, Any]:
    task = {"Name": "main", "Engine": {"Type": "process", "Params": {"Command": [command]}}}
    return {
        "generation": generation,
        "revision": str(generation) * 32,
        "author": "12D3KooWx",
        "author_name": "pi-attic",
        "since_ms": 1000 * generation,
        "spec": {"Name": "collect", "Type": "daemon", "Tasks": [task]},
    }


@pytest.fixture
def job(agent: MemoryAgent, shoal: Shoal) -> str:
    made = shoal("run", "-d", "--name", "collect", "--", "wait").out.strip()
    found = [version(3, "third"), version(2, "second"), version(1, "first")]
    agent.backend.views[made] |= {"versions": found}
    return made


def test_they_are_listed_with_how_much_each_changed(shoal: Shoal, job: str) -> None:
    lines = shoal("job", "versions", job).out.splitlines()
    assert lines[0].split() == ["GENERATION", "REVISION", "SINCE", "BY", "CHANGED"]
    assert [line.split()[0] for line in lines[1:]] == ["3", "2", "1"]
    assert lines[1].endswith("1 field") and lines[3].endswith("-")
    assert shoal("job", "versions", job, "--json").json["versions"][0]["generation"] == 3


def test_what_each_changed_is_told(shoal: Shoal, job: str) -> None:
    out = shoal("job", "versions", job, "--diff").out
    assert "generation 2 -> 3" in out
    assert 'Tasks[0].Engine.Params.Command[0]: "second" -> "third"' in out


@pytest.mark.parametrize(("words", "command"), [((), "second"), (("--to", "1"), "first")])
def test_an_earlier_one_is_run_again(
    agent: MemoryAgent, shoal: Shoal, job: str, words: tuple[str, ...], command: str
) -> None:
    ended = shoal("job", "rollback", job, *words)
    assert ended.code == 0 and "runs again" in ended.err
    task = agent.backend.submitted[-1]["Tasks"][0]
    assert task["Engine"]["Params"]["Command"] == [command]
    assert shoal("job", "rollback", job, *words, "--json").json["name"] == "collect"


def test_what_is_not_remembered_or_not_readable_is_not_gone_back_to(
    agent: MemoryAgent, shoal: Shoal, job: str
) -> None:
    ended = shoal("job", "rollback", job, "--to", "7")
    assert ended.code != 0 and "remembers no such version; it has 2, 1" in ended.err
    agent.backend.views[job]["versions"][1]["spec"] = None
    assert "needs a later version of shoal" in shoal("job", "rollback", job).err
    agent.backend.views[job]["versions"] = []
    assert "it has none" in shoal("job", "rollback", job).err
