"""Lines of a container at a broker: in order, with the same ids after a kill, and all of them but
those that docker has dropped, which is told of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from agent.client import log_bytes
from agent.engines.docker_client import OWNER
from agent.engines.docker_log import Amount
from tests.dockerhost import IMAGE, DockerHost
from tests.integration.test_mqtt import checks, connected, first_of_each, submit
from tests.lab import Lab
from tests.mosquitto import Mosquitto
from tests.mqttlab import give_broker
from tests.mqttlistener import Holding, Listener

COUNT = 300
LOG_BYTES: Final = 65536  # of which docker keeps more; a flood is more than that
FITS: Final = 100  # the last number that is printed before the flood
LAST: Final = 60_000
WAIT_S: Final = 60.0
FLOOD: Final = f"seq {FITS + 1} {LAST}"


@pytest.fixture
def lab(docker: DockerHost, holding: Holding, mosquitto: Mosquitto) -> Iterator[Lab]:
    lab = Lab(1)
    give_broker(lab[0], holding.port)
    lab[0].environment |= {
        "SHOAL_DOCKER_SOCKET": str(docker.socket),
        "SHOAL_TASK_LOG_BYTES_MAX": str(LOG_BYTES),
    }
    with lab:
        yield lab
    holding.let_go()
    if mosquitto.process is None:
        mosquitto.start()


def box(name: str, script: str, format: str, type: str = "batch") -> dict[str, Any]:
    """A container whose lines are published, on a topic with its name."""
    params: dict[str, Any] = {"Image": IMAGE, "Entrypoint": ["sh", "-c", script]}
    where = {"Broker": "home", "Topic": "shoal/lines/{name}"}
    publisher = {**where, "Lines": True, "Format": format}
    task = {
        "Engine": {"Type": "docker", "Params": params},
        "Network": {"Type": "none"},
        "Publisher": {"Type": "mqtt", "Params": publisher},
    }
    return {"Name": name, "Type": type, "Tasks": [task]}


def test_lines_of_a_container_outlive_kills_of_the_agent(
    lab: Lab, mosquitto: Mosquitto, holding: Holding
) -> None:
    script = f"for n in $(seq {COUNT}); do echo $n; sleep 0.02; done; printf end"
    with Listener(mosquitto.port, "shoal/lines/box") as listener:
        connected(lab)
        job = submit(lab[0], box("box", script, "raw"))

        def lines() -> list[str]:
            return [each.payload.decode() for each in first_of_each(listener.on("lines/box"))]

        listener.until(lambda: len(lines()) >= 20, "the first lines")
        holding.hold()
        assert holding.held.wait(60.0), "a line whose PUBACK is held"
        lab.kill(lab[0])
        holding.let_go()
        lab.start(lab[0])
        listener.until(lambda: "end" in lines(), "the last line")
        assert lines() == [*(str(number) for number in range(1, COUNT + 1)), "end"]
        assert len(listener.on("lines/box")) > COUNT + 1, "some came twice"
        with lab[0].client() as client:
            lab.until(lambda: client.job(job)["state"] == "completed", "it has ended")


# ---- lines that docker has dropped ---------------------------------------------------------------


def test_where_lines_are_gone_that_followed_those_at_the_broker_the_next_one_says_so(
    lab: Lab, docker: DockerHost, mosquitto: Mosquitto
) -> None:
    script = f"seq {FITS}; until [ -e /go ]; do sleep 0.1; done; {FLOOD}; exec sleep 600"
    with Listener(mosquitto.port, "shoal/lines/daemon", "daemon") as listener:
        connected(lab)
        job = submit(lab[0], box("daemon", script, "json", "daemon"))
        listener.until(lambda: len(listener.on("daemon")) == FITS, "what fits is there")
        assert not [each for each in listener.heard if "gap" in {*each.properties, *each.json()}]
        gone(lab, mosquitto)
        go_on(lab, docker)
        lab.until(lambda: printed(lab, job) == LAST, "all is printed", WAIT_S)
        mosquitto.start()
        listener.until(lambda: LAST in numbers(listener, "daemon"), "its end")
        assert numbers(listener, "daemon")[:FITS] == list(range(1, FITS + 1))
        the_newest_after_a_gap(lab, listener, job, "daemon", FITS)
    over(lab, docker, job)


@pytest.mark.parametrize("ends", [False, True])
def test_where_lines_are_gone_before_the_broker_had_any_the_first_one_says_so(
    lab: Lab, docker: DockerHost, mosquitto: Mosquitto, ends: bool
) -> None:
    """While the container runs, or once it has gone and its output is kept."""
    name = "ended" if ends else "late"
    with Listener(mosquitto.port, f"shoal/lines/{name}", name) as listener:
        connected(lab)
        gone(lab, mosquitto)
        job = submit(lab[0], box(name, FLOOD if ends else f"{FLOOD}; exec sleep 600", "json"))
        if ends:
            lab.until(lambda: state(lab, job) == "completed", "it has ended", WAIT_S)
            lab.until(lambda: not containers(lab, docker), "its container has gone", WAIT_S)
        else:
            lab.until(lambda: printed(lab, job) == LAST, "all is printed", WAIT_S)
        mosquitto.start()
        listener.until(lambda: LAST in numbers(listener, name), "its end")
        the_newest_after_a_gap(lab, listener, job, name, 0)
    if not ends:
        over(lab, docker, job)


def test_lines_that_docker_has_all_of_are_missed_nowhere(
    lab: Lab, docker: DockerHost, mosquitto: Mosquitto
) -> None:
    """Printed while the broker is away, before and after some that it has."""
    script = f"seq {FITS}; until [ -e /go ]; do sleep 0.1; done; seq {FITS + 1} {2 * FITS}"
    with Listener(mosquitto.port, "shoal/lines/whole", "whole") as listener:
        connected(lab)
        gone(lab, mosquitto)
        job = submit(lab[0], box("whole", script, "json"))
        lab.until(lambda: printed(lab, job) == FITS, "the first are printed", WAIT_S)
        mosquitto.start()
        listener.until(lambda: FITS in numbers(listener, "whole"), "they are there")
        gone(lab, mosquitto)
        go_on(lab, docker)
        lab.until(lambda: state(lab, job) == "completed", "it has ended", WAIT_S)
        mosquitto.start()
        listener.until(lambda: 2 * FITS in numbers(listener, "whole"), "all are there")
        assert numbers(listener, "whole") == list(range(1, 2 * FITS + 1))
        assert not [each for each in listener.heard if "gap" in {*each.properties, *each.json()}]
        assert gaps_told(lab, job) == []


def the_newest_after_a_gap(lab: Lab, listener: Listener, job: str, name: str, known: int) -> None:
    """Behind those that are known to the broker, without one missing among them."""
    heard = first_of_each(listener.on(name))[known:]
    found = numbers(listener, name)[known:]
    assert found == list(range(found[0], LAST + 1)) and found[0] > FITS + 1
    assert stored_bytes(found) > 2 * LOG_BYTES, "as many as docker keeps at least"
    assert [each.properties.get("gap") for each in heard] == ["true"] + [None] * (len(heard) - 1)
    assert [each.json().get("gap") for each in heard] == [True] + [None] * (len(heard) - 1)
    assert not [each for each in heard if "dropped_bytes" in each.properties], "nobody knows it"
    lab.until(lambda: gaps_told(lab, job) == [1], "events say so, once", WAIT_S)


def stored_bytes(numbers: list[int]) -> int:
    """What these lines take in docker's files."""
    amount = Amount()
    for _ in amount.counting(f"moment {number}\n".encode() for number in numbers):
        pass
    return amount.stored


