"""Lines of a container at a broker: in order, all of them, with the same ids after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.dockerhost import IMAGE, DockerHost
from tests.integration.test_mqtt import checks, first_of_each, submit
from tests.lab import Lab
from tests.mosquitto import Mosquitto
from tests.mqttlab import give_broker
from tests.mqttlistener import Holding, Listener

COUNT = 300


@pytest.fixture
def lab(docker: DockerHost, holding: Holding) -> Iterator[Lab]:
    lab = Lab(1)
    give_broker(lab[0], holding.port)
    lab[0].environment["SHOAL_DOCKER_SOCKET"] = str(docker.socket)
    with lab:
        yield lab


def test_lines_of_a_container_outlive_kills_of_the_agent(
    lab: Lab, mosquitto: Mosquitto, holding: Holding
) -> None:
    script = f"for n in $(seq {COUNT}); do echo $n; sleep 0.02; done; printf end"
    params: dict[str, Any] = {"Image": IMAGE, "Entrypoint": ["sh", "-c", script]}
    publisher = {"Broker": "home", "Topic": "shoal/lines/{name}", "Lines": True}
    task = {
        "Engine": {"Type": "docker", "Params": params},
        "Network": {"Type": "none"},
        "Publisher": {"Type": "mqtt", "Params": publisher},
    }
    spec = {"Name": "box", "Type": "batch", "Tasks": [task]}
    with Listener(mosquitto.port, "shoal/lines/#") as listener:
        lab.until(lambda: checks(lab[0])["broker home"]["ok"] is True, "connected")
        job = submit(lab[0], spec)

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
