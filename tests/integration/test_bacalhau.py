"""What Bacalhau's job files count on, on real agents with a real docker: variables, labels of
nodes, names of sources and of files, and the name by which a container finds its device."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.inputs.test_downloads import BODY, Server
from tests.dockerhost import IMAGE, DockerHost
from tests.lab import Lab
from tests.leftovers import leftovers

LATEST = "/latest"
NAMED = 'attachment; filename="days.csv"'


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One address that leads on to another, where the file has a name of its own."""
    with Server() as made:
        made.answers = {
            LATEST: lambda to: to.say(b"", 302, Location=made.url("/v1/data.csv")),
            "/v1/data.csv": lambda to: to.say(BODY, Content_Disposition=NAMED),
        }
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def lab(docker: DockerHost) -> Iterator[Lab]:
    lab = Lab(2)
    given = lab.directory / "given"
    given.mkdir()
    (given / "words").write_text("tide\n")
    for device in lab.devices:
        device.environment["SHOAL_DOCKER_SOCKET"] = str(docker.socket)
        device.flags = ["--accept-networks", "*", "--accept-directories", str(given)]
    with lab:
        lab.until(lambda: all("docker" in peer["engines"] for peer in peers(lab)), "docker is seen")
        yield lab


def peers(lab: Lab) -> list[dict[str, Any]]:
    with lab[0].client() as client:
        return client.peers()


def job(engine: str, script: str, **fields: Any) -> dict[str, Any]:
    """A batch job of one shell script; `fields` are the task's, but for `Constraints` and what is
    to stand in the engine's `Params`."""
    constraints, params = fields.pop("Constraints", []), fields.pop("Params", {})
    words: dict[str, Any] = {"Command": ["sh", "-c", script]}
    if engine == "docker":
        words = {"Image": IMAGE, "Parameters": ["sh", "-c", script]}
    task = {"Engine": {"Type": engine, "Params": {**words, **params}}, **fields}
    return {"Type": "batch", "Constraints": constraints, "Tasks": [task]}


def run(lab: Lab, name: str, spec: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """To its end; its only slot."""
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps({"Name": name, **spec}))
    lab.shoal(lab[0], "job", "run", str(file), "--wait", "-q")
    found = json.loads(lab.shoal(lab[0], "job", "describe", name, "--json").out)
    (slot,) = found["slots"]
    return dict(slot)


def where(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"Key": key, "Operator": operator, "Values": [*values]}


def test_variables_of_the_engine_come_over_those_of_the_task(
    lab: Lab, docker: DockerHost, tmp_path: Path
) -> None:
    spec = job(
        "docker",
        "echo $A $B $C $BACALHAU_JOB_TYPE",
        Env={"A": "task", "B": "task"},
        Params={"EnvironmentVariables": ["A=engine", "C=engine"]},
        Network={"Type": "none"},
    )
    done = run(lab, "variables", spec, tmp_path)
    assert (done["state"], done["stdout_tail"]) == ("completed", "engine task engine batch\n"), done
    lab.until(lambda: not leftovers(lab, docker), "nothing is left")


def test_labels_of_its_nodes_are_found_by_constraints(lab: Lab, tmp_path: Path) -> None:
    arch = peers(lab)[0]["labels"]["arch"]
    for number, device in enumerate(lab.devices):
        constraints = [
            where("os_type", "=", "linux"),
            where("os_arch", "in", arch, "vax"),
            where("name", "=", device.name),
        ]
        spec = job("process", "true", Constraints=constraints)
        done = run(lab, f"named-{number}", spec, tmp_path)
        assert (done["state"], done["executor"]) == ("completed", device.peer), done


def test_a_label_that_does_not_fit_is_the_reason_of_every_device(lab: Lab, tmp_path: Path) -> None:
    arch = peers(lab)[0]["labels"]["arch"]
    constraints = [where("os_arch", "!=", arch)]
    spec = job("process", "true", Constraints=constraints, Timeouts={"QueueTimeout": 0})
    assert run(lab, "another", spec, tmp_path)["state"] == "failed"
    why = lab.shoal(lab[0], "why", "another").out
    assert why.count(f"label os_arch: wanted anything but '{arch}', found '{arch}'") == 2, why


def test_commands_on_devices_know_them_too(lab: Lab) -> None:
    name = lab[1].name
    done = lab.shoal(lab[0], "exec", "--where", f"name={name},os_type=linux", "--", "echo", "here")
    assert (done.code, done.out) == (0, f"{name}: here\n"), done
    others = json.loads(lab.shoal(lab[0], "peers", "--where", f"name!={name}", "--json").out)
    assert [peer["id"] for peer in others["peers"]] == [lab[0].peer]


@pytest.mark.parametrize("engine", ["process", "docker"])
def test_a_file_of_the_web_has_the_name_that_its_address_leads_to(
    lab: Lab, docker: DockerHost, server: Server, tmp_path: Path, engine: str
) -> None:
    target = "/inputs" if engine == "docker" else "inputs"
    source = {"Type": "urlDownload", "Params": {"URL": server.url(LATEST)}}
    spec = job(
        engine,
        f"ls {target}; wc -c < {target}/days.csv",
        InputSources=[{"Target": target, "Source": source}],
    )
    done = run(lab, f"led-on-{engine}", spec, tmp_path)
    assert (done["state"], done["stdout_tail"]) == ("completed", f"days.csv\n{len(BODY)}\n"), done
    lab.until(lambda: not leftovers(lab, docker), "nothing is left")


@pytest.mark.parametrize("engine", ["process", "docker"])
@pytest.mark.parametrize("kind", ["local", "localDirectory"])
def test_a_directory_of_the_device_is_a_source_by_either_name(
    lab: Lab, docker: DockerHost, tmp_path: Path, engine: str, kind: str
) -> None:
    target = "/given" if engine == "docker" else "given"
    path = str(lab.directory / "given")
    source = {"Type": kind, "Params": {"SourcePath": path, "CreateAs": "noCreate"}}
    spec = job(engine, f"cat {target}/words", InputSources=[{"Target": target, "Source": source}])
    done = run(lab, f"{kind}-{engine}", spec, tmp_path)
    assert (done["state"], done["stdout_tail"]) == ("completed", "tide\n"), done
    lab.until(lambda: not leftovers(lab, docker), "nothing is left")


def test_a_container_finds_its_device_by_name(lab: Lab, docker: DockerHost, tmp_path: Path) -> None:
    """What it finds there is a page of another container, in the device's own network."""
    serve = "cd /tmp; echo a page > index.html; exec httpd -f -p 8099"
    words = ("-d", "--name", "page", "--network", "host", IMAGE, "sh", "-c", serve)
    assert lab.shoal(lab[0], "docker", "run", *words).code == 0
    lab.until(lambda: docker.fetch("http://127.0.0.1:8099/") == "a page\n", "it answers")
    for network in ("bridge", "host"):
        asked = job(
            "docker",
            "wget -q -O - http://host.docker.internal:8099/",
            Network={"Type": network},
        )
        done = run(lab, f"asked-by-{network}", asked, tmp_path)
        said = (done["state"], done["stdout_tail"], done["stderr_tail"], done["reason"])
        assert said[:2] == ("completed", "a page\n"), said
    alone = job("docker", "grep internal /etc/hosts", Network={"Type": "none"})
    assert run(lab, "alone", alone, tmp_path)["exit_code"] == 1
    assert lab.shoal(lab[0], "stop", "page", "-y").code == 0
    lab.until(lambda: not leftovers(lab, docker), "nothing is left")
