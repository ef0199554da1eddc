"""Real agents, a real Mosquitto and a real Home Assistant: pressed and switched from there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.homeassistant.home import HomeAssistant
from tests.integration.test_mqtt_homeassistant import (
    configure,
    daemon,
    delete,
    running,
    runs,
    submit,
    template,
)
from tests.lab import Lab
from tests.mosquitto import Mosquitto


@pytest.fixture
def mosquitto() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


@pytest.fixture
def lab(mosquitto: Mosquitto) -> Iterator[Lab]:
    lab = Lab(2)
    for device in lab.devices:
        configure(device, mosquitto, True, '["daemon/*", "template/*"]')
    with lab:
        yield lab


def test_a_shoal_is_operated_from_home_assistant(lab: Lab, mosquitto: Mosquitto) -> None:
    job = submit(lab[0], daemon("pump"))
    submit(lab[0], template("tidy"))
    lab.until(lambda: len(running(lab, job)) == 2, "it runs on both")
    with HomeAssistant(mosquitto.port) as home:
        home.until(lambda: home.state("switch.shoal_lab_pump") == "on", "the switch is on")
        home.until(lambda: home.state("binary_sensor.d01_problem") == "off", "a device is well")
        home.call("switch.turn_off", "switch.shoal_lab_pump")
        lab.until(lambda: not running(lab, job), "it runs nowhere")
        home.until(lambda: home.state("switch.shoal_lab_pump") == "off", "the switch is off")
        home.call("switch.turn_on", "switch.shoal_lab_pump")
        lab.until(lambda: len(running(lab, job)) == 2, "it runs on both again")
        home.call("button.press", "button.shoal_lab_run_tidy")
        lab.until(lambda: runs(lab, "tidy") == ["completed"], "it has run once")
        event = "event.shoal_lab_job_ended"
        home.until(lambda: home.state(event) not in ("", "unknown"), "its end is an event")
        assert home.states[event][1]["event_type"] == "completed"
        delete(lab[0], job)
        home.until(lambda: not home.state("switch.shoal_lab_pump"), "no daemon, no switch")
        lab.kill(lab[1])
        home.until(lambda: home.state("sensor.d01_load") == "unavailable", "a device is gone")
        assert home.state("sensor.d00_load") not in ("", "unavailable")
        assert home.complaints == []
    lab.start(lab[1])
    with HomeAssistant(mosquitto.port) as home:  # it starts later than all else
        home.until(lambda: home.state("button.shoal_lab_run_tidy"), "the broker has kept it")
        home.until(lambda: home.state("sensor.d01_load") not in ("", "unavailable"), "it is back")
        assert not home.state("switch.shoal_lab_pump") and home.complaints == []
