"""Commands on whole nodes: whoever hears them, one thing comes of it, by who may do it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.commands import EARLY_MAX, KEPT, NOT_LISTED, Commands
from protocol.config import NodeConfig, OutboxConfig, TriggersConfig
from protocol.derived import source_of
from protocol.events import BrokerChanged, Commanded, CommandHeard, TaskEnded
from protocol.ids import JobId, PeerId, rendezvous
from protocol.job import JobSpec
from protocol.moment import format_moment
from protocol.records import Desired, Role
from protocol.standingjob import StandingJob
from protocol.tree import Plain
from tests.protocol.daemonnet import DaemonNet
from tests.protocol.nodenet import WALL, batch
from tests.protocol.standingbook import StandingBook, daemon
from tests.protocol.test_trigger import mqtt, triggered

ROOT = "shoal/lab"
SUBMITS = (Role.COMPUTE, Role.SUBMIT)
OPERATES = (Role.COMPUTE, Role.SUBMIT, Role.OPERATE)


def listing(*allow: str) -> NodeConfig:
    return NodeConfig(triggers=TriggersConfig(allow=allow), outbox=OutboxConfig(root=ROOT))


class CommandNet(DaemonNet):
    """All have the broker `home`; those in `roles` may operate, and all list everything."""

    def __init__(
        self,
        *names: str,
        roles: dict[str, tuple[Role, ...]] | None = None,
        configs: dict[str, NodeConfig] | None = None,
        grace_s: float = 5.0,
    ) -> None:
        known = dict.fromkeys(names, listing("daemon/*", "template/*")) | (configs or {})
        may = dict.fromkeys(names, OPERATES) | (roles or {})
        super().__init__(*names, configs=known, roles=may, settle_s=grace_s)

    def boot(self, name: str, **options: object) -> None:
        box = self.boxes[name]
        labels = {**box.described.labels, "broker.home": "true"}
        box.described = replace(box.described, labels=labels)
        super().boot(name, **options)  # type: ignore[arg-type]

    def hear(self, payload: bytes, *names: str, word: str = "collect", **more: bool) -> None:
        """A message to the daemon comes to these."""
        for name in names:
            self.handle(name, CommandHeard("home", Commanded.DAEMON, word, payload, **more))

    def press(
        self, *names: str, payload: bytes = b"PRESS", word: str = "tidy", **more: bool
    ) -> None:
        for name in names:
            self.handle(name, CommandHeard("home", Commanded.TEMPLATE, word, payload, **more))

    def commands(self, name: str) -> Commands:
        return self[name].steward.commands

    def record(self, name: str) -> StandingJob:
        return self.record_of(name, self.id)

    def record_of(self, name: str, job: JobId) -> StandingJob:
        return self[name].steward.standing.jobs[job]

    def ranks(self, job: JobId) -> list[str]:
        return [str(peer) for peer in rendezvous(job, [PeerId(name) for name in self.boxes])]

    def refused(self, name: str) -> list[str]:
        return [tell.text for tell in self.told(name, "command.refused")]

    def runs(self, template: JobId) -> list[JobId]:
        nodes = [box.node for box in self.boxes.values() if box.node is not None]
        held = {job: held for node in nodes for job, held in node.jobs.items()}
        return [job for job, each in held.items() if source_of(each.spec) == template]


def running(*names: str, **more: object) -> CommandNet:
    net = CommandNet(*names, **more)  # type: ignore[arg-type]
    net.ran(names[0])
    net.until(lambda: net.on() == list(names))
    return net


CALM = running("a")  # nothing of it may end or change


# ---- daemons ------------------------------------------------------------------------------------


def test_off_stops_it_everywhere_and_on_goes_on_with_the_same_generation() -> None:
    net = running("a", "b", "c")
    net.hear(b"OFF", "a", "b", "c")
    net.until(lambda: not net.on())
    net.run(60.0)
    assert {net.record(name).number for name in "abc"} == {1}, "one record, whoever heard it"
    net.hear(b"ON", "a", "b", "c")
    net.until(lambda: net.on() == ["a", "b", "c"])
    net.run(60.0)
    records = [net.record(name) for name in "abc"]
    assert {(each.number, each.generation, each.desired) for each in records} == {
        (2, 1, Desired.RUNNING)
    }
    assert sum(len(net.told(name, "daemon.switched")) for name in "abc") == 2


def test_what_is_so_already_changes_nothing() -> None:
    net = running("a", "b")
    net.hear(b"ON", "a", "b")
    net.hear(b"OFF", "a", "b")
    net.hear(b"OFF", "a", "b")
    net.run(60.0)
    assert net.record("a").number == 1 and not net.on()


def test_a_later_rank_acts_where_those_before_it_did_not_hear() -> None:
    net = running("a", "b", "c")
    first, _, third = net.ranks(net.id)
    net.hear(b"OFF", third)
    net.run(7.0)
    assert len(net.on()) == 3, "the two before it might still act"
    net.until(lambda: not net.on())
    assert net.record(first).control_author == third


def test_who_waits_for_its_turn_undoes_nothing_that_was_done_meanwhile() -> None:
    net = running("a", "b")
    first, second = net.ranks(net.id)
    net.hear(b"OFF", second)
    net.controlled(first)  # a person stops it
    net.ran(first)  # and starts it again
    net.until(lambda: net.on() == ["a", "b"])
    net.run(60.0)
    assert net.on() == ["a", "b"]


def test_the_last_message_counts() -> None:
    net = running("a", "b")
    first, second = net.ranks(net.id)
    net.hear(b"OFF", second)
    net.hear(b"ON", second)
    net.run(60.0)
    assert net.on() == ["a", "b"] and net.record(first).number == 0
    for payload in (b"OFF", b"ON", b"OFF"):
        net.hear(payload, "a", "b")
    net.run(60.0)
    assert not net.on()


def test_two_islands_that_hear_it_agree_afterwards() -> None:
    net = running("a", "b")
    net.part("a", "b")
    net.run(10.0)
    net.hear(b"OFF", "a", "b")
    net.run(10.0)
    assert not net.on()
    net.heal()
    net.run(60.0)
    assert not net.on() and net.record("a").version == net.record("b").version


def test_without_the_role_it_is_refused_and_the_record_stays() -> None:
    submits = (Role.COMPUTE, Role.SUBMIT)
    net = running("a", "b", roles={"b": submits}, configs={"a": listing()})
    assert net.commands("b").actors(net.record("b"), "home") == []
    net.hear(b"OFF", "b")
    net.run(60.0)
    assert len(net.on()) == 2 and net.record("b").number == 0
    (text,) = net.refused("b")
    assert "only a, who runs collect, or a peer with role operate may switch it" in text


def test_who_runs_it_may_switch_it_without_the_role() -> None:
    net = running("a", roles={"a": (Role.COMPUTE, Role.SUBMIT)})
    net.hear(b"OFF", "a")
    net.until(lambda: not net.on())


@pytest.mark.parametrize(
    ("payload", "word", "retained", "why"),
    [
        (b"OFF", "collect", True, KEPT),
        (b"off", "collect", False, "neither ON nor OFF"),
        (b"", "collect", False, "neither ON nor OFF"),
        (b"\xff" * 1000, "collect", False, "neither ON nor OFF"),
        (b"OFF", "nothing", False, "no daemon of that name"),
        (b"OFF", "other/collect", False, "no daemon of that name"),
        (b"OFF", "x" * 10_000, False, "no daemon of that name"),
        (b"OFF", "\ud800/", False, "no daemon of that name"),
    ],
)
def test_what_is_no_command_is_refused(payload: bytes, word: str, retained: bool, why: str) -> None:
    net = running("a")
    net.hear(payload, "a", word=word, retained=retained)
    net.run(30.0)
    assert net.on() == ["a"] and net.record("a").number == 0
    (text,) = net.refused("a")
    assert why in text and len(text) < 300


def test_names_that_there_are_not_fill_nothing() -> None:
    net = CommandNet("a")
    for number in range(1_000):
        net.hear(b"ON", "a", word=f"x{number}")
    net.run(61.0)
    told = net.refused("a")
    assert len(told) == 2 and "daemon x1 and others: 999 messages" in told[1]


def test_what_no_owner_lists_is_refused_by_who_hears_it() -> None:
    net = running("a", configs={"a": listing("daemon/other")})
    net.hear(b"OFF", "a")
    assert NOT_LISTED in net.refused("a")[0] and net.on() == ["a"]


def test_who_does_not_list_it_leaves_it_to_who_does() -> None:
    net = running("a", "b", configs={"a": listing("daemon/other")})
    net.hear(b"OFF", "a", "b")
    net.until(lambda: not net.on())
    assert net.refused("a") == [] and net.record("a").control_author == "b"


def test_a_service_and_what_was_deleted_are_not_switched() -> None:
    net = CommandNet("a")
    service = daemon("web").to_plain()
    net.submit("a", JobSpec.from_plain({**service, "Type": "service", "Count": 1}))
    net.ran("a")
    net.run(1.0)
    net.controlled("a", Desired.DELETED)
    net.hear(b"OFF", "a", word="web")
    net.hear(b"ON", "a")
    net.run(10.0)
    assert "only daemons are switched" in net.refused("a")[0]
    assert any("no daemon of that name" in text for text in net.refused("a"))
    assert net.record("a").desired is Desired.DELETED


def test_what_has_expired_is_not_switched_on() -> None:
    net = CommandNet("a")
    end_s = int(WALL + net.now) + 10
    net.ran("a", daemon(NotAfter=format_moment(end_s)))
    net.until(lambda: net.on() == ["a"])
    net.until(lambda: not net.on())
    net.hear(b"ON", "a")
    assert "its NotAfter is over" in net.refused("a")[0]
    net.hear(b"OFF", "a")
    net.run(1.0)
    assert net.record("a").desired is Desired.STOPPED


@given(
    word=st.text(max_size=40).filter(lambda word: word != "collect"),
    payload=st.binary(max_size=8),
    kind=st.sampled_from(Commanded),
)
def test_whatever_is_heard_harms_nothing(word: str, payload: bytes, kind: Commanded) -> None:
    net = CALM
    net.handle("a", CommandHeard("home", kind, word, payload))
    net.run(0.5)
    assert net.on() == ["a"] and len(net.commands("a").turns) == 0


def test_what_is_no_command_ends_no_wait_for_ones_turn() -> None:
    net = running("a", "b")
    second = net.ranks(net.id)[1]
    net.hear(b"OFF", second)
    net.hear(b"whatever", second)
    net.until(lambda: not net.on())


def test_who_may_not_switch_leaves_it_to_who_may_without_a_word() -> None:
    net = running("a", "b", "c", roles={"b": SUBMITS, "c": SUBMITS})
    net.hear(b"OFF", "a", "b", "c")
    net.until(lambda: not net.on())
    assert [net.refused(name) for name in "abc"] == [[], [], []]
    net.kill("a")
    net.run(20.0)
    net.hear(b"ON", "b")
    assert "role operate" in net.refused("b")[0]


def test_of_a_switch_that_goes_to_and_fro_each_second_the_last_counts() -> None:
    net = running("a", "b")
    for number in range(200):
        net.hear(b"ON" if number % 2 else b"OFF", "a", "b")
        net.run(0.02)
    assert net.record("a").number <= 6, "a record and a save each"
    net.hear(b"OFF", "a", "b")
    net.until(lambda: not net.on())
    net.run(30.0)
    assert not net.on() and net.record("b").desired is Desired.STOPPED


def test_what_comes_before_it_knows_the_others_waits_and_is_bounded() -> None:
    net = running("a")
    net.kill("a")
    net.boot("a")
    for _ in range(EARLY_MAX):
        net.hear(b"ON", "a", word="nothing")
    net.hear(b"OFF", "a")
    assert net.on() == ["a"] and len(net.commands("a")._early) == EARLY_MAX
    net.until(lambda: not net.on())


# ---- templates ----------------------------------------------------------------------------------


def template(name: str = "tidy", *parameters: dict[str, Plain], **more: Plain) -> JobSpec:
    return JobSpec.from_plain({**batch(name).to_plain(), "Parameters": [*parameters], **more})


def template_id(net: CommandNet, name: str = "tidy") -> JobId:
    return StandingBook(f"template/{name}", shoal=net.shoal).id


def put(net: CommandNet, spec: JobSpec) -> JobId:
    net.submit("a", spec)
    net.run(1.0)
    return template_id(net, spec.name)


def test_a_press_that_all_hear_is_one_run_and_two_presses_are_two() -> None:
    net = CommandNet("a", "b", "c")
    job = put(net, template("tidy", {"Name": "width", "Default": "3"}))
    net.press("a", "b", "c")
    net.run(5.0)
    (run,) = net.runs(job)
    assert net.boxes[net.ranks(job)[0]].tells[-1].kind != "command.refused"
    assert run in net[net.ranks(job)[0]].jobs
    net.press("a", "b", "c")
    net.run(5.0)
    assert len(net.runs(job)) == 2


def test_who_does_not_reach_the_broker_is_not_waited_for() -> None:
    """Its password is wrong, say: no press comes to it, ever."""
    net = CommandNet("a", "b")
    job = put(net, template())
    first, second = net.ranks(job)
    net.handle(first, BrokerChanged("home", False))
    net.handle(second, BrokerChanged("home", True))
    net.run(60.0)
    net.press(second)
    net.run(5.0)
    assert len(net.runs(job)) == 1
    net.handle(second, BrokerChanged("home", False))
    net.run(60.0)
    assert net[second].steward.commands.actors(net.record_of(second, job), "home") == [
        PeerId(each) for each in net.ranks(job)
    ], "none reaches it: when the broker is back it is the same ones'"


def test_of_a_button_that_is_stuck_so_many_runs_are_under_way_at_once() -> None:
    config = listing("template/*")
    config = replace(config, triggers=replace(config.triggers, running_max=3))
    net = CommandNet("a", configs={"a": config})
    job = put(net, template())
    for _ in range(10):
        net.press("a")
    net.run(1.0)
    assert len(net.runs(job)) == 3
    assert "3 of its runs are under way" in net.refused("a")[0]
    for execution in list(net.boxes["a"].running):
        net._finish("a", TaskEnded(execution, 0, "", 5))
    net.run(1.0)
    net.press("a")
    net.run(1.0)
    assert len(net.runs(job)) == 4


def test_ended_presses_make_room_in_a_full_catalogue() -> None:
    config = listing("template/*")
    config = replace(
        config,
        triggers=replace(config.triggers, runs_kept=2),
        coordination=replace(config.coordination, jobs_max=5),
    )
    net = CommandNet("a", configs={"a": config})
    put(net, template())
    for _ in range(12):
        net.press("a")
        net.run(1.0)
        for execution in list(net.boxes["a"].running):
            net._finish("a", TaskEnded(execution, 0, "", 5))
        net.run(0.5)
    assert len(net.boxes["a"].started) == 12 and len(net["a"].jobs) <= 5


def test_on_a_full_disk_a_press_is_refused_and_a_daemon_still_stops() -> None:
    net = running("a")
    job = put(net, template())
    net.fill("a")
    net.press("a")
    net.run(5.0)
    assert net.runs(job) == [] and "its disk is full" in net.refused("a")[0]
    net.hear(b"OFF", "a")
    net.until(lambda: not net.on())


@pytest.mark.parametrize(
    ("payload", "retained", "why"),
    [(b"PRESS", True, KEPT), (b"press", False, "not PRESS"), (b"", False, "not PRESS")],
)
def test_what_is_no_press_runs_nothing(payload: bytes, retained: bool, why: str) -> None:
    net = CommandNet("a")
    job = put(net, template())
    net.press("a", payload=payload, retained=retained)
    net.run(5.0)
    assert net.runs(job) == [] and why in net.refused("a")[0]


def test_a_blank_without_a_default_and_a_missing_role_are_refused() -> None:
    net = CommandNet("a", "b", roles={"b": (Role.COMPUTE,)}, configs={"a": listing()})
    job = put(net, template("tidy"))
    net.press("b")
    net.run(5.0)
    assert "lacks the role" in net.refused("b")[0] and net.runs(job) == []
    net = CommandNet("a")
    job = put(net, template("tidy", {"Name": "width"}))
    net.press("a")
    net.run(5.0)
    assert "missing parameter width" in net.refused("a")[0] and net.runs(job) == []


def test_a_template_with_a_trigger_is_run_by_its_own_topic_alone() -> None:
    net = CommandNet("a")
    job = put(net, triggered({"Mqtt": mqtt(Topic=f"{ROOT}/trigger/look")}))
    net.press("a", word="look")
    net.run(5.0)
    assert net.runs(job) == [] and net.refused("a") == [], "its trigger hears the same message"
    job = put(net, triggered({"Mqtt": mqtt(Topic="a/b")}))
    net.press("a", word="look")
    net.run(5.0)
    assert net.runs(job) == [] and "messages of a/b" in net.refused("a")[0]


@pytest.mark.parametrize(
    ("spec", "topic"),
    [
        (template("look"), f"{ROOT}/trigger/look"),
        (template("look", {"Name": "x", "Default": ""}), f"{ROOT}/trigger/look"),
        (template("look", {"Name": "x"}), ""),
        (triggered({"Mqtt": mqtt(Topic="a/b")}), "a/b"),
        (triggered({"Mqtt": mqtt(Topic="a/+")}), ""),
        (triggered({"Mqtt": mqtt(Topic="a/#")}), ""),
        (triggered({"Mqtt": mqtt(Topic="shoal/+/trigger/#")}), f"{ROOT}/trigger/look"),
        (triggered({"Mqtt": mqtt(Topic="a/b", Broker="hall")}), ""),
        (triggered({"Mqtt": mqtt(Topic="a/b", When="x")}), ""),
        (triggered({"Mqtt": mqtt(Topic="a/b", Dedup={})}), ""),
        (daemon("look"), ""),
    ],
)
def test_a_button_is_where_a_press_runs_something(spec: JobSpec, topic: str) -> None:
    net = CommandNet("a", grace_s=5.0)
    net.submit("a", spec)
    net.run(1.0)
    (held,) = net["a"].steward.standing.jobs.values()
    commands = net.commands("a")
    assert commands.button(held, "home", net.clock("a")) == topic
    assert commands.button(held, "elsewhere", net.clock("a")) == ""


def test_there_is_no_button_where_nobody_lists_it() -> None:
    net = CommandNet("a", configs={"a": listing("template/other")})
    put(net, template())
    (held,) = net["a"].steward.standing.jobs.values()
    assert net.commands("a").button(held, "home", net.clock("a")) == ""
