"""Files of the web as inputs, of processes and of containers: real agents and a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.inputs.test_downloads import BODY, DIGEST, Handler, Server
from tests.dockerhost import IMAGE, DockerHost
from tests.lab import Lab, children_of


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        made.answers = {
            "/data.csv": lambda to: to.say(BODY),
            "/gone.csv": lambda to: to.say(b"", 404),
            "/short.csv": lambda to: to.say(b"half", length=100),
            "/endless.csv": endless,
        }
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def endless(to: Handler) -> None:
    to.send_response(200)
    to.end_headers()
    try:
        while True:
            to.wfile.write(bytes(1 << 20))
    except OSError:
        pass


@pytest.fixture(scope="module")
def lab(docker: DockerHost) -> Iterator[Lab]:
    """The second one's owner lets it fetch from nowhere."""
    lab = Lab(2)
    for device in lab.devices:
        device.environment["SHOAL_DOCKER_SOCKET"] = str(docker.socket)
    lab[1].flags = ["--accept-downloads", "*.example.org"]
    with lab:
        yield lab


def job(engine: str, name: str, url: str, digest: str = "") -> dict[str, Any]:
    target = "/input" if engine == "docker" else "input"
    words = ["sh", "-c", f"cat {target}/* | sha256sum"]
    params: dict[str, Any] = {"Command": words}
    if engine == "docker":
        params = {"Image": IMAGE, "Parameters": words}
    source = {"URL": url, **({"SHA256": digest} if digest else {})}
    task = {
        "Engine": {"Type": engine, "Params": params},
        "InputSources": [{"Target": target, "Source": {"Type": "urlDownload", "Params": source}}],
        "Network": {"Type": "none"} if engine == "docker" else {"Type": "host"},
    }
    return {"Name": name, "Type": "batch", "Retry": {"Attempts": 1}, "Tasks": [task]}


def run(lab: Lab, spec: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """To its end; its only slot as another device tells of it."""
    file = tmp_path / f"{spec['Name']}.json"
    file.write_text(json.dumps(spec))
    lab.shoal(lab[0], "job", "run", str(file), "--wait", "-q")
    found = json.loads(lab.shoal(lab[1], "job", "describe", spec["Name"], "--json").out)
    (slot,) = found["slots"]
    return dict(slot)


def left_behind(lab: Lab, docker: DockerHost) -> list[str]:
    """Containers, work directories and mounts of what has ended, partial files, processes."""
    found = [str(each["Names"]) for each in docker.ours()]
    for device in lab.devices:
        found += [str(path) for path in device.data_dir.glob("downloads/*.part")]
        found += [str(path) for path in device.data_dir.glob("executions/*/work")]
        found += [str(path) for path in device.data_dir.glob("containers/*/work/*")]
        found += [str(pid) for pid in children_of(device.pid)]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return found + [line for line in mounts if str(lab.directory) in line]


@pytest.mark.parametrize("engine", ["process", "docker"])
@pytest.mark.parametrize("digest", ["", DIGEST], ids=["fresh", "known"])
def test_a_file_of_the_web_is_there_for_the_task(
    lab: Lab, docker: DockerHost, server: Server, tmp_path: Path, engine: str, digest: str
) -> None:
    name = f"{engine}-{'known' if digest else 'fresh'}"
    done = run(lab, job(engine, name, server.url("/data.csv"), digest), tmp_path)
    assert (done["state"], done["stdout_tail"]) == ("completed", f"{DIGEST}  -\n"), done
    assert done["executor"] == lab[0].peer
    lab.until(lambda: not left_behind(lab, docker), "nothing is left behind")


@pytest.mark.parametrize("engine", ["process", "docker"])
@pytest.mark.parametrize(
    ("path", "digest", "reason"),
    [
        ("/data.csv", "0" * 64, f"/data.csv has the SHA-256 {DIGEST}, and not the job's"),
        ("/gone.csv", "", "/gone.csv answers 404 Not Found"),
        ("/short.csv", "", "/short.csv broke off after 4 of 100 bytes"),
        ("/endless.csv", "", "/endless.csv is longer than 1024 MiB"),
    ],
)
def test_what_cannot_be_had_is_the_end_with_its_reason(
    lab: Lab,
    docker: DockerHost,
    server: Server,
    tmp_path: Path,
    engine: str,
    path: str,
    digest: str,
    reason: str,
) -> None:
    name = f"{engine}-not-{path[1:-4]}"
    done = run(lab, job(engine, name, server.url(path), digest), tmp_path)
    assert (done["state"], done["exit_code"]) == ("failed", None), done
    assert reason in done["reason"]
    assert reason in lab.shoal(lab[1], "job", "describe", name).out
    lab.until(lambda: not left_behind(lab, docker), "nothing is left behind")


def test_a_device_that_fetches_from_elsewhere_alone_says_so_with_its_line(
    lab: Lab, server: Server, tmp_path: Path
) -> None:
    spec = job("process", "elsewhere", server.url("/data.csv"))
    spec["Constraints"] = [{"Key": "shoal/peer", "Operator": "=", "Values": [lab[1].peer]}]
    spec["Tasks"][0]["Timeouts"] = {"QueueTimeout": 0}
    assert run(lab, spec, tmp_path)["state"] == "failed"
    why = lab.shoal(lab[0], "why", "elsewhere").out
    assert '127.0.0.1 is not allowed here ([accept] downloads = ["*.example.org"])' in why, why