def numbers(listener: Listener, name: str) -> list[int]:
    return [int(each.json()["line"]) for each in first_of_each(listener.on(name))]


def gone(lab: Lab, mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    lab.until(lambda: not checks(lab[0])["broker home"]["ok"], "it is missed", WAIT_S)


def containers(lab: Lab, docker: DockerHost) -> list[str]:
    found = docker.api.containers(all=True, filters={"label": f"{OWNER}={lab[0].peer}"})
    return [str(each["Id"]) for each in found]


def go_on(lab: Lab, docker: DockerHost) -> None:
    (container,) = containers(lab, docker)
    made = docker.api.exec_create(container, ["touch", "/go"])
    assert docker.api.exec_start(made) == b""


def printed(lab: Lab, job: str) -> int:
    """The last line that docker has."""
    with lab[0].client() as client:
        lines = b"".join(log_bytes(line) for line in client.logs(job, stream="stdout", tail=1))
    *_, last, _ = [b"0", *lines.split(b"\n")]
    return int(last)


def state(lab: Lab, job: str) -> str:
    with lab[0].client() as client:
        return str(client.job(job)["state"])


def gaps_told(lab: Lab, job: str) -> list[int]:
    """How often output may be missing, as each of the events says."""
    with lab[0].client() as client:
        told = [each for each in client.events(job=job) if each["kind"] == "mqtt.dropped"]
    return [int(each["fields"]["gaps"]) for each in told]


def over(lab: Lab, docker: DockerHost, job: str) -> None:
    """Docker is shared: nothing of this test runs on in it."""
    with lab[0].client() as client:
        client.stop(job)
    lab.until(lambda: not containers(lab, docker), "its container has gone", WAIT_S)
