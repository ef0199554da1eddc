"""description: what a device offers, and that others act upon it as it changes."""

from __future__ import annotations

import dataclasses

from protocol.config import NodeConfig, PolicyConfig
from protocol.events import FactsSampled, SelfDescribed
from protocol.messages import Facts
from protocol.records import Role
from protocol.resources import Resources
from tests.protocol.nodenet import NodeNet, batch, queue


def test_a_device_without_compute_offers_no_engine() -> None:
    net = NodeNet("a", "b", roles={"a": (Role.SUBMIT,)})
    advert = net["a"].advert
    assert advert is not None
    assert advert.engines == ()
    net.submit("a", batch(on=["a"], task=queue(0)))
    net.run(0.5)
    assert net.held("a").done
    assert "engine process is not here" in net.told("a", "execution.ended")[0].text


def test_what_a_device_offers_may_change() -> None:
    net = NodeNet("a")
    net.handle("a", SelfDescribed((), {"zone": "attic"}, 100, 1 << 20, 0))
    assert net["a"].executor.bidder.capacity == Resources(100, 1 << 20, 0, 0)
    assert net["a"].executor.bidder.labels == {"zone": "attic", "name": "a", "shoal/peer": "a"}


def test_a_draining_device_is_not_asked_and_what_runs_there_ends_there() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(0.5)
    drained = dataclasses.replace(net.boxes["b"].described, draining=True)
    net.handle("b", drained)
    assert [tell.text for tell in net.told("b", "self.draining")] == [
        "draining: services move away, the rest ends"
    ]
    net.run(0.5)
    net.submit("a", batch(on=["b"], task=queue(3600)), "late")
    net.run(5.0)
    assert net.executors(job=net.job("late")) == []
    (tell,) = [tell for tell in net.told("a", "job.waiting") if tell.job == net.job("late")]
    assert tell.text.startswith("waiting: b: draining: it takes no new work; a: label name")
    net.end("b")
    net.run(0.5)
    assert net.told("a", "job.completed")
    net.handle("b", dataclasses.replace(drained, draining=False))
    assert net.told("b", "self.undrained")
    assert net.until(lambda: net.executors(job=net.job("late")) == ["b"]) < 2.0


def test_a_device_that_drains_sends_its_own_jobs_elsewhere() -> None:
    net = NodeNet("a", "b")
    net.handle("a", dataclasses.replace(net.boxes["a"].described, draining=True))
    net.submit("a", batch())
    net.run(0.5)
    assert net.executor() == "b"


def test_what_waits_for_its_bucket_keeps_more_of_its_kind_away() -> None:
    net = NodeNet("a")
    hindrance = net["a"].executor.bidder.hindrance
    net.handle("a", FactsSampled(Facts(), backlog="much waits"))
    assert hindrance(("bucket minio.lan/results:rw",)) == "busy: much waits"
    net.handle("a", FactsSampled(Facts()))
    assert hindrance(("bucket minio.lan/results:rw",)) == ""


def test_the_time_of_day_is_that_of_the_device() -> None:
    hour = int(NodeNet("x").clock("x").wall) // 3600 % 24
    hours = f"{hour:02}:00-{hour:02}:59"
    config = NodeConfig(policy=PolicyConfig(hours=(hours,)))
    net = NodeNet("a", configs={"a": config})
    bidder = net["a"].executor.bidder
    assert bidder.unwell() == ""
    net.handle("a", FactsSampled(Facts(), utc_offset_s=-12 * 3600))
    assert "([accept] hours" in bidder.unwell()
    net.boxes["a"].trusted = False
    net.handle("a", FactsSampled(Facts()))
    assert "does not know the time" in bidder.unwell()
