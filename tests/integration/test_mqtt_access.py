"""A real agent at a Mosquitto with TLS, passwords and an access list: the one that the pages give.

The first device speaks MQTT 5 and the second 3.1.1; each has the user `agent` of
firmware-notes/provisioning.md, and nothing more but where that says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.firmware.pages import block
from tests.lab import Device, Lab, process_job
from tests.mosquitto import Certificates, Mosquitto
from tests.mqttlab import spec_of
from tests.mqttlistener import Listener

USERS: Final = {"agent": "g", "porch": "p", "dashboard": "d", "watcher": "w", "homeassistant": "h"}
# The page has the shoal's name, `home`, in it, and says what jobs and answers need beside that.
PAGE: Final = block("provisioning.md", "acl") + block("provisioning.md", "acl", "home-assistant")
ACL: Final = PAGE.replace("shoal/home/", "shoal/lab/")
MORE: Final = """
user agent
topic write replies/#
user watcher
topic readwrite #
"""
VERSIONS: Final = ("5", "3.1.1")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def mosquitto(certificates: Certificates) -> Iterator[Mosquitto]:
    with Mosquitto(users=USERS, acl=ACL + MORE, tls=certificates) as broker:
        yield broker


@pytest.fixture(scope="module")
def lab(mosquitto: Mosquitto, certificates: Certificates) -> Iterator[Lab]:
    lab = Lab(2)
    for device, version in zip(lab.devices, VERSIONS, strict=True):
        password = device.data_dir / "broker-password"
        password.write_text("agent\ng\n")
        password.chmod(0o600)
        (device.data_dir / "config.toml").write_text(
            f'[mqtt]\nallow = ["template/{device.name}-*"]\n'
            f'[mqtt.brokers.home]\nurl = "mqtts://127.0.0.1:{mosquitto.port}"\n'
            f'ca_file = "{certificates.ca}"\npassword_file = "{password}"\n'
            f'version = "{version}"\nhome_assistant = true\n'
        )
    with lab:
        for device in lab.devices:
            lab.until(lambda device=device: broker_check(device)["ok"], "it is let in")
        yield lab


@pytest.fixture
def dashboard(mosquitto: Mosquitto, certificates: Certificates) -> Iterator[Listener]:
    login, ca = ("dashboard", "d"), certificates.ca
    with Listener(mosquitto.port, "shoal/lab/#", "dashboard", login, ca) as listener:
        yield listener


@pytest.fixture
def watcher(mosquitto: Mosquitto, certificates: Certificates) -> Iterator[Listener]:
    with Listener(mosquitto.port, "#", "watcher", ("watcher", "w"), certificates.ca) as listener:
        yield listener


def send(
    mosquitto: Mosquitto, ca: Path, topic: str, payload: str, user: str = "porch", reply: str = ""
) -> None:
    """As a sensor does, at QoS 1."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if reply:
        properties.ResponseTopic = reply
    with Listener(mosquitto.port, "none", f"{user}-sends", (user, USERS[user]), ca) as sender:
        sent = sender.client.publish(topic, payload, 1, False, properties)
        sent.wait_for_publish(30)
        assert sent.is_published()


def broker_check(device: Device) -> dict[str, Any]:
    with device.client() as client:
        return next(each for each in client.doctor() if each["check"] == "broker home")


def kept(lab: Lab, device: Device, name: str, topic: str, script: str, **task: Any) -> None:
    """A template that this device alone hears, and runs."""
    spec = spec_of(name, topic, script)
    spec["Tasks"][0] |= task
    spec["Constraints"] = [{"Key": "shoal/peer", "Operator": "=", "Values": [device.peer]}]
    with device.client() as client:
        client.submit(spec)
    lab.until(lambda: topic in broker_check(device)["text"], f"{topic} is heard")


def publishing(device: Device, name: str, script: str, **params: Any) -> dict[str, Any]:
    publisher = {"Type": "mqtt", "Params": {"Broker": "home", **params}}
    only = [{"Key": "shoal/peer", "Operator": "=", "Values": [device.peer]}]
    job = process_job("sh", "-c", script, name=name, Task={"Publisher": publisher})
    return {**job, "Constraints": only}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sensors_message_runs_a_template_whose_result_and_lines_a_dashboard_hears(
    lab: Lab, mosquitto: Mosquitto, certificates: Certificates, dashboard: Listener, version: str
) -> None:
    device = lab[VERSIONS.index(version)]
    publisher = {"Publisher": {"Type": "mqtt", "Params": {"Broker": "home"}}}
    kept(lab, device, f"{device.name}-look", "sensors/porch/motion", "cat", **publisher)
    send(mosquitto, certificates.ca, "sensors/porch/motion", f"seen {version}")

    def results() -> list[Any]:
        found = [e.json() for e in dashboard.heard if "/result/" in e.topic and e.payload]
        return [body for body in found if body["peer"] == device.peer]

    (body,) = dashboard.until(results, "the result")
    assert (body["stdout"], body["outcome"]) == (f"seen {version}", "success")
    assert body["peer"] == device.peer
    with device.client() as client:
        job = client.submit(publishing(device, "count", "echo 1; echo 2", Lines=True))["job"]
    topic = f"shoal/lab/job/{job}/log/{device.peer}"
    dashboard.until(lambda: [e.payload for e in dashboard.on(topic)] == [b"1", b"2"], "its lines")
    status = dashboard.on(f"peer/{device.peer}/status")
    assert status[-1].payload == b"online"


