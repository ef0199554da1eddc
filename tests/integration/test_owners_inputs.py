"""What of a device's own a job is given where its owner allows it: a directory and a variable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dockerhost import IMAGE, DockerHost
from tests.lab import Done, Lab
from tests.leftovers import leftovers

SECRET = "known here alone"
SAYS = 'cat {place}/words; echo "$TOKEN"'


@pytest.fixture(scope="module")
def lab(docker: DockerHost) -> Iterator[Lab]:
    """Of two devices with the same directory and variable, the first one's owner allows both."""
    lab = Lab(2)
    given = place(lab)
    given.mkdir()
    given.chmod(0o755)
    (given / "words").write_text("low tide\n")
    for device in lab.devices:
        device.environment |= {"SHOAL_DOCKER_SOCKET": str(docker.socket), "API_TOKEN": SECRET}
    lab[0].flags = ["--accept-directories", str(given), "--accept-environment", "API_TOKEN"]
    with lab:
        lab.until(lambda: all("docker" in engines for engines in seen(lab)), "docker is seen")
        yield lab


def place(lab: Lab) -> Path:
    """What is given; where tasks of another user get to."""
    return lab.directory / "given"


@pytest.fixture
def given(lab: Lab) -> Path:
    return place(lab)


def seen(lab: Lab) -> list[list[str]]:
    with lab[1].client() as client:
        found = [peer["engines"] for peer in client.peers()]
    assert len(found) == 2
    return found


def run(lab: Lab, file: Path, name: str, given: Path, target: str, engine: dict[str, Any]) -> Done:
    """A job file of this engine, submitted where neither is allowed and run to its end."""
    source = {"Type": "localDirectory", "Params": {"SourcePath": str(given)}}
    task = {
        "Name": "main",
        "Engine": engine,
        "Env": {"TOKEN": "env:API_TOKEN"},
        "InputSources": [{"Target": target, "Source": source}],
    }
    file.write_text(json.dumps({"Name": name, "Type": "batch", "Tasks": [task]}))
    return lab.shoal(lab[1], "job", "run", str(file), "--follow", "-q")


def refused(lab: Lab, name: str, what: str, key: str) -> None:
    """The second device's reason, and what would make it fit, as a person is told on both."""
    for device in lab.devices:
        why = lab.shoal(device, "why", name).out
        found = re.search(r"^ *d01 +refused: (.*)\n *-> (.*)$", why, re.MULTILINE)
        assert found, why
        assert found[1] == f"policy: {what} is not allowed here ([accept] {key} = [])", why
        assert found[2] == f"fits without {what}, or once its owner adds it to accept.{key} there"


def test_a_container_is_given_what_its_devices_owner_allows_and_cannot_write_there(
    lab: Lab, docker: DockerHost, given: Path, tmp_path: Path
) -> None:
    script = f"{SAYS.format(place='/data')}; echo more >> /data/words; touch /data/new"
    params = {"Image": IMAGE, "Entrypoint": ["sh", "-c"], "Parameters": [script]}
    engine = {"Type": "docker", "Params": params}
    done = run(lab, tmp_path / "job.json", "inside", given, "/data", engine)
    assert (done.code, done.out) == (1, f"low tide\n{SECRET}\n"), done
    assert done.err.count("Read-only file system") == 2, done
    assert [path.name for path in given.iterdir()] == ["words"]
    assert (given / "words").read_text() == "low tide\n"
    refused(lab, "inside", f"directory {given}", "directories")
    lab.until(lambda: not leftovers(lab, docker), "nothing is left")
    assert given.is_dir(), "what was given is the owner's, and stays"


def test_a_program_is_given_what_its_devices_owner_allows(
    lab: Lab, given: Path, tmp_path: Path
) -> None:
    engine = {"Type": "process", "Params": {"Command": ["sh", "-c", SAYS.format(place="data")]}}
    done = run(lab, tmp_path / "job.json", "beside", given, "data", engine)
    assert (done.code, done.out) == (0, f"low tide\n{SECRET}\n"), done
    refused(lab, "beside", f"directory {given}", "directories")
    lab.until(lambda: not leftovers(lab), "nothing is left")
    assert (given / "words").read_text() == "low tide\n", "the link went, and nothing behind it"


def test_a_variable_alone_is_refused_by_its_name_and_never_its_value(lab: Lab) -> None:
    words = ("--name", "variable", "-q", "-e", "T=env:API_TOKEN", "--", "sh", "-c", "echo ${#T}")
    done = lab.shoal(lab[1], "run", *words)
    assert (done.code, done.out) == (0, f"{len(SECRET)}\n"), done
    refused(lab, "variable", "environment API_TOKEN", "environment")
    for device in lab.devices:
        assert SECRET not in lab.shoal(device, "job", "describe", "variable").out
        assert SECRET not in device.log()
