"""docker_client on a real docker: events, processors, passwords of registries, and silence."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path

import pytest

from agent.engines.docker_client import DockerClient, EngineFailed, NotAnswering, NotThere
from tests.dockerhost import IMAGE, LOGIN, PEER, DockerHost
from tests.dockerproxy import LEAVES_SOCKETS, DockerProxy

pytestmark = LEAVES_SOCKETS
WITHIN_S = 60.0
PULL = rb"^POST \S*/images/create"
EVENTS = rb"^GET \S*/events"


def begun(docker: DockerHost, script: str, **labels: str) -> str:
    """A container that has begun; its id. What is not ours has to be removed."""
    marks = {label.replace("_", "."): value for label, value in labels.items()}
    made = docker.api.create_container(IMAGE, ["sh", "-c", script], labels=marks)
    docker.api.start(made)
    return str(made["Id"])


# ---- events ------------------------------------------------------------------------------------


def test_ends_and_signals_that_are_to_end_it_are_told(
    docker: DockerHost, client: DockerClient
) -> None:
    found: list[tuple[str, str]] = []
    events = client.events()

    def listen() -> None:
        for event in events:
            found.append(event)
            if event == ("last", "die"):
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    ours = {"shoal_peer": PEER}
    docker.api.wait(begun(docker, "exit 3", shoal_execution="e1", **ours))
    for name, signal in (("e2", "SIGTERM"), ("e3", "SIGHUP"), ("e4", "SIGKILL")):
        # The first process of a container ends by no signal that it does not wait for, but KILL.
        docker.api.kill(begun(docker, "sleep 1000", shoal_execution=name, **ours), signal)
    unnamed = begun(docker, "true", **ours)
    theirs = begun(docker, "true", shoal_execution="e5", shoal_peer="12D3KooWSomebodyElse")
    for each in (unnamed, theirs):
        docker.api.wait(each)
    docker.api.remove_container(unnamed)
    docker.api.wait(begun(docker, "true", shoal_execution="last", **ours))
    thread.join(WITHIN_S)
    events.close()
    told = {("e1", "die"), ("e2", "kill"), ("e4", "kill"), ("e4", "die"), ("last", "die")}
    assert not thread.is_alive() and set(found) == told and len(found) == len(told)


@pytest.mark.parametrize(
    ("after", "told"),
    [(rb'"die"[^\n]*\n\r\n', [("e1", "die")]), (rb'"die"', [])],
    ids=["between two events", "within one"],
)
def test_a_stream_that_is_cut_off_is_over(
    docker: DockerHost,
    client: DockerClient,
    proxy: DockerProxy,
    after: bytes,
    told: list[tuple[str, str]],
) -> None:
    """The SDK takes it for its end, so whoever hears of one listens anew."""
    with proxy.cutting(EVENTS, after):
        events = client.events()
        begun(docker, "true", shoal_execution="e1", shoal_peer=PEER)
        assert list(events) == told
    events.close()
    events.close()  # there is no socket any more


# ---- errors ------------------------------------------------------------------------------------


def test_what_docker_refuses_is_said_in_its_words(docker: DockerHost, client: DockerClient) -> None:
    with pytest.raises(NotThere, match=f"^No such container: {client.name_of('e1')}$"):
        client.inspect("e1")
    with pytest.raises(NotThere, match="nowhere:1"):
        client.create("e1", {"image": "nowhere:1", "command": "true"}, {})
    client.create("e1", {"image": IMAGE, "command": ["sleep", "1000"]}, {})
    client.start("e1")
    with pytest.raises(EngineFailed, match=r"^(?i:conflict).*already in use") as caught:
        client.create("e1", {"image": IMAGE, "command": "true"}, {})
    assert type(caught.value) is EngineFailed
    client.create("e2", {"image": IMAGE, "command": "x" * 5000}, {})
    with pytest.raises(EngineFailed) as caught:
        client.start("e2")
    assert type(caught.value) is EngineFailed and len(str(caught.value)) == 400


def test_silence_is_no_answer_within_so_long(
    docker: DockerHost, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = DockerClient(docker.socket, PEER)
    monkeypatch.setattr(client._api, "timeout", 1.0)
    monkeypatch.setattr("agent.engines.docker_client.TIMEOUT_S", 1.0)
    docker.freeze()
    try:
        with pytest.raises(NotAnswering, match=r"^docker did not answer within 1 s$"):
            client.inspect("e1")
        with pytest.raises(NotAnswering, match=r"^docker did not answer within 1 s$"):
            DockerClient(docker.socket, PEER)
    finally:
        docker.thaw()
        client.close()


@pytest.mark.parametrize("after", [0, 20, rb'"Id"'], ids=["at once", "head", "body"])
def test_an_answer_that_is_cut_off_is_none(
    docker: DockerHost, client: DockerClient, proxy: DockerProxy, after: int | bytes
) -> None:
    client.create("e1", {"image": IMAGE, "command": "true"}, {})
    with (
        proxy.cutting(rb"^GET \S*/containers/", after),
        pytest.raises(NotAnswering, match="reached"),
    ):
        client.inspect("e1")
    assert client.inspect("e1").status == "created"


# ---- images ------------------------------------------------------------------------------------


def test_what_is_for_another_processor_is_told_apart(
    docker: DockerHost, client: DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.relabel(IMAGE, "foreign:1", "s390x")
    assert [client.foreign_kind(image) for image in (IMAGE, "foreign:1")] == ["", "s390x"]
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    assert client.foreign_kind("foreign:1") == ""
    docker.api.remove_image("foreign:1")


def test_credentials_are_read_at_each_pull(
    docker: DockerHost, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person may log in to a registry, or its password change, while the agent runs."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def log_in(password: str) -> None:
        known = {"auth": base64.b64encode(f"{LOGIN[0]}:{password}".encode()).decode()}
        config = {"auths": {image.partition("/")[0]: known}}
        (tmp_path / "config.json").write_text(json.dumps(config))

    with docker.registry("private:1", private=True) as image:
        log_in("old")
        client = DockerClient(docker.socket, PEER)
        try:
            for _ in range(2):
                with pytest.raises(EngineFailed, match=r"unauthorized|no basic auth credentials"):
                    list(client.pull(image))
                assert not client.has_image(image)
                log_in(LOGIN[1])
                list(client.pull(image))
                assert client.has_image(image)
                client.remove_image(image)
                log_in("another")
        finally:
            client.close()


@pytest.mark.parametrize("after", [0, rb'"status"[^\n]*\n\r\n'], ids=["no word", "one word"])
def test_a_pull_of_which_docker_says_nothing_for_long_ends(
    docker: DockerHost,
    client: DockerClient,
    proxy: DockerProxy,
    monkeypatch: pytest.MonkeyPatch,
    after: int | bytes,
) -> None:
    """The SDK waits for ever, and with it a thread, and a place among those that may pull."""
    monkeypatch.setattr("agent.engines.docker_client.QUIET_S", 1.0)
    heard: list[str] = []
    with docker.registry("stalls:1") as image:
        before = time.monotonic()
        with proxy.hanging(PULL, after), pytest.raises(NotAnswering):
            for line in client.pull(image):
                heard.append(str(line["status"]))
        assert 1.0 <= time.monotonic() - before < WITHIN_S
        assert heard == (["Pulling from stalls"] if after else [])
        list(client.pull(image))
        client.remove_image(image)
