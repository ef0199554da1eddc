"""One executor on a disk, with what coordinators say to it: for tests of what an executor has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from protocol.bidding import Bidder
from protocol.clock import NEVER
from protocol.config import AuctionConfig, CoordinationConfig, PolicyConfig, StandingConfig
from protocol.effects import Bucket, Effect, Save, Send, Tell
from protocol.events import Booted, TaskEnded, TaskFound
from protocol.execution import State
from protocol.executor import Executor
from protocol.ids import ExecutionId, PeerId, execution_id
from protocol.messages import Award, Renew, RenewAck, RenewAnswer, ResultAck, ResultOffer, Withdraw
from protocol.opsjournal import OpsJournal
from protocol.publishing import Publishing
from protocol.records import Fence, Keyring, Result
from protocol.resources import Resources
from protocol.restarts import Restarts
from protocol.tree import Plain
from protocol.wire import open_sealed
from tests.protocol.jobs import Book, at, fence, job_spec, task_spec

CONFIG = CoordinationConfig()
A, B, C, ME, MALLORY = (PeerId(name) for name in ("a", "b", "c", "executor", "mallory"))
MEMORY = b"memory"
FIRST, SECOND = fence(1, "a", 1), fence(1, "a", 2)
CUT = Book(job_spec(Disconnect={"StopAfter": 30, "Replace": False}))
BROKER = {"arch": "arm64", "broker.home": "true"}
Disk = dict[Bucket, dict[str, bytes]]


def executor_of(
    keyring: Keyring,
    config: CoordinationConfig,
    bidder: Bidder,
    reachable: Callable[[PeerId], bool],
) -> Executor:
    restarts = Restarts(StandingConfig(), Random(1))
    return Executor(
        keyring,
        config,
        bidder,
        reachable,
        OpsJournal(MEMORY),
        restarts,
        lambda job, generation: "",
        lambda job: None,
        lambda: NEVER,
        Publishing(ME),
    )


class Device:
    """One executor, with a disk that is as durable as it is asked to be, and what it says."""

    def __init__(self, book: Book, policy: PolicyConfig | None = None) -> None:
        self.book = book
        self.policy = policy or PolicyConfig()
        self.disk: Disk = {}
        self.away: set[PeerId] = set()
        self.said: list[Effect] = []
        self.executor = self.boots()

    def boots(self, config: CoordinationConfig = CONFIG) -> Executor:
        capacity = Resources(4000, 1 << 33, 1 << 33)
        bidder = Bidder(AuctionConfig(), self.policy, ("process",), capacity, {"arch": "arm64"})
        self.executor = executor_of(
            self.book.keyring(ME),
            config,
            bidder,
            lambda peer: peer not in self.away,
        )
        assert self.executor.restore(self.disk) == []
        return self.executor

    def does(self, effects: list[Effect]) -> list[Effect]:
        """Carry saves out; the rest is what is left to look at."""
        for effect in effects:
            if isinstance(effect, Save):
                for bucket, key, value in effect.rows:
                    rows = self.disk.setdefault(bucket, {})
                    if value is None:
                        del rows[key]
                    else:
                        rows[key] = value
        return [effect for effect in effects if not isinstance(effect, Save | Tell)]

    def award(
        self,
        of: Fence = FIRST,
        *slots: int,
        now: float = 0.0,
        holders: tuple[str, ...] = ("a", "b", "c"),
        auction: int = 1,
    ) -> list[Effect]:
        award = Award(
            auction,
            tuple(self.book.awarded(of, slot) for slot in slots or (0,)),
            self.book.spec_data,
            b"",
            tuple(PeerId(name) for name in holders),
        )
        return self.does(self.executor.awards.on_award(of.coordinator, award, at(now)))

    def end(
        self, code: int | None = 0, now: float = 1.0, of: Fence = FIRST, **more: object
    ) -> list[Effect]:
        event = replace(TaskEnded(self.key(of), code), **more)  # type: ignore[arg-type]
        return self.does(self.executor.lifecycle.on_ended(event, at(now)))

    def pass_(self, now: float) -> list[Effect]:
        effects = self.does(self.executor.on_deadline(at(now)))
        assert self.executor.deadline > now, "it wants to be woken for ever"
        return effects

    def key(self, of: Fence = FIRST, slot: int = 0) -> ExecutionId:
        return execution_id(self.book.revision, slot, of.term, of.coordinator, of.attempt)

    def state(self, of: Fence = FIRST, slot: int = 0) -> State:
        return self.executor.executions[self.key(of, slot)].state

    @property
    def used(self) -> Resources:
        return self.executor.reserved


def device(book: Book | None = None, policy: PolicyConfig | None = None) -> Device:
    return Device(book or Book(job_spec(Count=3)), policy)


def running(book: Book | None = None, now: float = 0.0) -> Device:
    it = device(book)
    it.award(now=now)
    it.executor.lifecycle.on_started(it.key(), at(now))
    return it


def publishing(book: Book | None = None) -> Device:
    it = running(book)
    it.said = it.does(it.executor.lifecycle.on_publishing(it.key(), at(1.0)))
    return it


def publishing_to_a_broker(**params: Plain) -> Device:
    publisher: Plain = {"Type": "mqtt", "Params": {"Broker": "home", **params}}
    it = device(Book(task_spec(Publisher=publisher)))
    it.executor.bidder.labels = BROKER
    return it


def keeping() -> Book:
    return Book(task_spec(3, Volumes=[{"Name": "data", "Target": "data"}]))


def boot(it: Device, *found: TaskFound, now: float = 100.0) -> list[Effect]:
    it.boots()
    return it.does(it.executor.boot(Booted(found), at(now)))


def offered(effects: list[Effect]) -> tuple[PeerId, Result]:
    (effect,) = effects
    assert isinstance(effect, Send)
    assert isinstance(effect.message, ResultOffer)
    result = open_sealed(effect.message.result, Book().keyring("me")).record
    assert isinstance(result, Result)
    return effect.peer, result


def renewals(effects: list[Effect]) -> list[tuple[PeerId, int]]:
    found = []
    for effect in effects:
        assert isinstance(effect, Send)
        assert isinstance(effect.message, Renew)
        found.append((effect.peer, len(effect.message.items)))
    return found


def ack(
    it: Device, status: str, by: PeerId = A, of: Fence = FIRST, hint: PeerId | None = None
) -> list[Effect]:
    message = ResultAck(it.book.id, 0, of, status, hint)
    return it.does(it.executor.delivery.on_result_ack(by, message))


def answer(
    it: Device,
    verdict: str,
    by: PeerId = A,
    of: Fence = FIRST,
    now: float = 0.0,
    hint: PeerId | None = None,
    holders: tuple[PeerId, ...] = (),
) -> list[Effect]:
    message = RenewAck((RenewAnswer(it.book.id, 0, of, verdict, hint, holders),))
    return it.does(it.executor.renewals.on_renew_ack(by, message, at(now)))


def withdraw(
    it: Device, of: Fence, by: PeerId = A, slot: int = 0, reason: str = ""
) -> list[Effect]:
    return it.does(
        it.executor.awards.on_withdraw(by, Withdraw(it.book.id, slot, of, reason), at(0.0))
    )
