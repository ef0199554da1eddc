"""Commands that end jobs, `shoal job stop|delete`, and how a standing job is shown."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from agent.cli.ending import told
from tests.agent.cli.conftest import Shoal
from tests.agent.cli.terminal import Terminal
from tests.agent.memory_agent import MemoryAgent


def part(name: str, state: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "peer": f"12D3KooW{name}",
        "peer_name": name,
        "state": state,
        "reason": "",
        "revision": "r" * 32,
        "generation": 1,
        "control": 0,
        "execution": "e" * 32,
        "attempt": 1,
        "restarts": 0,
        "exit_code": None,
        "started_ms": 1000,
        "ended_ms": 0,
        "past": [],
        **more,
    }


def until(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def daemon(agent: MemoryAgent, shoal: Shoal, *parts: dict[str, Any]) -> str:
    """A job that is shown as a daemon with these parts."""
    job = shoal("run", "-d", "--name", "collect", "--", "wait").out.strip()
    view = agent.backend.views[job]
    until(lambda: view["state"] == "running")  # nothing of it changes by itself any more
    here = [each for each in parts if each["state"] != "absent"]
    view |= {
        "type": "daemon",
        "state": "running",
        "parts": list(parts),
        "count": len(here),
        "slots": [
            {
                "slot": number,
                "attempt": each["attempt"],
                "exit_code": each["exit_code"],
                "reason": each["reason"],
                "execution": each["execution"],
                "executor": each["peer"],
                "executor_name": each["peer_name"],
                "state": each["state"],
            }
            for number, each in enumerate(here)
        ],
    }
    return job


def test_what_is_deleted_is_said_to_be(agent: MemoryAgent, shoal: Shoal) -> None:
    job = daemon(agent, shoal, part("attic"))
    ended = shoal("job", "delete", job)
    assert (ended.code, ended.err) == (0, f"shoal: {job}: deleted on 1 device\n")
    assert shoal("job", "delete", job, "--json").json["deleted"][0]["job"] == job
    assert shoal("job", "delete", "absent").code == 4


@pytest.mark.parametrize("verb", ["stop", "delete"])
def test_many_devices_are_asked_about_first(agent: MemoryAgent, shoal: Shoal, verb: str) -> None:
    job = daemon(agent, shoal, *(part(f"d{number}") for number in range(11)))
    ended = shoal("job", verb, "absent", job)
    assert ended.code == 2
    assert f"would {verb} absent, {job} on 11 devices" in ended.err and "--yes" in ended.err
    assert agent.backend.views[job]["state"] == "running"
    for answer, code in ((b"\n", 1), (b"y\n", 0)):
        with Terminal("job", verb, job) as terminal:
            terminal.until(b"[y/N] ")
            terminal.type(answer)
            assert terminal.wait() == code
    assert agent.backend.views[job]["state"] != "running"
    assert shoal("job", verb, "--yes", job).code == 0


def test_ten_are_not_asked_about(agent: MemoryAgent, shoal: Shoal) -> None:
    parts = [*(part(f"d{number}") for number in range(10)), part("x", "stopped")]
    assert shoal("stop", daemon(agent, shoal, *parts)).code == 0


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"note": "it is stopped already"}, "it is stopped already"),
        ({"job": "x"}, "stopping"),
        ({"quiet": 3, "stopping": [], "unheard": []}, "stopped on 3 devices"),
        (
            {"quiet": 1, "stopping": ["a"], "unheard": list("bcdefgh")},
            "stopped on 1 device; still stopping on a; "
            "not heard of yet by b, c, d, e, f and 2 more",
        ),
    ],
)
def test_what_it_brought_about_is_a_sentence(answer: dict[str, Any], says: str) -> None:
    assert told(answer, "stop") == says


def test_a_daemon_is_shown_by_its_parts(agent: MemoryAgent, shoal: Shoal) -> None:
    job = daemon(
        agent,
        shoal,
        part("attic"),
        part("cellar", "restarting", restarts=4, exit_code=3, reason="ended with exit code 3"),
        part("shed", "absent", revision="", reason="label zone: wanted 'a', found 'b'"),
    )
    out = shoal("job", "describe", job).out
    assert "Coordinator" not in out
    rows = [line.split() for line in out.splitlines() if line.startswith(("attic", "cellar"))]
    assert rows[0][:4] == ["attic", "running", "rrrrrrrr", "0"]
    assert rows[1][:6] == ["cellar", "restarting", "rrrrrrrr", "4", "3", "ended"]
    assert "not here" in out and "wanted 'a'" in out
    listed = shoal("jobs").out.splitlines()[1]
    assert "running (1 of 2)" in listed and "attic" in listed and "cellar" not in listed
    agent.backend.views[job]["why"] = [
        {
            "round": 1, "at_ms": 0, "slots": 2, "note": "",
            "asked": [
                {"peer": "p1", "name": "attic", "answer": "running", "reason": ""},
                {"peer": "p2", "name": "shed", "answer": "refused",
                 "reason": "label zone: wanted 'a', found 'b'"},
                {"peer": "p3", "name": "yard", "answer": "refused", "reason": ""},
            ],
        }
    ]  # fmt: skip
    why = shoal("why", job).out
    assert "  attic  running\n" in why
    assert "  shed   not here: label zone: wanted 'a', found 'b'\n" in why
    assert "with the label zone=a on that device" in why
    assert "  yard   not here: nothing was started\n" in why


def test_waiting_for_a_daemon_ends_well_once_it_was_stopped(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    job = daemon(agent, shoal, part("attic"))
    shoal("job", "delete", job)
    ended = shoal("job", "wait", job)
    assert ended.code == 0 and "deleted" in ended.err
