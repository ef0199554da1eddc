"""awarding: awards as they are written, told of, sent and taken back."""

from __future__ import annotations

from protocol.effects import Send
from protocol.led import Phase
from protocol.messages import (
    Award,
    Withdraw,
)
from tests.protocol.nodenet import NodeNet, batch


def test_many_slots_for_one_peer_come_in_several_awards() -> None:
    net = NodeNet("a", "b", cpu_m={"b": 64_000})
    task: dict[str, object] = {"Resources": {"CPU": "10m", "Memory": "1Mi"}}
    net.submit("a", batch(count=40, on=["b"], task=task))
    net.run(0.3)
    assert len(net.boxes["b"].running) == 40
    sizes = [len(award.assignments) for _, award in net.sent("a", Award)]
    assert sizes == [16, 16, 8]


def test_tells_name_the_slot_where_there_are_several() -> None:
    net = NodeNet("a", "b", "c", cpu_m={"a": 0})
    net.submit("a", batch(count=2, on=["b", "c"]))
    net.run(0.3)
    texts = [tell.text for tell in net.told("a", "job.awarded")]
    assert sorted(text.split(" to ")[0] for text in texts) == ["awarded slot 0", "awarded slot 1"]
    net.kill(net.executor(0))
    net.run(1.0)
    assert net.told("a", "job.placed-again")[0].text.startswith("slot ")


def test_stopping_a_slot_names_a_fence_above_every_award() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(count=2, on=["b"]))
    led = net.led("a")
    awarding = net.coordination("a").placement.awarding
    assert awarding.stop(led, 0, "why") == []  # nobody was asked yet
    net.run(0.1)
    (send,) = awarding.stop(led, 0, "why")
    assert isinstance(send, Send) and isinstance(send.message, Withdraw)
    assignment = net.slot("a").assignment
    assert assignment is not None
    assert send.message.fence > assignment.fence
    led.plans[0].phase = Phase.DONE
    assert awarding.stop(led, 0, "why") == []