def test_home_assistant_is_shown_the_devices_and_presses_what_is_listed(
    lab: Lab, mosquitto: Mosquitto, certificates: Certificates
) -> None:
    spec = spec_of("d00-tidy", "unused", "echo pressed")
    del spec["Trigger"]
    with lab[0].client() as client:
        client.submit(spec)
    configs = {f"homeassistant/device/shoal_{peer}/config" for peer in (lab[0].peer, lab[1].peer)}
    login, ca = ("homeassistant", "h"), certificates.ca
    with Listener(mosquitto.port, "homeassistant/#", "ha", login, ca) as listener:
        listener.until(lambda: configs <= {e.topic for e in listener.heard}, "both devices")
        listener.until(lambda: any(b"d00-tidy" in e.payload for e in listener.heard), "a button")
        lab.until(lambda: all(broker_check(each)["ok"] for each in lab.devices), "all may be told")
        listener.client.publish("shoal/lab/trigger/d00-tidy", "PRESS", 1).wait_for_publish(30)

    def pressed() -> bool:
        with lab[0].client() as client:
            return any(v["name"] == "d00-tidy" and v.get("source") for v in client.jobs()["jobs"])

    lab.until(pressed, "the press runs it")


def test_who_asks_over_tls_is_answered(
    lab: Lab, mosquitto: Mosquitto, certificates: Certificates, watcher: Listener
) -> None:
    kept(lab, lab[0], "d00-ask", "sensors/porch/ask", 'echo "it is $(cat)"')
    send(mosquitto, certificates.ca, "sensors/porch/ask", "warm", reply="replies/porch")
    (answer,) = watcher.until(lambda: watcher.on("replies/porch"), "the answer")
    assert (answer.json()["state"], answer.json()["stdout"]) == ("completed", "it is warm\n")


def test_questions_whose_answers_the_list_denies_cost_others_nothing(
    lab: Lab,
    mosquitto: Mosquitto,
    certificates: Certificates,
    dashboard: Listener,
    watcher: Listener,
) -> None:
    """A sensor may name another response topic each time. Debian's Mosquitto ends the connection
    that an answer comes by, so none but answers do."""
    device = lab[0]
    kept(lab, device, "d00-curious", "sensors/porch/curious", "cat")
    status = f"peer/{device.peer}/status"
    dashboard.until(lambda: dashboard.on(status), "what is retained")
    denied = mosquitto.log().count("Denied PUBLISH")
    for number in range(4):
        reply = f"elsewhere/{number}"
        send(mosquitto, certificates.ca, "sensors/porch/curious", str(number), reply=reply)
        lab.until(
            lambda count=denied + number + 1: mosquitto.log().count("Denied PUBLISH") >= count,
            "it is denied",
        )
        assert broker_check(device)["ok"], "that is no trouble of the device's"
    send(mosquitto, certificates.ca, "sensors/porch/curious", "last", reply="replies/curious")
    (answer,) = watcher.until(lambda: watcher.on("replies/curious"), "the answer")
    assert (answer.json()["state"], answer.json()["stdout"]) == ("completed", "last")
    assert not watcher.on("elsewhere/0")
    assert [heard.payload for heard in dashboard.on(status)] == [b"online"]


def test_what_the_list_denies_is_kept_and_delivered_once_it_is_mended(
    lab: Lab, mosquitto: Mosquitto, watcher: Listener
) -> None:
    """It is tried again ever more seldom; a restart tries at once, and the kill loses nothing."""
    device = lab[0]
    with device.client() as client:
        job = client.submit(publishing(device, "denied", "echo kept", Topic="alarms/{name}"))["job"]
        lab.until(lambda: client.job(job)["state"] == "completed", "it has run")
    entry = lab.until(lambda: _denying(device, "alarms/denied"), "it is told of")
    assert "results that wait for it: 1" in entry["text"] and "access list" in entry["fix"]
    assert not watcher.on("alarms/denied")
    mosquitto.allow(ACL + MORE + "user agent\ntopic write alarms/#\n")
    lab.kill(device)
    lab.start(device)
    (result,) = watcher.until(lambda: watcher.on("alarms/denied"), "what was denied")
    assert (result.json()["job"], result.json()["stdout"]) == (job, "kept\n")
    lab.until(lambda: broker_check(device)["ok"], "nothing waits any more")


def _denying(device: Device, topic: str) -> dict[str, Any] | None:
    """What doctor says once it is connected again: this Mosquitto ends the connection over it."""
    entry = broker_check(device)
    return entry if f"{topic}: not authorized" in entry["text"] else None


def test_what_may_be_subscribed_to_and_not_read_is_shown_to_have_brought_nothing(
    lab: Lab, mosquitto: Mosquitto, certificates: Certificates, watcher: Listener
) -> None:
    """Debian's Mosquitto grants a filter whose messages its list denies: no agent can tell."""
    device = lab[0]
    kept(lab, device, "d00-private", "private/door", "cat")
    send(mosquitto, certificates.ca, "private/door", "shut", user="watcher")
    watcher.until(lambda: watcher.on("private/door"), "others hear it")
    assert broker_check(device)["ok"], "the broker has granted it"
    assert "nothing came yet of private/door" in broker_check(device)["text"]
    shown = lab.shoal(device, "template", "show", "d00-private").out
    assert "d00: nothing came since its agent started" in shown and "access list" in shown
    mosquitto.allow(ACL + MORE + "user agent\ntopic write alarms/#\ntopic read private/#\n")
    send(mosquitto, certificates.ca, "private/door", "open", user="watcher")
    lab.until(lambda: "private" not in _silent(device), "it comes")
    shown = lab.shoal(device, "template", "show", "d00-private").out
    assert "nothing came" not in shown
    with device.client() as client:
        runs = [view for view in client.jobs()["jobs"] if view["name"] == "d00-private"]
    assert len([view for view in runs if view.get("source")]) == 1, "the first one never came"


def _silent(device: Device) -> str:
    return str(broker_check(device)["text"]).partition("nothing came yet of")[2]
