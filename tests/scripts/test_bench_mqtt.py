"""scripts/bench mqtt: what it measures with hears what it asks, and the rival does its part."""

from __future__ import annotations

from scripts.bench_mqtt import OUT, Ear, _answering, _published
from tests.mosquitto import Mosquitto


def test_the_rival_answers_each_message_with_what_its_program_says() -> None:
    with Mosquitto() as broker, Ear(broker) as ear, _answering(broker, "bench/in"):
        for number in range(3):
            assert 0 < ear.asked("bench/in", f"{number}".encode()) < 30
        assert ear.heard == []


def test_the_rival_publishes_as_many_as_it_is_told_of_that_size() -> None:
    with Mosquitto() as broker, Ear(broker) as ear, Ear(broker, OUT, "other") as other:
        assert _published(broker, ear, 50, 100, 6) > 0
        other.until(50, "messages")
