"""Bursts of messages on real agents: each is one job where the broker keeps it, and what a broker
as it comes drops is told of."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from typing import Final, NamedTuple

import pytest

from agent.client import AgentError
from agent.mqtt.holding import HELD_MAX
from agent.mqtt.listening import session_of
from protocol.ids import JobId
from tests.firmware.pages import block
from tests.lab import Device, Lab
from tests.mosquitto import Mosquitto
from tests.mqttlab import burst, hearing, part_at, spec_of, template, with_broker

# More than the agents' disks and a broker as it comes have room for; 10,000 by scripts/test-kills.
BURST: Final = int(os.environ.get("SHOAL_TEST_BURST", "2000"))
RUN_S: Final = 0.5  # of one run at most, on a machine that others use too


class Ran(NamedTuple):
    """One execution of a message's job, as its task tells."""

    payload: str
    id: str  # the message's
    job: str
    execution: str
    term: str
    attempt: str

    @property
    def first(self) -> bool:
        """What whoever fires a message begins with; what is placed again counts on from there."""
        return (self.term, self.attempt) == ("1", "1")


TELL: Final = (
    "$(cat) $SHOAL_TRIGGER_ID $SHOAL_JOB_ID $SHOAL_EXECUTION_ID $SHOAL_TERM $SHOAL_ATTEMPT"
)


@pytest.mark.timeout(max(600, RUN_S * BURST))
def test_of_a_burst_each_message_is_one_job() -> None:
    """At a broker as the page on provisioning has it; two devices hear each message.

    On a machine this busy both may fire one, each thinking that the other is gone: it is the same
    job all the same, and runs as often as their counters say, or as it was placed.
    """
    keeps = block("provisioning.md", "conf", "keeps")
    with Mosquitto(queued_max=None, more=keeps) as mosquitto, with_broker(2, mosquitto) as lab:
        told = lab.directory / "told"
        told.touch()
        told.chmod(0o666)  # for tasks of another user
        template(lab, "burst", "in/burst", f'echo "{TELL}" >> {told}', Dedup={})
        lab.until(lambda: hearing(lab, "in/burst") == 2, "both hear")
        burst(mosquitto, "in/burst", BURST)
        wanted = {(str(number), f"burst-{number}") for number in range(BURST)}

        def ran() -> list[Ran]:
            whole = told.read_text().rpartition("\n")[0]  # the last one may be being written
            return [Ran(*line.split()) for line in whole.splitlines()]

        def settled() -> bool:
            """Of nothing that anybody fired is a task still to come."""
            parts = [part_at(device, "burst") for device in lab.devices]
            return not any(part["waiting"] for part in parts) and not under_way(lab)

        lab.until(lambda: len({each.job for each in ran()}) >= BURST, "all run", RUN_S * BURST)
        lab.until(settled, "and have run")
        assert not [d.name for d in lab.devices if "rebuilding from disk" in d.log()]
        found = ran()
        jobs = {(each.payload, each.id, each.job) for each in found}
        assert {job[:2] for job in jobs} == wanted, "none is lost, and none made up"
        assert len(jobs) == len({each.job for each in found}) == BURST, "one job each"
        assert len({each.execution for each in found}) == len(found), "none of them is run twice"
        parts = [part_at(device, "burst") for device in lab.devices]
        assert not any(part["refused"] for part in parts), parts
        fired = sum(int(part["fired"]) for part in parts)
        firsts = Counter(each.job for each in found if each.first)
        again = len(found) - firsts.total()
        twice = firsts.total() - len(firsts)
        print(f"a burst of {BURST}: each is one job; {fired - BURST} were fired by both, of which")
        print(f"{twice} ran twice for it; {again} were placed again")
        assert BURST <= fired <= 2 * BURST and max(firsts.values()) <= 2
        assert twice <= fired - BURST, "none runs twice that was fired once"
        assert not unlisted(lab, found), "nor without an award that is known"


def under_way(lab: Lab) -> list[str]:
    """Jobs that have not ended, as either device knows them."""
    views = []
    for device in lab.devices:
        with device.client() as client:
            views += client.jobs(limit=100, type="batch", state="pending,running")["jobs"]
    return [view["id"] for view in views if view.get("source")]


