"""scripts/bench mqtt: what it measures with hears what it asks, and the rival does its part."""

from __future__ import annotations

from types import TracebackType

import pytest

from scripts import bench_mqtt
from scripts.bench_mqtt import OUT, Ear, _answering, _memory, _published
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


def test_both_with_a_broker_hear_a_trigger_before_their_memory_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs: list[str] = []

    class Read(Mosquitto):
        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            logs.append(self.log())
            super().__exit__(kind, error, trace)

    monkeypatch.setattr(bench_mqtt, "Mosquitto", Read)
    monkeypatch.setattr(bench_mqtt, "SETTLE_S", 0.0)
    (figure,) = _memory()
    assert figure.against is not None
    assert figure.value > 10 and figure.against > 10, "megabytes of whole agents"
    assert logs[0].count("bench/idle (QoS 1)") >= 2
