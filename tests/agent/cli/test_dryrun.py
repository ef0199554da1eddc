"""`shoal job run --dry-run`: what would change and where it would run; nothing is submitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.jobfile import load_job
from tests.agent.cli.conftest import Shoal
from tests.agent.memory_agent import MemoryAgent

FILE = """
Name: collect
Type: daemon
Constraints: [{Key: zone, Operator: "=", Values: [attic]}]
Tasks: [{Engine: {Type: process, Params: {Command: [collect, EVERY]}}}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "collect.yaml"
    path.write_text(FILE)
    return path


def standing(agent: MemoryAgent, shoal: Shoal) -> dict[str, Any]:
    """The daemon of that name, as it runs now."""
    job = shoal("run", "-d", "--name", "collect", "--", "wait").out.strip()
    view = agent.backend.views[job]
    spec = dict(load_job(FILE).to_plain())
    view |= {"type": "daemon", "parts": [], "generation": 4, "spec": spec}
    return view


def offers(agent: MemoryAgent, **labels: dict[str, str]) -> None:
    (mine, *_) = agent.backend.peers()
    peers = [
        {
            **mine,
            "id": f"12D3KooW{name}",
            "name": name,
            "self": name == "here",
            "state": "dead" if name == "gone" else "alive",
            "labels": given,
        }
        for name, given in labels.items()
    ]
    agent.backend.peers = lambda: peers  # type: ignore[method-assign]


def test_a_new_job_says_where_it_would_run(agent: MemoryAgent, shoal: Shoal, file: Path) -> None:
    offers(agent, here={"zone": "attic"}, garden={"zone": "garden"}, gone={"zone": "attic"})
    before = len(agent.backend.submitted)
    ended = shoal("job", "run", str(file), "--dry-run")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0] == "collect: a new daemon job; nothing was submitted"
    assert [line.split(maxsplit=1) for line in lines[3:]] == [
        ["here", "fits"],
        ["garden", "label zone: wanted 'attic', found 'garden'"],
        ["gone", "it is dead"],
    ]
    assert len(agent.backend.submitted) == before


def test_where_it_would_run_is_told_by_bacalhaus_labels_too(
    agent: MemoryAgent, shoal: Shoal, file: Path
) -> None:
    offers(agent, here={"arch": "arm64"}, garden={"arch": "amd64"})
    file.write_text(FILE.replace("Key: zone", "Key: os_arch").replace("attic", "arm64"))
    lines = shoal("job", "run", str(file), "--dry-run").out.splitlines()
    assert [line.split(maxsplit=1) for line in lines[3:]] == [
        ["here", "fits"],
        ["garden", "label os_arch: wanted 'arm64', found 'amd64'"],
    ]


def test_the_difference_to_what_runs_is_told_field_by_field(
    agent: MemoryAgent, shoal: Shoal, file: Path
) -> None:
    standing(agent, shoal)
    assert "nothing would change" in shoal("job", "run", str(file), "--dry-run").out
    file.write_text(FILE.replace("EVERY", "often"))
    ended = shoal("job", "run", str(file), "--dry-run")
    assert "collect: generation 4 would become 5, 1 field changed:" in ended.out
    assert '  Tasks[0].Engine.Params.Command[1]: "EVERY" -> "often"' in ended.out
    shown = shoal("job", "run", str(file), "--dry-run", "--json").json
    assert (shown["exists"], shown["generation"], shown["unchanged"]) == (True, 4, False)
    assert shown["changes"][0]["after"] == "often"


def test_what_was_stopped_would_run_again(agent: MemoryAgent, shoal: Shoal, file: Path) -> None:
    standing(agent, shoal)["desired"] = "stopped"
    ended = shoal("job", "run", str(file), "--dry-run")
    assert "collect: stopped; it would run again, as generation 5" in ended.out
    assert shoal("job", "run", str(file), "--dry-run", "--json").json["unchanged"] is False


def test_a_long_value_is_cut_and_a_wrong_file_is_told_of_first(
    agent: MemoryAgent, shoal: Shoal, file: Path
) -> None:
    standing(agent, shoal)
    file.write_text(FILE.replace("EVERY", "x" * 500))
    assert "…" in shoal("job", "run", str(file), "--dry-run").out
    file.write_text(FILE.replace("Type: daemon", "Type: deamon"))
    assert shoal("job", "run", str(file), "--dry-run").code == 2