def unlisted(lab: Lab, found: list[Ran]) -> list[Ran]:
    """What ran of jobs that ran more than once, and is no execution of theirs as far as either
    device remembers the job: of 10,000 that have ended half are forgotten."""
    often = [job for job, count in Counter(each.job for each in found).items() if count > 1]
    listed: dict[str, set[str]] = {}
    for job in often:
        for device in lab.devices:
            with device.client() as client, suppress(AgentError):
                executions = client.job(job)["executions"]
                listed.setdefault(job, set()).update(each["id"] for each in executions)
    return [e for e in found if e.job in listed and e.execution not in listed[e.job]]


def test_a_burst_for_one_that_is_slow_holds_up_no_messages_of_another() -> None:
    """Of the one more come than the disk has room for; of the other more than is sure to have some.
    How many the broker sends of what waits is its own affair."""
    keeps = block("provisioning.md", "conf", "keeps")
    with Mosquitto(queued_max=None, more=keeps) as mosquitto:
        lab = with_broker(1, mosquitto)
        lab[0].environment["SHOAL_OFFER_CPU"] = "2000m"
        with lab:
            told = lab.directory / "told"
            told.touch()
            told.chmod(0o666)  # for tasks of another user
            slow = spec_of("slow", "in/slow", "sleep 3600")
            slow["Tasks"][0]["Resources"] = {"CPU": "10m", "Memory": "16MB"}
            with lab[0].client() as client:
                client.submit(slow)
            template(lab, "quick", "in/quick", f"cat >> {told}")
            if session_of(id_of(lab, "quick")) == session_of(id_of(lab, "slow")):
                with lab[0].client() as client:  # of 32 pairs one shares a session
                    client.delete(id_of(lab, "quick"))
                template(lab, "quicker", "in/quick", f"cat >> {told}")
            lab.until(lambda: hearing(lab, "in/slow") == 1, "both are heard")
            burst(mosquitto, "in/slow", 4 * HELD_MAX, ids=False)
            lab.until(lambda: part_at(lab[0], "slow")["waiting"] >= 240, "there is no more room")
            burst(mosquitto, "in/quick", 100, ids=False)
            wanted = Counter(f"{number}" for number in range(100))
            lab.until(lambda: Counter(told.read_text().split()) == wanted, "each is run once", 120)
            part = part_at(lab[0], "slow")
            assert part["fired"] == 32 and part["waiting"] >= 240 and not part["refused"], part


def id_of(lab: Lab, name: str) -> JobId:
    with lab[0].client() as client:
        return JobId(client.templates(name)[0]["id"])


def test_what_a_broker_as_it_comes_drops_is_told_of_and_all_else_is_heard() -> None:
    """It acknowledges 1,500 for a device that is away, and keeps 1,000 of them."""
    sent = 1500
    broker = Mosquitto(queued_max=None, more="sys_interval 1")
    with broker as mosquitto, with_broker(1, mosquitto) as lab:
        template(lab, "away", "in/away", Dedup={}, MaxPerMinute=1)
        lab.kill(lab[0])
        burst(mosquitto, "in/away", sent)
        lab.start(lab[0])
        lab.until(lambda: dropped(lab[0]), "that it dropped some is told of")

        def settled() -> bool:
            """All that it has kept was heard, and has an end: one fires, the rest is over."""
            part = part_at(lab[0], "away")
            ended = part["fired"] + sum(part["refused"].values())
            return bool(part["heard"] == ended == sent - dropped(lab[0]))

        lab.until(settled, "the rest is heard")
        assert 400 < dropped(lab[0]) < 600


def dropped(device: Device) -> int:
    """As the doctor has it, who is silent where there are none."""
    with device.client() as client:
        entry = {each["check"]: each for each in client.doctor()}.get("queue home")
    if entry is None:
        return 0
    said = re.match(r"it has dropped (\d+) messages", entry["text"])
    assert said is not None and "max_queued_messages" in entry["fix"]
    return int(said[1])
