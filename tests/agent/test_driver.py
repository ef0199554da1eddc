"""The driver: durable before said, in order, and a node that failed is built anew from disk."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from agent.clock import Clock
from agent.driver import LAG_S, RELOADS_MAX, RELOADS_S, Disk, Driver, RequestFailed
from agent.store import Store
from agent.storesql import StoreFailed
from protocol.clock import Now
from protocol.effects import (
    Dial,
    Effect,
    Gossip,
    Hangup,
    Publish,
    RemoveTask,
    Reply,
    Save,
    Send,
    StopTask,
    StreamLines,
    Tell,
)
from protocol.events import (
    Booted,
    DeadlinePassed,
    Event,
    FactsSampled,
    FrameReceived,
    LoopLagged,
    QueryRequested,
    ShutdownRequested,
    TaskEnded,
)
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.messages import Facts, Message, Ping, ResultAck, Rumours
from protocol.node import Node
from protocol.records import Fence
from protocol.wire import encode_message

A = PeerId("a")
E1 = ExecutionId("e1")
EVENT = FactsSampled(Facts(0, 0, 0, 0, 0))
SAVE = Save((("job", "j", b"1"),))
WAITS = ResultAck(JobId("j"), 0, Fence(1, A, 1), "accepted")  # it says that a result is on disk
WITHIN_S = 60.0


class Script:
    """In a node's place: what it is told, and what it answers to which event."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.deadline = float("inf")
        self.heard: list[Event] = []
        self.answers: dict[type[Event], Callable[[Any], list[Effect]]] = {}

    def handle(self, event: Event, now: Now) -> list[Effect]:
        self.heard.append(event)
        return self.answers.get(type(event), lambda _: [])(event)


