"""The outbox: nothing is lost, one of a job is on its way, ids stay; full, it says so."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.clock import NEVER
from protocol.config import OutboxConfig
from protocol.effects import Bucket, Effect, Publish, Save, Tell
from protocol.events import BrokerChanged, MessagePublished
from protocol.ids import JobId
from protocol.outbox import Message, Outbox
from tests.protocol.jobs import at

UP, DOWN = BrokerChanged("home", True), BrokerChanged("home", False)
CONFIG = OutboxConfig(messages_max=4, bytes_max=100, in_flight_max=2)


def job_of(name: str) -> JobId:
    return JobId(name.ljust(32, "a"))


@dataclass
class Kept:
    """An outbox with the disk that its rows go to."""

    config: OutboxConfig = CONFIG
    disk: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.boots()

    def boots(self) -> Outbox:
        self.outbox = Outbox(self.config)
        disk: dict[Bucket, dict[str, bytes]] = {"outbox": dict(self.disk)}
        assert self.outbox.restore(disk) == []
        return self.outbox

    def add(self, id: str, job: str = "j", broker: str = "home", payload: bytes = b"x") -> None:
        _, key, value = self.outbox.add(Message(id, broker, job_of(job), "t", payload))
        assert value is not None
        self.disk[key] = value

    def does(self, effects: list[Effect], lazily: bool = True) -> list[str]:
        """Ids of what is published; saves go to the disk, unless lazy ones get lost."""
        for effect in effects:
            if isinstance(effect, Save) and lazily:
                for _, key, value in effect.rows:
                    assert value is None and effect.lazy
                    self.disk.pop(key, None)
        return [effect.id for effect in effects if isinstance(effect, Publish)]

    def ends(
        self,
        id: str,
        problem: str = "",
        refused: bool = False,
        now: float = 0.0,
        waits: bool = False,
    ) -> list[str]:
        key = next((k for k, m in self.outbox.messages.items() if m.id == id), 999)
        event = MessagePublished(f"{key:016d}", id, problem, refused, waits)
        return self.does(self.outbox.on_published(event, at(now)))


def test_a_message_goes_out_when_its_broker_is_there_and_stays_until_it_is_acknowledged() -> None:
    kept = Kept()
    kept.add("a")
    assert kept.does(kept.outbox.due(at(0.0))) == []
    (publish,) = kept.outbox.on_broker(UP, at(0.0))
    assert isinstance(publish, Publish)
    assert (publish.id, publish.topic, publish.payload, publish.qos) == ("a", "t", b"x", 1)
    assert kept.outbox.due(at(1.0)) == [], "it is on its way"
    assert kept.disk and kept.ends("a") == []
    assert not kept.disk and not kept.outbox.messages


def test_of_a_job_one_is_on_its_way_and_of_all_as_many_as_a_broker_takes() -> None:
    kept = Kept()
    for id, job in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c")):
        kept.add(id, job)
    assert kept.does(kept.outbox.on_broker(UP, at(0.0))) == ["a1", "b1"]
    assert kept.ends("b1") == ["c1"], "not a2: a1 is not there yet"
    assert kept.ends("a1") == ["a2"]


def test_what_was_under_way_as_the_connection_broke_goes_out_again_first() -> None:
    kept = Kept()
    kept.add("a1", "a")
    kept.add("a2", "a")
    kept.outbox.on_broker(UP, at(0.0))
    assert kept.ends("a1", "the connection was lost") == []
    assert kept.does(kept.outbox.on_broker(DOWN, at(0.1))) == []
    assert kept.outbox.deadline == NEVER, "nothing is due while the broker is away"
    assert kept.does(kept.outbox.on_broker(UP, at(0.2))) == ["a1"]
    assert kept.ends("a1") == ["a2"]


def test_without_an_end_of_the_connection_it_is_tried_again_soon() -> None:
    kept = Kept()
    kept.add("a")
    kept.outbox.on_broker(UP, at(0.0))
    kept.ends("a", "too much is on its way already", now=5.0)
    assert kept.outbox.deadline == 6.0
    assert kept.does(kept.outbox.on_deadline(at(5.5))) == []
    assert kept.does(kept.outbox.on_deadline(at(6.0))) == ["a"]


def test_after_a_crash_it_goes_out_again_under_the_same_id() -> None:
    kept = Kept()
    kept.add("a1", "a")
    kept.add("a2", "a")
    kept.outbox.on_broker(UP, at(0.0))
    key = next(iter(kept.outbox.messages))
    acknowledged = kept.outbox.on_published(MessagePublished(f"{key:016d}", "a1"), at(0.0))
    kept.does(acknowledged, lazily=False)  # the power goes before that is on the disk
    outbox = kept.boots()
    assert kept.does(outbox.on_broker(UP, at(0.0))) == ["a1"]
    assert kept.ends("a1") == ["a2"]


def test_what_is_refused_is_kept_told_once_and_tried_ever_more_seldom() -> None:
    kept = Kept()
    kept.add("a", "a")
    kept.add("b", "b")
    kept.outbox.on_broker(UP, at(0.0))
    key = f"{next(iter(kept.outbox.messages)):016d}"
    refusal = MessagePublished(key, "a", "not authorized", True)
    (tell,) = kept.outbox.on_published(refusal, at(0.0))
    assert isinstance(tell, Tell) and "not authorized" in tell.text and "kept" in tell.text
    assert kept.ends("b") == [], "others go on"
    assert kept.outbox.deadline == 30.0
    kept.outbox.on_broker(DOWN, at(1.0))
    assert kept.does(kept.outbox.on_broker(UP, at(2.0))) == [], "that allows it no sooner"
    assert kept.does(kept.outbox.on_deadline(at(30.0))) == ["a"]
    assert kept.outbox.on_published(refusal, at(30.0)) == []
    assert kept.outbox.deadline == 90.0
    assert kept.does(kept.outbox.on_deadline(at(90.0))) == ["a"]
    assert kept.ends("a") == [] and not kept.disk


def test_others_go_first_while_one_is_held_back() -> None:
    """The agent holds what connections ended under (agent.mqtt.suspects), and asks for it again."""
    kept = Kept(OutboxConfig(in_flight_max=1))
    kept.add("held", "a")
    kept.add("b", "b")
    assert kept.does(kept.outbox.on_broker(UP, at(0.0))) == ["held"]
    assert kept.ends("held", "connections ended under it", now=0.0, waits=True) == ["b"]
    assert kept.ends("b", now=0.5) == [] and kept.outbox.deadline == 10.0
    assert kept.does(kept.outbox.on_deadline(at(9.0))) == []
    assert kept.does(kept.outbox.on_deadline(at(10.0))) == ["held"]
    kept.ends("held", "connections ended under it", now=10.0, waits=True)
    assert kept.does(kept.outbox.on_broker(UP, at(11.0))) == ["held"], "to hear how it stands now"


def test_it_is_full_by_number_and_by_size_and_says_which_broker_is_missing() -> None:
    kept = Kept()
    for number in range(4):
        assert kept.outbox.full == ""
        kept.add(f"m{number}", f"j{number}")
    assert kept.outbox.full == "4 results wait for broker home, as many as are kept"
    kept.outbox.on_broker(UP, at(0.0))
    kept.ends("m0")
    assert kept.outbox.full == ""
    large = Kept()
    large.add("m", payload=bytes(100))
    assert "1 results" in large.outbox.full
    assert large.boots().full == large.outbox.full
    assert large.outbox.waiting("home") == 1 and large.outbox.waiting("other") == 0


def test_ends_of_what_is_unknown_change_nothing() -> None:
    kept = Kept()
    kept.outbox.on_broker(UP, at(0.0))
    assert kept.outbox.on_published(MessagePublished("7".zfill(16), "z"), at(0.0)) == []
    kept.add("a")
    key = f"{next(iter(kept.outbox.messages)):016d}"
    stale = MessagePublished(key, "of an earlier life")
    assert kept.outbox.on_published(stale, at(0.0)) == []
    assert kept.outbox.messages


def test_brokers_are_apart() -> None:
    kept = Kept()
    kept.add("a", broker="home")
    kept.add("b", broker="lab")
    assert kept.does(kept.outbox.on_broker(UP, at(0.0))) == ["a"]
    assert kept.does(kept.outbox.on_broker(BrokerChanged("lab", True), at(0.0))) == ["b"]


def test_a_row_that_cannot_be_read_is_said_and_keeps_no_other_from_being_read() -> None:
    kept = Kept()
    kept.add("a")
    outbox = Outbox()
    bad = {"outbox": {**kept.disk, "0000000000000009": b"\xff", "x": b"\x80"}}
    unread = outbox.restore(bad)  # type: ignore[arg-type]
    assert [each.key for each in unread] == ["0000000000000009", "x"]
    assert [message.id for message in outbox.messages.values()] == ["a"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["add", "up", "down", "crash", "ack", "lose", "refuse", "wait"])))
def test_whatever_happens_all_arrive_in_order(steps: list[str]) -> None:
    """Then the broker comes back, and it is waited for long enough."""
    kept = Kept(OutboxConfig(in_flight_max=2))
    added: list[tuple[str, str]] = []
    arrived: list[str] = []
    flying: list[str] = []
    now, up = 0.0, False
    for number, step in enumerate(steps):
        now += 1.0
        if step == "add":
            added.append((f"m{number}", "even" if number % 2 else "odd"))
            kept.add(*added[-1])
            flying += kept.does(kept.outbox.due(at(now)))
        elif step in ("up", "down") and up != (step == "up"):
            up = step == "up"
            flying = kept.does(kept.outbox.on_broker(BrokerChanged("home", up), at(now)))
        elif step == "crash":
            kept.boots()
            flying, up = [], False
        elif step == "wait":
            flying += kept.does(kept.outbox.on_deadline(at(now)))
        elif flying:
            id = flying.pop(0)
            if step == "refuse":
                flying += kept.ends(id, "no", True, now)
            else:
                arrived.append(id)  # and its PUBACK perhaps not
                flying += kept.ends(id, "" if step == "ack" else "lost", False, now)
    flying = kept.does(kept.outbox.on_broker(DOWN, at(now)))
    flying = kept.does(kept.outbox.on_broker(UP, at(now)))
    while flying or kept.outbox.deadline < NEVER:
        if not flying:
            now = kept.outbox.deadline
            flying = kept.does(kept.outbox.on_deadline(at(now)))
            continue
        arrived.append(flying.pop(0))
        flying += kept.ends(arrived[-1], now=now)
    for job in ("odd", "even"):
        wanted = [id for id, its in added if its == job]
        assert [id for id in dict.fromkeys(arrived) if id in wanted] == wanted
    assert not kept.disk


# ---- answers ------------------------------------------------------------------------------------


def with_answer() -> Kept:
    """An answer on its way, and a result of the same job."""
    kept = Kept()
    answer = Message("a", "home", job_of("j"), "t", b"x", correlation=b"c", answer=True)
    _, key, value = kept.outbox.add(answer)
    assert value is not None
    kept.disk[key] = value
    kept.add("b")
    result, publish = kept.boots().on_broker(UP, at(0.0))
    assert isinstance(result, Publish) and result.id == "b" and not result.answer
    assert isinstance(publish, Publish) and publish.correlation == b"c" and publish.answer
    return kept


def test_an_answer_that_is_refused_is_dropped_where_a_result_is_kept() -> None:
    kept = with_answer()
    event = MessagePublished(f"{1:016d}", "a", "not authorized", True)
    effects = kept.outbox.on_published(event, at(0.0))
    (told,) = [effect for effect in effects if isinstance(effect, Tell)]
    assert told.kind == "mqtt.unanswered" and "not authorized" in told.text
    assert kept.does(effects) == [] and list(kept.disk) == [f"{2:016d}"]
    kept.ends("b", "not authorized", refused=True)
    assert list(kept.disk) == [f"{2:016d}"]


def test_answers_go_one_at_a_time_and_hold_up_no_result_nor_are_held_up() -> None:
    """Whoever asks chooses where they go: of one that its broker refuses, and ends the connection
    over, it is to be heard that it was that."""
    kept = Kept(OutboxConfig(in_flight_max=2))
    for number in range(3):
        name = f"a{number}"
        answer = Message(name, "home", job_of(name), "t", b"x", answer=True)
        _, key, value = kept.outbox.add(answer)
        assert value is not None
        kept.disk[key] = value
    for number in range(3):
        kept.add(f"r{number}", f"r{number}")
    assert kept.does(kept.outbox.on_broker(UP, at(0.0))) == ["r0", "r1", "a0"]
    assert kept.ends("r0") == ["r2"]
    assert kept.ends("a0", "lost") == ["a1"]
    assert kept.ends("a1", "not authorized", refused=True) == ["a2"]
    assert kept.ends("a2", now=0.5) == []
    assert kept.does(kept.outbox.on_deadline(at(1.0))) == ["a0"]
