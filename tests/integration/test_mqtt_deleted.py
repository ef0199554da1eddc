"""A template that is deleted while its messages wait, on real agents at a real Mosquitto: on disk
and at the broker nothing of it is left, and no more of it runs than had begun."""

from __future__ import annotations

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import pytest

from tests.lab import Device, Lab
from tests.mosquitto import Mosquitto
from tests.mqttlab import (
    acknowledged,
    burst,
    hearing,
    outputs,
    part_at,
    runs,
    send,
    spec_of,
    template,
    with_broker,
)

RUNNING_MAX: Final = 32  # of one template that a device begins at once
ROWS_MAX: Final = 256  # messages on its disk
UNDER_WAY_MAX: Final = 64  # that a broker sends it at once
SENT: Final = 2 * RUNNING_MAX + ROWS_MAX + UNDER_WAY_MAX + 200  # the rest waits at the broker
WAIT_S: Final = 60.0
GONE: Final = "the template runs no messages (any more)"


@pytest.fixture(scope="module")
def lab(mosquitto: Mosquitto) -> Iterator[Lab]:
    with with_broker(2, mosquitto) as lab:
        for device in lab.devices:  # else one may elect itself before it has heard of the other
            lab.until(lambda device=device: at_the_broker(device) == 2, "both are known", WAIT_S)
        yield lab


def at_the_broker(device: Device) -> int:
    """How many devices it knows to have the broker."""
    with device.client() as client:
        return sum("broker.home" in peer["labels"] for peer in client.peers())


def waiting(device: Device) -> int:
    """Messages that are to become jobs, as its metrics have it."""
    with device.client() as client:
        (found,) = re.findall(r"^shoal_trigger_messages_waiting (\d+)", client.metrics(), re.M)
    return int(found)


def rows(device: Device) -> list[str]:
    """What its disk has of messages: those that wait, and which deliveries it took."""
    with closing(sqlite3.connect(f"file:{device.data_dir}/shoal.db?mode=ro", uri=True)) as database:
        found = database.execute("SELECT key FROM row WHERE bucket IN ('trigger', 'delivery')")
        return [key for (key,) in found]


def refusals(device: Device, template: str) -> list[str]:
    """Why its events say that messages of a template were refused."""
    with device.client() as client:
        events = client.events()
    return [
        str(each["fields"]["reason"])
        for each in events
        if each["kind"] == "trigger.refused" and each["job"] == template
    ]


def passed_on(mosquitto: Mosquitto, device: Device, topic: str) -> int:
    """How many messages of a topic the broker has sent to its triggers' sessions."""
    session = f"Sending PUBLISH to shoal-{device.peer[-12:]}-triggers"
    return sum(session in line and f"'{topic}'" in line for line in mosquitto.log().splitlines())


@pytest.mark.parametrize("keyed", [False, True])
def test_a_template_that_is_deleted_leaves_no_message_behind(
    lab: Lab, mosquitto: Mosquitto, keyed: bool
) -> None:
    name = "slow-keyed" if keyed else "slow"
    topic = f"in/{name}"
    gate, begun = lab.directory / f"{name}.gate", lab.directory / f"{name}.begun"
    os.mkfifo(gate)
    begun.touch()
    for path in (gate, begun):
        path.chmod(0o666)  # for tasks of another user
    spec = spec_of(name, topic, f"echo $SHOAL_JOB_ID >> {begun}; read over < {gate}; cat")
    if keyed:
        spec["Trigger"]["Mqtt"]["Dedup"] = {}
    spec["Tasks"][0]["Resources"] = {"CPU": "10m", "Memory": "16Mi"}
    with lab[0].client() as client:
        job = str(client.submit(spec)["job"])
    lab.until(lambda: hearing(lab, topic) == 1 + keyed, "it is heard")
    before = {device.peer: acknowledged(mosquitto, device.peer) for device in lab.devices}
    burst(mosquitto, topic, SENT, ids=keyed)
    hearers = [d for d in lab.devices if passed_on(mosquitto, d, topic)]
    assert len(hearers) == 1 + keyed

    def fired() -> set[str]:
        return {run["id"] for run in runs(lab, name)}

    for device in hearers:
        lab.until(lambda device=device: waiting(device) >= ROWS_MAX, "its journal is full", WAIT_S)
        lab.until(
            lambda device=device: part_at(device, name)["fired"] == RUNNING_MAX, "many run", WAIT_S
        )
    lab.until(lambda: set(begun.read_text().split()) == fired(), "their tasks have begun", WAIT_S)
    for device in hearers:
        taken = acknowledged(mosquitto, device.peer) - before[device.peer]
        assert taken < SENT - UNDER_WAY_MAX, f"{taken} of {SENT}: none waits at the broker"

    done = lab.shoal(lab[1], "template", "delete", name)
    assert done.code == 0, done.err
    for device in lab.devices:
        lab.until(lambda device=device: waiting(device) == 0, "nothing waits", WAIT_S)
        lab.until(lambda device=device: not rows(device), "nor on disk", WAIT_S)
    for device in hearers:
        lab.until(
            lambda device=device: (
                acknowledged(mosquitto, device.peer) - before[device.peer] >= SENT
            ),
            "its session has no message left",
            WAIT_S,
        )
        lab.until(lambda device=device: GONE in refusals(device, job), "it says why", WAIT_S)
    seen = {device.peer: passed_on(mosquitto, device, topic) for device in lab.devices}
    send(mosquitto, topic, "more", id="more")  # the broker has sent it on when it acknowledges
    assert {d.peer: passed_on(mosquitto, d, topic) for d in lab.devices} == seen, "none hears it"

    began = fired()
    assert set(begun.read_text().split()) == began and len(began) <= RUNNING_MAX * len(hearers)
    # Those that had begun end as ever, and no other begins. Whoever comes to it late finds a file.
    opened = gate.with_name(f"{name}.open")
    opened.touch()
    opened.chmod(0o666)
    with gate.open("w"):
        opened.replace(gate)
    lab.until(lambda: outputs(lab, name).total() == len(began), "they end", WAIT_S)
    assert set(outputs(lab, name).values()) == {1}, "each is a message of its own"
    assert set(begun.read_text().split()) == fired() == began
    assert not any(rows(device) for device in lab.devices)
    well(lab, mosquitto)


def well(lab: Lab, mosquitto: Mosquitto) -> None:
    """None began anew, each is at its broker, and the next template runs."""
    for device in lab.devices:
        assert "rebuilding from disk" not in device.log()
        with device.client() as client:
            assert client.status()["pid"] == device.pid
            checks = {each["check"]: each["ok"] for each in client.doctor()}
        assert checks["broker home"] is True
    template(lab, "next", "in/next", Dedup={})
    had = outputs(lab, "next")["ON\n"]
    send(mosquitto, "in/next", "ON\n", id=f"next-{had}")
    lab.until(lambda: outputs(lab, "next") == Counter({"ON\n": had + 1}), "it runs", WAIT_S)
    assert lab.shoal(lab[0], "template", "delete", "next").code == 0
    lab.until(lambda: not hearing(lab, "in/next"), "it is heard no more", WAIT_S)
