"""The driver: owns the node, feeds it events, and carries its effects out in order.

Nothing is acknowledged, sent or started before every earlier Save is durable; only messages that
claim nothing durable overtake. A failed save throws the node away and builds it anew from disk,
since what it believed is not there.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

import trio

from agent.clock import Clock
from agent.store import Pending, Store
from agent.storesql import StoreFailed
from protocol.clock import NEVER
from protocol.effects import (
    Bucket,
    CheckTask,
    Dial,
    DropVolumes,
    Effect,
    Gossip,
    Hangup,
    Publish,
    RemoveTask,
    Reply,
    Save,
    Send,
    StartTask,
    StopTask,
    StreamLines,
    Tell,
    TriggerKept,
    TriggerPutOff,
    WatchTopics,
)
from protocol.events import (
    DeadlinePassed,
    Event,
    LoopLagged,
    PublishingStarted,
    TaskEnded,
    TaskStarted,
)
from protocol.ids import PeerId
from protocol.messages import OVERTAKING
from protocol.node import Node
from protocol.wire import encode_message

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # libp2p brings stubs that hide trio's own

LAZY_S: Final = 5.0  # an idle device writes such rows in one commit
GRAIN_S: Final = 0.02  # how late a deadline may be noticed: to ask costs as much as an event
LAG_S: Final = 0.5  # a loop this late means that this device, not the others, has trouble
QUEUED_MAX: Final = 50_000  # effects waiting for the disk; then the disk is what is broken
RELOADS_MAX: Final = 5  # in RELOADS_S; after that a fresh process is the better start
RELOADS_S: Final = 60.0
RETRY_S: Final = 5.0  # between attempts to read a disk that fails

Disk = Mapping[Bucket, Mapping[str, bytes]]
_log = logging.getLogger("shoal.driver")


class Outside(Protocol):
    """What effects are carried out upon. All of it returns at once."""

    def send(self, peer: PeerId, frame: bytes) -> None: ...
    def gossip(self, frame: bytes) -> None: ...
    def dial(self, peer: PeerId, addresses: tuple[str, ...]) -> None: ...
    def hangup(self, peer: PeerId) -> None: ...
    def start(self, task: StartTask) -> None: ...
    def check(self, task: CheckTask) -> None: ...
    def stop(self, task: StopTask) -> None: ...
    def remove(self, task: RemoveTask) -> None: ...
    def drop_volumes(self) -> None: ...
    def publish(self, message: Publish) -> None: ...
    def stream(self, lines: StreamLines) -> None: ...
    def trigger(self, effect: WatchTopics | TriggerKept | TriggerPutOff) -> None: ...
    def tell(self, tell: Tell) -> None: ...

    async def first_events(self) -> Sequence[Event]:
        """What a newly built node has to hear first: Booted, and how things stand."""


class RequestFailed(Exception):
    """A request that was refused or that nobody answered; a sentence for a person."""


class Driver:
    """One node's life on this device."""

    def __init__(self, build: Callable[[Disk], Node], store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self._build = build
        self.node: Node = build(cast(Disk, store.load()))
        self._outside: Outside | None = None
        self._saves: deque[Pending] = deque()  # under way, in order
        self._waiting: deque[tuple[int, Effect]] = deque()  # effects, each after so many saves
        self._lazy: list[tuple[Bucket, str, bytes | None]] = []  # rows for the next commit
        self._lazy_at = NEVER
        self._issued = 0
        self._durable = 0
        self._save_added = trio.Event()
        self._alarm = trio.CancelScope()  # around the wait for the next deadline
        self._turned = trio.Event()  # set whenever the loop that wakes the node goes round
        self._looked_at = 0.0  # when the node was last asked for it
        self._requests: dict[int, tuple[trio.Event, list[Reply]]] = {}
        self._request = 0
        self._broken = "it is starting"  # why nothing is handled just now
        self._ours = False  # it broke on a bug of ours, the disk is well
        self._late: list[Event] = []  # what happened to tasks meanwhile
        self._breaking = trio.Event()
        self._reloads: deque[float] = deque(maxlen=RELOADS_MAX)
        self.wakes = 0  # deadlines that were waited for
        self.late_s = 0.0  # by how much they were noticed too late, summed up
        self.rebuilds = 0

    # ---- events in ---------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Handle one event now. While the node is being rebuilt events are lost, as in a crash.

        Except for those that nobody would repeat.
        """
        if self._broken:
            if isinstance(event, TaskStarted | PublishingStarted | TaskEnded):
                self._late.append(event)
            return
        try:
            effects = self.node.handle(event, self.clock.now())
            for effect in effects:
                self._issue(effect)
            self._look()
        except StoreFailed as error:
            self._break(str(error))
        except Exception as error:  # our own bug: what the node holds now is worth nothing
            _log.exception("the node failed on %s", type(event).__name__)
            self._break(f"internal error: {error!r}", ours=True)

    @property
    def waiting(self) -> int:
        """Effects and saves that wait for the disk."""
        return len(self._waiting) + len(self._saves)

    async def ask(self, make: Callable[[int], Event], timeout_s: float) -> dict[str, object]:
        """Post a request and wait for its reply. Raises RequestFailed."""
        self._request += 1
        number = self._request
        done, replies = trio.Event(), list[Reply]()
        self._requests[number] = (done, replies)
        try:
            self.post(make(number))
            if self._broken:
                raise RequestFailed(f"this agent is recovering: {self._broken}; try again")
            with trio.move_on_after(timeout_s):
                await done.wait()
        finally:
            del self._requests[number]
        if not replies:
            raise RequestFailed(f"no answer within {timeout_s:.0f} s")
        if replies[0].error:
            raise RequestFailed(replies[0].error)
        return replies[0].value

    async def turn(self) -> None:
        """Returns once the loop that wakes the node has gone round: it is alive."""
        self._turned = trio.Event()
        self._alarm.deadline = min(self._alarm.deadline, trio.current_time())
        await self._turned.wait()

    # ---- effects out -------------------------------------------------------------------------

    def _issue(self, effect: Effect) -> None:
        if isinstance(effect, Save) and effect.lazy:
            self._lazy += effect.rows
            self._lazy_at = min(self._lazy_at, trio.current_time() + LAZY_S)
        elif isinstance(effect, Save):
            rows = (*self._lazy, *effect.rows)
            self._lazy, self._lazy_at = [], NEVER
            pending = self.store.enqueue(rows)
            if pending is None:
                raise StoreFailed("the disk does not keep up")
            self._saves.append(pending)
            self._issued += 1
            self._save_added.set()
        elif (self._durable == self._issued and not self._waiting) or (
            isinstance(effect, Send)
            and (effect.overtakes or isinstance(effect.message, OVERTAKING))
        ):
            self._do(effect)
        else:
            if len(self._waiting) >= QUEUED_MAX:
                raise StoreFailed("the disk does not keep up")
            self._waiting.append((self._issued, effect))

    async def _release(self) -> None:
        """Wait for saves in order, and let go of the effects behind each."""
        while True:
            while not self._saves:
                self._save_added = trio.Event()
                if not self._saves:
                    await self._save_added.wait()
            try:
                await self._saves[0].wait()
                self._saves.popleft()
                self._durable += 1
                while self._waiting and self._waiting[0][0] <= self._durable:
                    self._do(self._waiting.popleft()[1])
            except StoreFailed as error:
                self._break(str(error))
                return
            except Exception as error:
                _log.exception("an effect could not be carried out")
                self._break(f"internal error: {error!r}", ours=True)
                return

    def _do(self, effect: Effect) -> None:
        outside = self._outside
        assert outside is not None
        match effect:
            case Send():
                outside.send(effect.peer, encode_message(effect.message))
            case Gossip():
                outside.gossip(encode_message(effect.message))
            case Dial():
                outside.dial(effect.peer, effect.addresses)
            case Hangup():
                outside.hangup(effect.peer)
            case StartTask():
                outside.start(effect)
            case CheckTask():
                outside.check(effect)
            case StopTask():
                outside.stop(effect)
            case RemoveTask():
                outside.remove(effect)
            case DropVolumes():
                outside.drop_volumes()
            case Publish():
                outside.publish(effect)
            case StreamLines():
                outside.stream(effect)
            case WatchTopics() | TriggerKept() | TriggerPutOff():
                outside.trigger(effect)
            case Tell():
                outside.tell(effect)
            case Reply():
                self._reply(effect)
            case Save():
                raise AssertionError("a save is issued, not done")

    def _reply(self, reply: Reply) -> None:
        waiting = self._requests.get(reply.request)
        if waiting is not None:
            waiting[1].append(reply)
            waiting[0].set()

    # ---- life --------------------------------------------------------------------------------

    async def run(
        self, outside: Outside, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until cancelled; rebuilds the node from disk whenever it had to be given up.

        Raises StoreFailed when that does not help.
        """
        self._outside = outside
        started = False
        while True:
            first = await outside.first_events()
            self._broken, late, self._late = "", self._late, []
            for event in (*first, *late):
                self.post(event)
            if not started:
                task_status.started()
                started = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._release)
                nursery.start_soon(self._wake)
                await self._breaking.wait()
                nursery.cancel_scope.cancel()
            await self._rebuild()

    async def _wake(self) -> None:
        """Post a DeadlinePassed whenever the node's next deadline has come.

        Under load the node has a new deadline after every event; it is asked for it once a grain.
        """
        while True:
            self._turned.set()
            due = min(self.node.deadline, self._lazy_at)
            if due > trio.current_time():
                self._alarm = trio.CancelScope(deadline=due)
                with self._alarm:
                    await trio.sleep_forever()
                late = trio.current_time() - self._alarm.deadline
                self.wakes += 1
                self.late_s += max(0.0, late)
                if late > LAG_S:
                    self.post(LoopLagged(late))
                continue
            self._save_lazy()
            self.post(DeadlinePassed())
            await trio.lowlevel.checkpoint()

    def _look(self) -> None:
        """An event may have brought the deadline forward: ask, unless that was just done."""
        now = trio.current_time()
        if now - self._looked_at < GRAIN_S:
            due = self._looked_at + GRAIN_S
        else:
            self._looked_at, due = now, max(self.node.deadline, now)
        if due < self._alarm.deadline:
            self._alarm.deadline = due

    def _save_lazy(self) -> None:
        """Rows that no other save took along, once they have waited long enough."""
        if self._lazy_at <= trio.current_time():
            try:
                self._issue(Save(()))
            except StoreFailed as error:
                self._break(str(error))

    def _break(self, why: str, *, ours: bool = False) -> None:
        if not self._broken:
            self._broken, self._ours = why, ours
            self._breaking.set()

    async def _rebuild(self) -> None:
        """Throw the node away and read the disk again, as after a crash.

        Raises StoreFailed when the disk failed too often for that to help. Our own bugs only slow
        it down: whoever sends what sets one off shall not be able to end the agent.
        """
        now = trio.current_time()
        self.rebuilds += 1
        self._reloads.append(now)
        often = len(self._reloads) == RELOADS_MAX and now - self._reloads[0] < RELOADS_S
        if often and not self._ours:
            raise StoreFailed(f"gave up after {RELOADS_MAX} tries: {self._broken}")
        _log.error("rebuilding from disk: %s", self._broken)
        self._saves.clear()
        self._lazy, self._lazy_at = [], NEVER
        self._waiting.clear()
        self._durable = self._issued
        for done, replies in self._requests.values():
            replies.append(Reply(0, error=f"not done: {self._broken}; try again"))
            done.set()
        if often:
            await trio.sleep(self._reloads[0] + RELOADS_S - now)
        while True:
            try:
                rows = await self.store.reload()
                break
            except StoreFailed as error:
                _log.error("the disk cannot be read: %s", error)
                await trio.sleep(RETRY_S)
        self.node = self._build(cast(Disk, rows))
        self._breaking = trio.Event()