class Outside:
    """Remembers what was done, in order."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.came = trio.Event()
        self.gathering: Callable[[], None] = lambda: None

    def _did(self, what: object) -> None:
        self.done.append(what)
        self.came.set()
        self.came = trio.Event()

    def send(self, peer: PeerId, frame: bytes) -> None:
        self._did(("send", peer, frame))

    def gossip(self, frame: bytes) -> None:
        self._did(("gossip", frame))

    def dial(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        self._did(("dial", peer, addresses))

    def hangup(self, peer: PeerId) -> None:
        self._did(("hangup", peer))

    def start(self, task: object) -> None:
        self._did(task)

    check = stop = remove = trigger = tell = publish = stream = start

    async def first_events(self) -> Sequence[Event]:
        self.gathering()
        await trio.lowlevel.checkpoint()
        return [Booted()]


def bug(event: Event) -> list[Effect]:
    raise IndexError(event)


class Driven:
    def __init__(self, store: Store) -> None:
        self.nodes: list[Script] = []
        self.outside = Outside()
        self.store = store
        self.driver = Driver(self._build, store, Clock())

    @property
    def node(self) -> Script:
        return self.nodes[-1]

    def _build(self, disk: Disk) -> Node:
        self.nodes.append(Script(disk))
        return cast(Node, self.nodes[-1])

    def gives(self, *effects: Effect, to: type[Event] = FactsSampled) -> None:
        self.node.answers[to] = lambda _: list(effects)

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(WITHIN_S):
            while not condition():
                await trio.testing.wait_all_tasks_blocked(0.001)

    async def rebuilt(self, nth: int = 1) -> None:
        await self.until(lambda: len(self.nodes) > nth and self.node.heard)

    def break_the_disk(self) -> None:
        """Writes fail from now on, until it is opened anew."""
        self.store._file._connection.execute("PRAGMA query_only = 1")


@asynccontextmanager
async def driving(path: Path) -> AsyncIterator[Driven]:
    store = Store.open(path)
    driven = Driven(store)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(driven.driver.run, driven.outside)
            yield driven
            nursery.cancel_scope.cancel()
    finally:
        await store.aclose()


def sent(message: Message) -> tuple[str, PeerId, bytes]:
    return ("send", A, encode_message(message))


# ---- order ------------------------------------------------------------------------------------


async def test_a_node_hears_first_that_it_booted_with_what_the_disk_holds(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        assert it.node.heard == [Booted()]
        it.gives(SAVE)
        it.driver.post(EVENT)
    async with driving(tmp_path) as again:
        assert again.node.disk["job"] == {"j": b"1"}


async def test_what_is_published_is_on_the_disk_before(tmp_path: Path) -> None:
    message = Publish("home", "1", "id", "t", b"x", 1, False)
    lines = StreamLines(ExecutionId("e"), "home", "t", 1, False, "raw", 0, (JobId("j"), 0, "n"))
    async with driving(tmp_path) as it:
        it.gives(SAVE, message, lines)
        it.driver.post(EVENT)
        assert it.outside.done == []
        await it.until(lambda: len(it.outside.done) == 2)
        assert it.outside.done == [message, lines]


async def test_effects_leave_in_order_each_after_the_saves_before_it(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        effects = (Tell("k", "first"), SAVE, Send(A, WAITS), SAVE, Tell("k", "last"))
        it.gives(*effects)
        it.driver.post(EVENT)
        assert it.outside.done == [effects[0]], "nothing after a save that is not on disk"
        await it.until(lambda: len(it.outside.done) == 3)
        assert it.outside.done == [effects[0], sent(WAITS), effects[-1]]


async def test_what_claims_nothing_durable_overtakes(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        it.gives(SAVE, Send(A, WAITS), Send(A, Ping(7)))
        it.driver.post(EVENT)
        assert it.outside.done == [sent(Ping(7))]
        await it.until(lambda: len(it.outside.done) == 2)
        assert it.outside.done[1] == sent(WAITS)


async def test_a_later_events_effects_wait_behind_an_earlier_ones(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        it.gives(SAVE, Tell("k", "one"))
        it.gives(Tell("k", "two"), to=ShutdownRequested)
        it.driver.post(EVENT)
        it.driver.post(ShutdownRequested())
        assert it.outside.done == []
        await it.until(lambda: len(it.outside.done) == 2)
        assert it.outside.done == [Tell("k", "one"), Tell("k", "two")]


async def test_every_effect_reaches_the_outside(tmp_path: Path) -> None:
    rumours = Rumours(())
    async with driving(tmp_path) as it:
        tasks = (StopTask(E1, "why"), RemoveTask(E1))
        it.gives(Gossip(rumours), Dial(A, ("/ip4/1.2.3.4/tcp/1",)), Hangup(A), *tasks)
        it.driver.post(EVENT)
        assert it.outside.done == [
            ("gossip", encode_message(rumours)),
            ("dial", A, ("/ip4/1.2.3.4/tcp/1",)),
            ("hangup", A),
            *tasks,
        ]


# ---- requests ---------------------------------------------------------------------------------


def query(number: int) -> Event:
    return QueryRequested(number, "", 1, False)


async def test_a_reply_waits_for_the_saves_before_it(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        it.node.answers[QueryRequested] = lambda event: [SAVE, Reply(event.request, {"job": "j"})]
        before = it.store.commits
        assert await it.driver.ask(query, WITHIN_S) == {"job": "j"}
        assert it.store.commits == before + 1


async def test_a_refusal_and_silence_are_sentences(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        it.node.answers[QueryRequested] = lambda event: [Reply(event.request, error="not so")]
        with pytest.raises(RequestFailed, match="not so"):
            await it.driver.ask(query, WITHIN_S)
        it.node.answers.clear()
        with pytest.raises(RequestFailed, match="no answer within 0 s"):
            await it.driver.ask(query, 0.01)
        it.gives(Reply(1), Reply(99))
        it.driver.post(EVENT)  # too late, and never asked


async def test_before_it_runs_a_request_is_told_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    it = Driven(store)
    with pytest.raises(RequestFailed, match="starting; try again"):
        await it.driver.ask(query, WITHIN_S)
    await store.aclose()


# ---- failures ---------------------------------------------------------------------------------


async def test_a_failed_save_builds_the_node_anew_and_lets_nothing_out(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        it.gives(SAVE)
        it.driver.post(EVENT)
        await it.until(lambda: it.driver._durable == 1)
        it.break_the_disk()
        it.gives(Save((("job", "lost", b"2"),)), Tell("k", "never"))
        it.driver.post(EVENT)
        await it.rebuilt()
        assert it.node.disk["job"] == {"j": b"1"}
        assert it.node.heard == [Booted()]
        assert it.outside.done == []
        it.gives(Save((("job", "more", b"3"),)), Tell("k", "well again"))
        it.driver.post(EVENT)
        await it.until(lambda: it.outside.done == [Tell("k", "well again")])


async def test_who_asked_is_answered_when_the_save_fails(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        it.break_the_disk()
        it.node.answers[QueryRequested] = lambda event: [SAVE, Reply(event.request)]
        with pytest.raises(RequestFailed, match=r"not done: .*readonly.*try again"):
            await it.driver.ask(query, WITHIN_S)
        await it.rebuilt()
        it.node.answers[QueryRequested] = lambda event: [Reply(event.request, {"a": 1})]
        assert await it.driver.ask(query, WITHIN_S) == {"a": 1}


async def test_our_own_bug_builds_the_node_anew(tmp_path: Path, caplog: Any) -> None:
    async with driving(tmp_path) as it:
        it.node.answers[FrameReceived] = bug
        it.driver.post(FrameReceived(A, b""))
        with pytest.raises(RequestFailed, match=r"recovering: internal error: IndexError.*again"):
            await it.driver.ask(query, WITHIN_S)
        await it.rebuilt()
        assert "the node failed on FrameReceived" in caplog.text


async def test_an_effect_that_cannot_be_carried_out_after_its_save_is_no_end(
    tmp_path: Path,
) -> None:
    async with driving(tmp_path) as it:
        it.gives(SAVE, Send(A, cast(Message, object())))
        it.driver.post(EVENT)
        await it.rebuilt()


async def test_what_happened_to_a_task_meanwhile_is_told_to_the_new_node(tmp_path: Path) -> None:
    """Other events are lost as in a crash; nobody would say this one again."""
    ended = TaskEnded(E1, 0)
    async with driving(tmp_path) as it:

        def gathering() -> None:
            it.driver.post(EVENT)
            it.driver.post(ended)

        it.outside.gathering = gathering
        it.node.answers[FrameReceived] = bug
        it.driver.post(FrameReceived(A, b""))
        await it.rebuilt()
        assert it.node.heard == [Booted(), ended], "and it booted first"


async def test_a_disk_that_fails_again_and_again_ends_the_agent(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    it = Driven(store)
    with pytest.RaisesGroup(pytest.RaisesExc(StoreFailed, match="gave up after")):
        async with trio.open_nursery() as nursery:
            await nursery.start(it.driver.run, it.outside)
            for life in range(RELOADS_MAX):
                await it.rebuilt(life)
                it.break_the_disk()
                it.gives(SAVE)
                it.driver.post(EVENT)
            await trio.sleep(WITHIN_S)
    await store.aclose()


async def test_our_own_bug_again_and_again_only_slows_it_down(tmp_path: Path) -> None:
    """A peer that sends what sets one off must not be able to end the agent."""
    store = Store.open(tmp_path)
    it = Driven(store)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.driver.run, it.outside)
        begun = trio.current_time()
        for life in range(RELOADS_MAX):
            await it.rebuilt(life)
            it.node.answers[FrameReceived] = bug
            it.driver.post(FrameReceived(A, b""))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RequestFailed, match="recovering"):
            await it.driver.ask(query, WITHIN_S)
        assert len(it.nodes) == RELOADS_MAX and trio.current_time() - begun < RELOADS_S
        assert it.driver._reloads.maxlen == RELOADS_MAX
        nursery.cancel_scope.cancel()
    await store.aclose()


# ---- time -------------------------------------------------------------------------------------


async def test_it_wakes_the_node_at_its_deadline(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        it.node.answers[FactsSampled] = lambda _: set_deadline(it, trio.current_time() + 0.05)
        it.node.answers[DeadlinePassed] = lambda _: set_deadline(it, float("inf"))
        begun = trio.current_time()
        it.driver.post(EVENT)
        await it.until(lambda: DeadlinePassed() in it.node.heard)
        assert trio.current_time() - begun >= 0.05


async def test_an_earlier_deadline_moves_the_wake_up_forward(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        it.node.answers[FactsSampled] = lambda _: set_deadline(it, trio.current_time() + 3600)
        it.node.answers[ShutdownRequested] = lambda _: set_deadline(it, trio.current_time())
        it.node.answers[DeadlinePassed] = lambda _: set_deadline(it, float("inf"))
        it.driver.post(EVENT)
        await trio.testing.wait_all_tasks_blocked()
        it.driver.post(ShutdownRequested())
        await it.until(lambda: DeadlinePassed() in it.node.heard)


def hold_up(seconds: float) -> None:
    """The loop stands still, as when the device has no time for it."""
    time.sleep(seconds)


async def test_a_loop_that_was_late_says_so(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        it.node.answers[FactsSampled] = lambda _: set_deadline(it, trio.current_time() + 0.05)
        it.node.answers[DeadlinePassed] = lambda _: set_deadline(it, float("inf"))
        it.driver.post(EVENT)
        await trio.testing.wait_all_tasks_blocked()
        hold_up(LAG_S + 0.2)
        await it.until(lambda: DeadlinePassed() in it.node.heard)
        (lagged,) = (event for event in it.node.heard if isinstance(event, LoopLagged))
        assert LAG_S < lagged.lag_s < LAG_S + WITHIN_S
        assert it.driver.wakes >= 1 and it.driver.late_s >= lagged.lag_s


async def test_its_loop_goes_round_when_asked_and_only_while_it_lives(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        for _ in range(3):
            with trio.fail_after(WITHIN_S):
                await it.driver.turn()
        assert not any(isinstance(event, LoopLagged | DeadlinePassed) for event in it.node.heard)
    with trio.move_on_after(0.05) as waited:
        await it.driver.turn()
    assert waited.cancelled_caught, "it runs no more"


async def test_lazy_rows_go_along_with_the_next_save(tmp_path: Path) -> None:
    async with driving(tmp_path) as it:
        it.gives(Save((("slot", "s", b"0"),), lazy=True), Tell("k", "at once"))
        before = it.store.commits
        it.driver.post(EVENT)
        assert it.outside.done == [Tell("k", "at once")] and it.store.commits == before
        it.gives(SAVE)
        it.driver.post(EVENT)
        await it.until(lambda: it.store.commits == before + 1)
        rows = await it.store.reload()
        assert (rows["slot"], rows["job"]) == ({"s": b"0"}, {"j": b"1"})


def set_deadline(it: Driven, deadline: float) -> list[Effect]:
    it.node.deadline = deadline
    return []
