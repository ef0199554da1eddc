"""What containers cost the agent that do nothing, and what output costs its database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dockerhost import IMAGE, DockerHost
from tests.lab import Lab

CONTAINERS = 12
LOOKED = "GET /images/json"  # whether docker is there, every 15 s, with containers or without
LINES = 3000
MARK = b"marked-line"
TELL = f'yes "$(printf %999s {MARK.decode()})" | head -n {LINES}'
IN_DATABASE_BYTES_MAX = 64 << 10  # the last 2 KiB go with the result, which it has some copies of


@pytest.fixture(scope="module")
def talkative() -> Iterator[DockerHost]:
    """It writes down each call."""
    with DockerHost("--debug") as host:
        yield host


@pytest.fixture(scope="module")
def lab(talkative: DockerHost) -> Iterator[Lab]:
    lab = Lab(1)
    lab[0].environment["SHOAL_DOCKER_SOCKET"] = str(talkative.socket)
    with lab:
        yield lab


def calls(docker: DockerHost) -> list[str]:
    """Of its API so far, without its version: GET /images/json."""
    log = (docker.root / "dockerd.log").read_text()
    return [
        f"{how} {path}" for how, path in re.findall(r"Calling (\w+) (?:/v[\d.]+)?(/\S+?)\"", log)
    ]


def least_threads(lab: Lab, docker: DockerHost, looks: int) -> tuple[int, list[str]]:
    """The fewest that the agent has while it looks so often, and what it asks of docker from the
    first of these looks to the last."""
    begun, counts = len(calls(docker)), list[int]()

    def done() -> bool:
        counts.append(len(list(Path(f"/proc/{lab[0].pid}/task").iterdir())))
        return calls(docker)[begun:].count(LOOKED) >= looks

    lab.until(done, f"{looks} looks at docker", 120)
    asked = calls(docker)[begun:]
    return min(counts), asked[asked.index(LOOKED) :]


def test_a_container_that_runs_costs_no_thread_and_no_call(lab: Lab, talkative: DockerHost) -> None:
    before, _ = least_threads(lab, talkative, 2)
    for number in range(CONTAINERS):
        words = ("-d", "--name", f"idle-{number}", "--cpu", "0.1", "--network", "none")
        what = (IMAGE, "sleep", "1000")
        assert lab.shoal(lab[0], "docker", "run", *words, *what).code == 0
    with lab[0].client() as client:
        jobs = [f"idle-{number}" for number in range(CONTAINERS)]
        lab.until(lambda: all(client.job(job)["state"] == "running" for job in jobs), "all run")
        after, asked = least_threads(lab, talkative, 3)
        assert set(asked) == {LOOKED}, "nobody asks how they are"
        assert after <= before + 2, "one hears of the end of all"
        assert all(client.job(job)["state"] == "running" for job in jobs)
        for job in jobs:
            client.stop(job)
    lab.until(lambda: talkative.ours() == [], "no container is left", 120)


KINDS = {
    "process": (("run",), ("--",)),
    "container": (("docker", "run", "--network", "none"), (IMAGE,)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_output_is_not_in_the_database(lab: Lab, talkative: DockerHost, kind: str) -> None:
    run, what = KINDS[kind]
    shown = lab.shoal(lab[0], *run, "--name", kind, *what, "sh", "-c", TELL)
    assert (shown.code, shown.out.count("\n")) == (0, LINES)
    lab.until(lambda: talkative.ours() == [], "no container is left")
    output = lab.shoal(lab[0], "logs", kind).out.encode()
    assert output.count(MARK) == LINES, "it is kept elsewhere"
    files = list(lab[0].data_dir.glob("shoal.db*"))
    assert files
    held = sum(path.read_bytes().count(MARK) for path in files) * len(output) // LINES
    assert 0 < held <= IN_DATABASE_BYTES_MAX
