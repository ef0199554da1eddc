"""daemons: on every matching peer, at most one, for ever, and by each peer's own decision."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from protocol.clock import NEVER
from protocol.config import CoordinationConfig, NodeConfig, PolicyConfig, StandingConfig
from protocol.daemons import CUT_OFF
from protocol.effects import RemoveTask, Save, StartTask, StopTask
from protocol.events import HealthChanged, LinesPublished, TaskProgressed, TaskStarted
from protocol.execution import State
from protocol.ids import ExecutionId, PeerId
from protocol.job import JobSpec
from protocol.messages import SyncRecords
from protocol.records import Desired, Role
from protocol.standing import DOMAIN
from protocol.tree import Plain
from protocol.wire import dumps
from tests.protocol.daemonnet import DaemonNet
from tests.protocol.nodenet import WALL, batch
from tests.protocol.standingbook import PROCESS, StandingBook, daemon

FAST: dict[str, Plain] = {"Update": {"HealthyAfter": 2}}
LABELLED: Plain = [{"Key": "zone", "Operator": "=", "Values": ["attic"]}]


# ---- where it runs


def test_it_runs_on_every_peer_and_once_on_each() -> None:
    net = DaemonNet("a", "b", "c")
    net.ran("b")
    net.run(0.5)
    assert net.on() == ["a", "b", "c"]
    assert {net.daemon(name).state for name in "abc"} == {State.RUNNING}
    for name in "abc":
        assert [tell.text for tell in net.told(name, "daemon.started")] == ["collect runs here"]


def test_whoever_joins_later_starts_it_with_the_submitter_gone() -> None:
    net = DaemonNet("a", "b", "c")
    net.kill("c")
    net.boxes["c"].disk.clear()
    net.run(1.0)
    net.ran("a")
    net.run(1.0)
    net.kill("a")
    net.run(5.0)
    net.boot("c")
    assert net.until(lambda: "c" in net.on()) < 0.5


def test_it_starts_from_disk_with_nobody_there_and_an_untrusted_clock() -> None:
    net = DaemonNet("a", "b")
    net.ran("a", daemon(NotAfter="2027-01-15T08:03:20Z"))
    net.run(1.0)
    net.kill("a", "b")
    net.boxes["b"].running.clear()
    net.run(300.0)  # by now it would have expired, if anybody could tell
    net.boxes["b"].trusted = False
    net.boot("b")
    assert net.on().count("b") == 1
    assert net.daemon("b").attempt == 2


def test_what_does_not_match_runs_nothing_and_says_why() -> None:
    net = DaemonNet("a", "b", "w", roles={"w": (Role.SUBMIT,)}, cpu_m={"b": 100})
    net.ran("a", daemon(task={"Resources": {"CPU": "1"}}))
    net.run(0.5)
    assert net.on() == ["a"]
    assert "too small: cpu" in net.daemons("b").unfit[net.id]
    assert "engine process is not here" in net.daemons("w").unfit[net.id]


def test_labels_that_change_attach_and_detach() -> None:
    net = DaemonNet("a", "b")
    net.ran("a", daemon(Constraints=LABELLED))
    net.run(0.5)
    assert net.on() == []
    net.relabel("b", zone="attic")
    assert net.on() == ["b"]
    net.relabel("b", zone="cellar")
    net.run(0.1)
    assert net.on() == []
    assert "zone" in net.daemons("b").unfit[net.id]
    net.relabel("b", zone="attic")
    assert net.on() == ["b"]
    net.run(0.5)
    assert net.daemons("b").unfit == {}


def test_the_owners_policy_keeps_it_away() -> None:
    config = NodeConfig(policy=PolicyConfig(authors=(PeerId("nobody"),)))
    roles = NodeConfig(policy=PolicyConfig(roles=("operate",)))
    net = DaemonNet("a", "b", "c", configs={"b": config, "c": roles})
    net.ran("a")
    net.run(0.5)
    assert net.on() == ["a"]
    assert "jobs of a are not taken here" in net.daemons("b").unfit[net.id]
    assert "[accept] roles" in net.daemons("c").unfit[net.id]


def test_an_author_may_be_listed_by_name_and_be_gone() -> None:
    choosy = NodeConfig(policy=PolicyConfig(authors=("a",), types=("daemon",)))
    net = DaemonNet("a", "b", configs={"b": choosy})
    net.ran("a")
    net.run(0.5)
    assert net.on() == ["a", "b"]
    net.kill("a", "b")
    net.boxes["b"].running.clear()
    net.boxes["b"].disk.pop("peer")
    net.run(1.0)
    net.boot("b")
    assert net.on().count("b") == 1, "the name came with the job"


def test_a_draining_device_keeps_its_daemons_and_starts_new_ones() -> None:
    net = DaemonNet("a", "b")
    net.handle("b", replace(net.boxes["b"].described, draining=True))
    net.ran("a")
    net.run(0.5)
    assert net.on() == ["a", "b"], "there is nowhere else for them"


def test_what_forbids_it_only_for_now_makes_it_wait() -> None:
    net = DaemonNet("a")
    net.sample("a", temperature_mc=90_000)
    net.ran("a")
    net.run(30.0)
    assert net.on() == []
    assert "[accept] temperature_max_c" in net.daemon("a").waiting
    net.sample("a", temperature_mc=50_000)
    assert net.until(lambda: net.on() == ["a"]) < 13.0
    net.sample("a", temperature_mc=90_000)
    net.run(60.0)
    assert net.on() == ["a"]  # what runs is left to run


def test_it_waits_for_room_and_takes_it() -> None:
    net = DaemonNet("a", cpu_m={"a": 1000})
    net.submit("a", batch(task={"Resources": {"CPU": "900m"}}))
    net.run(0.5)
    net.ran("a", daemon(task={"Resources": {"CPU": "500m"}}))
    net.run(20.0)
    assert (net.on(), "busy" in net.daemon("a").waiting) == ([], True)
    net.end("a")
    net.until(lambda: net.on() == ["a"], 20.0)
    assert net["a"].executor.reserved.cpu_m == 500
    net.controlled("a")
    assert net["a"].executor.reserved.cpu_m == 0


def test_the_task_knows_where_and_what_it_is_and_has_no_timeout() -> None:
    net = DaemonNet("a", "b")
    net.ran("a", daemon(task={"Timeouts": {"ExecutionTimeout": 5}}))
    net.run(0.5)
    (start,) = net.boxes["b"].started
    assert start.timeout_s is None
    assert start.environment["SHOAL_PEER_ID"] == "b"
    assert start.environment["SHOAL_ATTEMPT"] == "1"
    assert start.environment["SHOAL_EXECUTION_ID"] == start.execution
    assert start.sources == ("a",)


# ---- its life


def test_it_is_restarted_for_ever_with_pauses_that_grow_up_to_a_bound() -> None:
    net = DaemonNet("a")
    net.ran("a")
    pauses = []
    for _ in range(14):
        net.run(0.1)
        net.end("a", 1)
        pauses.append(net.until(lambda: net.on() == ["a"], 500.0))
    assert pauses[0] < 1.3
    assert pauses[3] > 5.0
    assert 200.0 < pauses[-1] < 380.0
    assert net.daemon("a").restarts == 14
    assert net.told("a", "daemon.restarted")[-1].text == "collect runs here again (14 restarts)"
    net.run(StandingConfig().settled_s + 1)
    net.end("a", 0)  # zero is no end for a daemon
    assert net.until(lambda: net.on() == ["a"], 500.0) < 3.0


def test_the_pause_begins_with_what_its_file_says() -> None:
    net = DaemonNet("a")
    net.ran("a", daemon(Retry={"Backoff": 30}))
    net.run(0.1)
    net.end("a", 1)
    assert 20.0 < net.until(lambda: net.on() == ["a"], 60.0) < 40.0


def test_an_agent_that_restarts_adopts_what_runs() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    before = net.execution("a")
    net.kill("a")
    net.boot("a")
    net.run(5.0)
    assert net.execution("a") == before
    assert [tell.text for tell in net.told("a", "daemon.adopted")] == ["collect still runs"]
    assert net["a"].executor.reserved.cpu_m == 100


def test_what_ended_while_the_agent_was_down_is_started_again() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    net.kill("a")
    net.end("a", 3)
    net.run(1.0)
    net.boot("a")
    net.until(lambda: net.on() == ["a"], 5.0)
    assert net.daemon("a").attempt == 2
    assert net.daemon("a").past[-1][1] == 3


def test_what_the_device_lost_is_started_at_once() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    lost = net.execution("a")
    net.kill("a")
    net.boot("a", lost=[lost])
    assert net.on() == ["a"]
    assert "the device lost it" in net.told("a", "daemon.ended")[0].text


def test_a_start_is_journaled_before_it_is_made() -> None:
    net = DaemonNet("a")
    net.run(0.1)
    book = StandingBook(shoal=net.shoal)
    effects = net.send("a", "a", SyncRecords(DOMAIN, (book.spec("a"),)))
    (save,) = [effect for effect in effects if isinstance(effect, Save)]
    (start,) = [effect for effect in effects if isinstance(effect, StartTask)]
    assert [row[0] for row in save.rows] == ["standing", "daemon"]
    assert effects.index(save) < effects.index(start)


def test_only_the_latest_ends_keep_their_output() -> None:
    config = NodeConfig(standing=replace(StandingConfig(), kept=2))
    net = DaemonNet("a", configs={"a": config})
    net.ran("a")
    for _ in range(4):
        net.until(lambda: net.on() == ["a"])
        net.end("a", 1)
    assert len(net.boxes["a"].ended) == 2
    assert [ended[0] for ended in net.daemon("a").past] == list(net.boxes["a"].ended)


def test_a_task_that_was_given_up_and_runs_after_all_is_stopped() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    first = net.execution("a")
    start = net.boxes["a"].running[first]
    net.kill("a")
    net.boot("a", lost=[first])
    net.run(0.1)
    net.kill("a")
    net.boxes["a"].running[first] = start
    net.boot("a")
    net.run(0.1)
    assert net.on() == ["a"]
    assert net.execution("a") != first


# ---- stopping


@pytest.mark.parametrize("desired", [Desired.STOPPED, Desired.DELETED])
def test_a_stop_is_for_all_also_for_whoever_was_away(desired: Desired) -> None:
    net = DaemonNet("a", "b", "c")
    net.ran("a")
    net.run(0.5)
    net.part("ab", "c")
    net.controlled("a", desired)
    assert net.on() == ["c"]
    net.run(60.0)
    assert net.on() == ["c"]  # cut off, it runs on
    net.heal()
    net.until(lambda: net.on() == [], 5.0)
    net.run(400.0)
    assert net.on() == []


def test_what_is_deleted_leaves_nothing_behind() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    net.controlled("a", Desired.DELETED)
    net.run(1.0)
    assert net.daemons("a").daemons == {}
    assert net.boxes["a"].disk["daemon"] == {}
    assert net.boxes["a"].ended == {}
    assert net.daemons("a").deadline == NEVER


def test_what_is_stopped_keeps_its_output_and_runs_again_when_asked() -> None:
    net = DaemonNet("a", "b")
    net.ran("a")
    net.run(0.5)
    net.controlled("a")
    assert (net.on(), len(net.boxes["b"].ended)) == ([], 1)
    net.ran("a")
    net.run(0.5)
    assert net.on() == ["a", "b"]


def test_a_stop_of_what_waits_for_its_restart_holds() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    net.end("a", 1)
    net.controlled("a")
    net.run(30.0)
    assert (net.on(), net.daemons("a").deadline) == ([], NEVER)


def test_run_again_while_it_is_being_stopped() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    net.stop("a", net.id)
    net.submit("a", daemon())
    net.run(1.0)
    assert net.on() == ["a"]
    assert net.daemon("a").attempt == 2


def test_an_agent_that_died_while_stopping_goes_on_with_it() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    net.stop("a", net.id)
    net.kill("a")
    net.boot("a")
    net.run(1.0)
    assert net.on() == []
    assert net.daemon("a").state is State.STOPPED


def test_it_expires_when_its_moment_comes_on_a_clock_that_is_trusted() -> None:
    net = DaemonNet("a", "b")
    net.boxes["b"].trusted = False
    net.ran("a", daemon(NotAfter="2027-01-15T08:03:20Z"))
    assert WALL + net.now < WALL + 200
    net.run(0.5)
    assert net.on() == ["a", "b"]
    net.run(100.0)
    assert net.on() == ["b"]
    assert "expired" in net.told("a", "daemon.stopped")[0].text
    net.boxes["b"].trusted = True
    net.sample("b")
    net.run(1.0)
    assert net.on() == []


# ---- what it cannot act on


def given(net: DaemonNet, *datas: bytes) -> None:
    net.send("a", "a", SyncRecords(DOMAIN, datas))
    net.run(0.5)


def test_a_generation_that_cannot_be_read_leaves_what_runs_alone() -> None:
    net = DaemonNet("a")
    book = StandingBook(shoal=net.shoal)
    given(net, book.spec("a"))
    given(net, book.spec_of(dumps({"Name": "collect", "Type": "swarm"}), "a", 2))
    assert net.on() == ["a"]
    assert "cannot read its spec" in net.daemons("a").unfit[net.id]
    net.end("a", 1)
    net.run(30.0)
    assert (net.on(), net.daemons("a").deadline) == ([], NEVER)
    given(net, book.spec("a", 3))
    assert net.on() == ["a"]


def test_a_wish_without_its_spec_changes_nothing() -> None:
    net = DaemonNet("a")
    book = StandingBook(shoal=net.shoal)
    given(net, book.control(Desired.RUNNING, 2, "a", 4))
    assert net.on() == []
    given(net, book.spec("a", 4))
    assert net.on() == ["a"]


def test_a_name_that_became_a_service_is_no_daemon_any_more() -> None:
    net = DaemonNet("a")
    book = StandingBook(shoal=net.shoal)
    given(net, book.spec("a"))
    tree: dict[str, Plain] = {"Name": "collect", "Type": "service", "Tasks": [{"Engine": PROCESS}]}
    given(net, book.spec_of(JobSpec.from_plain(tree).encode(), "a", 2))
    assert net.on() == []
    assert net.daemons("a").unfit[net.id] == "it is a service now"


def test_rows_that_cannot_be_read_are_named() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.kill("a")
    net.boxes["a"].disk["daemon"]["x"] = b"garbage"
    net.boot("a")
    assert [each.key for each in net["a"].unreadable] == ["x"]


def test_without_its_record_what_runs_is_left_alone() -> None:
    """Its row was damaged, and nobody is there to give it back yet."""
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    net.kill("a")
    net.boxes["a"].disk["standing"].clear()
    net.boot("a")
    net.run(10.0)
    assert net.on() == ["a"]


def test_news_of_executions_that_are_none_of_its_own_is_left_to_others() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    assert net.daemons("a").find(ExecutionId("a" * 32)) is None
    effects, others = net.daemons("a").boot((), net.clock("a"))
    assert others == []
    assert not any(isinstance(effect, StopTask | RemoveTask) for effect in effects)


# ---- cut off

LEASHED: dict[str, Plain] = {"Disconnect": {"StopAfter": 30}}


def test_it_runs_on_while_cut_off_unless_it_says_how_long() -> None:
    net = DaemonNet("a", "b")
    net.ran("a", daemon(**LEASHED))
    net.ran("a", daemon("free"))
    net.run(1.0)
    net.part("a", "b")
    assert 29.0 < net.until(lambda: "b" not in net.on()) < 45.0
    net.run(120.0)
    assert net.on() == []
    assert net.daemon("b").waiting == CUT_OFF
    assert sum(start.spec.name == "free" for start in net.boxes["b"].running.values()) == 1
    net.heal()
    net.until(lambda: sorted(net.on()) == ["a", "b"])


def test_alone_after_a_start_it_runs_for_as_long_as_it_says() -> None:
    net = DaemonNet("a", "b")
    net.ran("a", daemon(**LEASHED))
    net.run(1.0)
    net.kill("a", "b")
    net.boxes["b"].running.clear()
    net.boot("b")
    net.run(20.0)
    assert net.on().count("b") == 1
    net.run(15.0)
    assert "b" not in net.on()


def test_what_is_started_anew_while_cut_off_waits_for_somebody() -> None:
    net = DaemonNet("a", "b")
    net.ran("a", daemon(**LEASHED))
    net.run(1.0)
    net.part("a", "b")
    net.run(60.0)
    attempt = net.daemon("b").attempt
    net.relabel("b", zone="attic")
    net.sample("b")
    net.run(5.0)
    assert net.daemon("b").attempt == attempt


# ---- health

CHECKED: dict[str, Plain] = {"Check": {"Tcp": "127.0.0.1:80"}}


def reason(net: DaemonNet) -> str:
    (view,) = net["a"].steward.views("", 1, True, net.clock("a"))
    parts = cast("list[dict[str, Plain]]", view["parts"])
    return str(parts[0]["reason"])


def test_what_runs_is_checked_and_not_well_before_it_passed() -> None:
    net = DaemonNet("a")
    net.ran("a", daemon(**CHECKED))
    net.run(0.5)
    execution = net.execution("a")
    assert net.boxes["a"].checked == [execution]
    assert net.daemon("a").healthy_at == NEVER
    assert reason(net) == "its checks have not passed yet"
    net.handle("a", HealthChanged(execution, True))
    assert net.daemon("a").healthy_at == net.now + 10
    assert reason(net) == ""


def test_what_is_unwell_is_started_again_with_a_pause() -> None:
    net = DaemonNet("a")
    net.ran("a", daemon(**CHECKED))
    net.run(0.5)
    first = net.execution("a")
    net.handle("a", HealthChanged(first, True))
    effects = net.handle("a", HealthChanged(first, False, "no answer within 5 s"))
    assert StopTask(first, "unhealthy: no answer within 5 s") in effects
    assert net.handle("a", HealthChanged(first, False, "again")) == []
    net.run(0.1)
    assert net.on() == []
    assert "unhealthy: no answer within 5 s" in reason(net)
    assert net.until(lambda: net.on() == ["a"]) > 0.5
    assert net.execution("a") != first
    assert net.handle("a", HealthChanged(first, False, "late")) == []
    assert [tell.text for tell in net.told("a", "daemon.unhealthy")] == [
        "collect is unhealthy: no answer within 5 s"
    ]


def test_what_is_adopted_is_checked_again() -> None:
    net = DaemonNet("a")
    net.ran("a", daemon(**CHECKED))
    net.run(0.5)
    net.kill("a")
    net.boot("a")
    assert net.boxes["a"].checked == [net.execution("a")] * 2


def test_a_revision_whose_checks_never_pass_is_gone_back_from() -> None:
    net = DaemonNet("a")
    net.ran("a", daemon(**FAST))
    net.run(3.0)
    net.ran("a", daemon(**FAST, **CHECKED))
    net.run(20.0)  # it runs all the while: that alone is not enough
    assert net.daemon("a").now.spec.check is not None
    net.handle("a", HealthChanged(net.execution("a"), False, "refused"))
    net.run(1.0)
    assert net.daemon("a").now.spec.check is None
    assert "back to the one before" in net.told("a", "daemon.rolled-back")[0].text


# ---- updates


def test_an_update_goes_from_peer_to_peer() -> None:
    net = DaemonNet("a", "b", "c")
    net.ran("a", daemon(**FAST))
    net.run(5.0)
    first = net.daemon("a").now.revision
    net.ran("a", daemon(Priority=1, **FAST))
    moved: list[float] = []
    for count in (1, 2, 3):
        net.until(lambda c=count: sum(net.daemon(n).now.revision != first for n in "abc") == c)
        moved.append(net.now)
        assert len(net.on()) >= 2
    assert 1.5 < moved[1] - moved[0] < 2.5
    assert 1.5 < moved[2] - moved[1] < 2.5


def test_so_many_at_a_time() -> None:
    net = DaemonNet("a", "b", "c")
    spec: dict[str, Plain] = {"Update": {"HealthyAfter": 30, "MaxParallel": 3}}
    net.ran("a", daemon(**spec))
    net.run(1.0)
    net.ran("a", daemon(Priority=1, **spec))
    net.run(1.0)
    assert {net.daemon(name).now.spec.priority for name in "abc"} == {1}


def test_a_revision_that_does_not_last_is_gone_back_from() -> None:
    net = DaemonNet("a")
    net.ran("a", daemon(**FAST))
    net.run(5.0)
    good = net.daemon("a").now.revision
    net.ran("a", daemon(Priority=1, **FAST))
    net.run(0.5)
    assert net.daemon("a").now.revision != good
    net.end("a", 1)
    net.run(0.5)
    assert net.daemon("a").now.revision == good
    assert "back to the one before" in net.told("a", "daemon.rolled-back")[0].text
    net.run(600.0)
    assert net.daemon("a").now.revision == good
    net.kill("a")
    net.boot("a")
    net.run(30.0)
    assert (net.daemon("a").now.revision, net.on()) == (good, ["a"])
    net.ran("a", daemon(Priority=2, **FAST))
    net.run(1.0)
    assert net.daemon("a").now.spec.priority == 2


def test_or_kept_and_started_again_where_its_author_says_so() -> None:
    net = DaemonNet("a")
    spec: dict[str, Plain] = {"Update": {"HealthyAfter": 2, "OnFailure": "pause"}}
    net.ran("a", daemon(**spec))
    net.run(5.0)
    net.ran("a", daemon(Priority=1, **spec))
    net.run(0.5)
    net.end("a", 1)
    net.until(lambda: net.on() == ["a"])
    assert net.daemon("a").now.spec.priority == 1
    assert len(net.told("a", "daemon.update-failed")) == 1


def test_a_first_revision_has_nothing_to_go_back_to() -> None:
    net = DaemonNet("a")
    net.ran("a", daemon(**FAST))
    net.run(0.5)
    net.end("a", 1)
    net.until(lambda: net.on() == ["a"])
    assert net.told("a", "daemon.rolled-back") == []


def test_a_cure_for_what_keeps_ending_does_not_wait_for_its_pause() -> None:
    net = DaemonNet("a")
    net.ran("a", daemon(Retry={"Backoff": 3600}))
    net.run(0.1)
    net.end("a", 1)
    net.ran("a", daemon(Priority=1))
    net.run(0.5)
    assert net.daemon("a").now.spec.priority == 1
    assert net.on() == ["a"]


def test_an_update_that_is_taken_back_before_its_wave_changes_nothing() -> None:
    net = DaemonNet("a", "b")
    book = StandingBook(shoal=net.shoal)
    slow: dict[str, Plain] = {"Update": {"HealthyAfter": 60}}
    net.ran("a", daemon(**slow))
    net.run(1.0)
    net.ran("a", daemon(Priority=1, **slow))
    net.run(1.0)
    (late,) = [name for name in "ab" if net.daemon(name).now.spec.priority == 0]
    assert net.daemon(late).switch_at > net.now + 50
    before = net.execution(late)
    net.send("a", late, SyncRecords(DOMAIN, (book.control(by="a"),)))
    net.run(1.0)
    assert net.on() == []
    assert before in net.boxes[late].ended


def test_the_same_revision_by_another_author_restarts_nothing() -> None:
    net = DaemonNet("a")
    book = StandingBook(shoal=net.shoal)
    both = sorted((book.spec("a"), book.spec("b")), key=lambda data: book.opened(data).data)
    given(net, both[0])
    before = net.execution("a")
    for data in (both[1], both[0]):
        given(net, data)
    assert net.execution("a") == before
    assert net.daemon("a").now.data == net["a"].steward.standing.jobs[net.id].spec_data


def test_what_the_engine_never_starts_is_given_up_and_started_again() -> None:
    config = NodeConfig(coordination=replace(CoordinationConfig(), start_max_s=20.0))
    net = DaemonNet("a", configs={"a": config})
    swallowed: list[str] = []

    def started(name: str, execution: ExecutionId) -> None:
        if not swallowed:
            swallowed.append(execution)
            del net.boxes[name].running[execution]  # and nothing is heard of it
        else:
            DaemonNet._started(net, name, execution)

    net._started = started  # type: ignore[method-assign]
    net.ran("a")
    net.until(lambda: net.daemon("a").state is State.RUNNING, 30.0)
    assert "did not start it within 20 s" in net.daemon("a").past[0][2]
    late = net.handle("a", TaskStarted(ExecutionId(swallowed[0])))
    assert late == [StopTask(ExecutionId(swallowed[0]), "it started too late")]
    assert net.on() == ["a"]


def test_what_was_stopped_stays_so_over_a_restart() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    net.controlled("a")
    net.kill("a")
    net.boot("a")
    net.run(30.0)
    assert (net.on(), net.daemons("a").deadline) == ([], NEVER)


def test_the_same_news_of_a_task_again_changes_nothing() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    assert net.handle("a", TaskStarted(net.execution("a"))) == []
    assert len(net.told("a", "daemon.started")) == 1


def test_what_takes_long_before_it_starts_is_shown_and_where_it_is_reached_then() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.until(lambda: net.on() == ["a"])
    key, own = net.execution("a"), net.daemon("a")
    own.state = State.STARTING
    assert net.handle("a", TaskProgressed(key, "pulling x")) == []
    part = parts(net)
    assert (part["state"], part["reason"], part["ports"]) == ("starting", "pulling x", {})
    net.handle("a", TaskStarted(key, (("web", 20_001),)))
    part = parts(net)
    assert (part["state"], part["reason"], part["ports"]) == ("running", "", {"web": 20_001})
    net.handle("a", TaskProgressed(key, "late"))
    net.handle("a", TaskProgressed(ExecutionId("other"), "x"))
    assert parts(net)["reason"] == ""


def parts(net: DaemonNet) -> dict[str, Plain]:
    now = net.clock("a")
    (view,) = net["a"].steward.views("", 9, False, now)
    (part,) = cast("list[dict[str, Plain]]", view["parts"])
    return part


# ---- its output, line by line


def test_its_lines_are_streamed_where_the_broker_is_one_run_after_the_other() -> None:
    params: Plain = {"Broker": "home", "Lines": True}
    spec = daemon(task={"Publisher": {"Type": "mqtt", "Params": params}})
    net = DaemonNet("a", "b")
    net.relabel("a", **{"broker.home": "true"})
    net.ran("b", spec)
    net.run(0.5)
    assert net.on() == ["a"]
    assert "[mqtt.brokers.home]" in net.daemons("b").unfit[net.id]
    first = net.execution("a")
    assert [each.execution for each in net.boxes["a"].streamed] == [first]
    net.end("a", 1)
    assert net.until(lambda: net.on() == ["a"]) < 30
    second = net.execution("a")
    assert len(net.boxes["a"].streamed) == 1, "the first one's output is not over"
    net.kill("a")
    net.boot("a")
    net.relabel("a", **{"broker.home": "true"})
    assert [each.execution for each in net.boxes["a"].streamed] == [first, first]
    net.handle("a", LinesPublished(first, 40, over=True))
    assert [each.execution for each in net.boxes["a"].streamed][2:] == [second]


def test_output_that_is_removed_before_the_broker_had_it_is_told_of_and_holds_up_nothing() -> None:
    params: Plain = {"Broker": "home", "Lines": True}
    spec = daemon(task={"Publisher": {"Type": "mqtt", "Params": params}})
    net = DaemonNet("a")
    net.relabel("a", **{"broker.home": "true"})
    net.ran("a", spec)
    net.run(0.5)
    runs = []
    for _ in range(StandingConfig().kept + 2):
        runs.append(net.execution("a"))
        net.end("a", 1)
        assert net.until(lambda: net.on() == ["a"]) < 400
    streamed = [each.execution for each in net.boxes["a"].streamed]
    assert streamed == runs[:3], "each of those that are gone made room for the next"
    told = [tell.fields["execution"] for tell in net.told("a", "mqtt.dropped")]
    assert told == runs[:2]
