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
    """Of two devices with the same directories and variable, the first one's owner allows all: one
    of the directories to be read, and another to be written to."""
    lab = Lab(2)
    given = place(lab)
    given.mkdir()
    given.chmod(0o755)
    (given / "words").write_text("low tide\n")
    written(lab).mkdir()
    written(lab).chmod(0o777)  # by tasks of another user
    for device in lab.devices:
        device.environment |= {"SHOAL_DOCKER_SOCKET": str(docker.socket), "API_TOKEN": SECRET}
    lab[0].flags = ["--accept-directories", str(given), "--accept-environment", "API_TOKEN"]
    lab[0].flags += ["--accept-directories", f"{written(lab)}:rw"]
    with lab:
        lab.until(lambda: all("docker" in engines for engines in seen(lab)), "docker is seen")
        yield lab


def place(lab: Lab) -> Path:
    """What is given; where tasks of another user get to."""
    return lab.directory / "given"


def written(lab: Lab) -> Path:
    """What may be written to."""
    return lab.directory / "written"


@pytest.fixture
def given(lab: Lab) -> Path:
    return place(lab)


def seen(lab: Lab) -> list[list[str]]:
    with lab[1].client() as client:
        found = [peer["engines"] for peer in client.peers()]
    assert len(found) == 2
    return found


def run(
    lab: Lab,
    file: Path,
    name: str,
    given: Path,
    target: str,
    engine: dict[str, Any],
    *flags: str,
    **more: Any,
) -> Done:
    """A job file of this engine, submitted where neither is allowed and run to its end, unless
    there are `flags`; `more` as it stands beside the directory's path."""
    source = {"Type": "localDirectory", "Params": {"SourcePath": str(given), **more}}
    task = {
        "Name": "main",
        "Engine": engine,
        "Env": {"TOKEN": "env:API_TOKEN"},
        "InputSources": [{"Target": target, "Source": source}],
    }
    file.write_text(json.dumps({"Name": name, "Type": "batch", "Tasks": [task]}))
    return lab.shoal(lab[1], "job", "run", str(file), *(flags or ("--follow", "-q")))


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


WRITES = "cat {place}/before && echo $TOKEN > {place}/after && rm {place}/before"
ENGINES = {
    "container": (
        "/data",
        {
            "Type": "docker",
            "Params": {
                "Image": IMAGE,
                "Parameters": ["sh", "-c", WRITES.format(place="/data")],
            },
        },
    ),
    "program": (
        "data",
        {"Type": "process", "Params": {"Command": ["sh", "-c", WRITES.format(place="data")]}},
    ),
}


@pytest.mark.parametrize("kind", ENGINES)
def test_what_may_be_written_to_has_what_a_task_wrote_there(
    lab: Lab, docker: DockerHost, tmp_path: Path, kind: str
) -> None:
    directory, (target, engine) = written(lab), ENGINES[kind]
    (directory / "before").write_text("was here\n")
    name = f"writes-{kind}"
    done = run(lab, tmp_path / "job.json", name, directory, target, engine, ReadWrite=True)
    assert (done.code, done.out) == (0, "was here\n"), done
    assert [path.name for path in directory.iterdir()] == ["after"]
    assert (directory / "after").read_text() == f"{SECRET}\n"
    refused(lab, name, f"directory {directory}:rw", "directories")
    lab.until(lambda: not leftovers(lab, docker), "nothing is left")
    (directory / "after").unlink()


@pytest.mark.parametrize("kind", ENGINES)
def test_what_may_be_read_is_given_to_nobody_who_wants_to_write_there(
    lab: Lab, given: Path, tmp_path: Path, kind: str
) -> None:
    target, engine = ENGINES[kind]
    name = f"overwrites-{kind}"
    started = run(lab, tmp_path / "job.json", name, given, target, engine, "-q", ReadWrite=True)
    assert started.code == 0, started

    def asked() -> str:
        out = lab.shoal(lab[0], "why", name).out
        return out if out.count("refused: ") >= 2 else ""

    why = lab.until(asked, "both were asked").partition("round 2")[0]
    allowed = f'"{given}", "{written(lab)}:rw"'
    for line in (allowed, ""):
        text = f"policy: directory {given}:rw is not allowed here ([accept] directories = [{line}])"
        assert text in why, why
    assert lab.shoal(lab[0], "job", "stop", name, "-y").code == 0
    assert (given / "words").read_text() == "low tide\n"
    lab.until(lambda: not leftovers(lab), "nothing is left")


def test_a_variable_alone_is_refused_by_its_name_and_never_its_value(lab: Lab) -> None:
    words = ("--name", "variable", "-q", "-e", "T=env:API_TOKEN", "--", "sh", "-c", "echo ${#T}")
    done = lab.shoal(lab[1], "run", *words)
    assert (done.code, done.out) == (0, f"{len(SECRET)}\n"), done
    refused(lab, "variable", "environment API_TOKEN", "environment")
    for device in lab.devices:
        assert SECRET not in lab.shoal(device, "job", "describe", "variable").out
        assert SECRET not in device.log()
