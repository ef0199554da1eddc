"""scripts/demo --mqtt, as a person sees it: real agents, and a broker that is killed."""

from __future__ import annotations

from tests.scripts.demos import played


def test_the_broker_is_killed_and_every_warm_reading_has_its_alarm() -> None:
    told = played("demo_mqtt.py")
    assert "the broker is killed" in told
    assert "12 readings, 6 of them warm: 6 jobs on kitchen, attic, garage" in told
