"""propagation: what is learnt of peers is acted upon where it matters."""

from __future__ import annotations

import dataclasses

from protocol.events import ShutdownRequested
from tests.protocol.nodenet import NodeNet, batch, queue


def test_a_change_of_labels_is_acted_on_within_seconds() -> None:
    """A job that nobody fits waits longer and longer, but not when somebody changes."""
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["kitchen"], task=queue(3600)))
    net.run(120.0)
    assert net.executors() == []
    described = net.boxes["b"].described
    net.handle("b", dataclasses.replace(described, labels={"name": "kitchen"}))
    assert net.until(lambda: net.executors() == ["b"]) < 2.0
    net.submit("a", batch(on=["attic"], task=queue(3600)), "other")
    net.run(120.0)
    own = dataclasses.replace(net.boxes["a"].described, labels={"name": "attic"})
    net.handle("a", own)
    assert net.until(lambda: net.executors(job=net.job("other")) == ["a"]) < 2.0


def test_who_leaves_is_replaced_and_who_restarts_is_waited_for() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"]))
    net.run(0.5)
    first = net.executor()
    net.handle(first, ShutdownRequested(30.0))
    net.kill(first)
    net.run(2.0)
    assert net.led("a").plans[0].failures == 0
    net.boot(first)
    net.run(1.0)
    net.handle(first, ShutdownRequested())
    net.kill(first)
    net.boxes[first].running.clear()
    net.run(2.0)
    assert net.executor() != first
