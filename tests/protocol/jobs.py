"""Jobs and their records as peers would sign them, in few words; for tests."""

from __future__ import annotations

from protocol.clock import Now
from protocol.heldjob import HeldJob
from protocol.ids import JobId, PeerId, job_id, revision_of
from protocol.job import JobSpec
from protocol.messages import JobSync, SlotState
from protocol.records import (
    Acceptance,
    Assignment,
    Control,
    Desired,
    Fence,
    Record,
    Result,
    Role,
    Spec,
    Verdict,
)
from protocol.tree import Plain
from protocol.wire import Sealed, open_sealed, seal
from tests.protocol.fakes import FakeKeyring, FakeShoal

WALL = 1_800_000_000.0
WALL_MS = 1_800_000_000_000


def at(mono: float) -> Now:
    """A moment; the wall clock runs along."""
    return Now(mono, WALL + mono)


def fence(term: int, coordinator: str, attempt: int) -> Fence:
    return Fence(term, PeerId(coordinator), attempt)


def job_spec(**fields: Plain) -> JobSpec:
    """A batch job that runs `true`; `fields` of the file come on top."""
    task: Plain = {"Engine": {"Type": "process", "Params": {"Command": ["true"]}}}
    return JobSpec.from_plain({"Name": "job", "Type": "batch", "Tasks": [task], **fields})


def task_spec(count: int = 1, **task: Plain) -> JobSpec:
    """As job_spec, with fields of its one task."""
    engine: Plain = {"Type": "process", "Params": {"Command": ["true"]}}
    return job_spec(Count=count, Tasks=[{"Engine": engine, **task}])


class Book:
    """One job's records; who signs is named by each call, and gets its keys when first named."""

    def __init__(
        self,
        spec: JobSpec | None = None,
        key: str = "key",
        author: str = "author",
        namespace: str = "default",
        shoal: FakeShoal | None = None,
    ) -> None:
        self.shoal = shoal or FakeShoal()
        self.author = author
        self.job = spec or job_spec()
        body = self.job.encode()
        self.id: JobId = job_id(self.shoal.id, namespace, "one-off", key)
        self.spec = Spec(
            job=self.id,
            shoal=self.shoal.id,
            namespace=namespace,
            kind="one-off",
            key=key,
            generation=1,
            body=body,
        )
        self.spec_data = self.specified(author)
        self.revision = revision_of(self.sealed.body)

    @property
    def sealed(self) -> Sealed:
        return open_sealed(self.spec_data, self.keyring(self.author))

    def keyring(self, name: str, *roles: Role, namespaces: tuple[str, ...] = ("*",)) -> FakeKeyring:
        return self.shoal.keyring(name, *roles, namespaces=namespaces)

    def sign(self, record: Record, name: str) -> bytes:
        return seal(record, self.keyring(name))

    def specified(self, author: str) -> bytes:
        return self.sign(self.spec, author)

    def assignment(self, of: Fence, slot: int = 0, executor: str = "executor") -> Assignment:
        return Assignment(
            job=self.id,
            revision=self.revision,
            slot=slot,
            fence=of,
            executor=PeerId(executor),
            lease_ms=15_000,
        )

    def awarded(self, of: Fence, slot: int = 0, executor: str = "executor") -> bytes:
        return self.sign(self.assignment(of, slot, executor), of.coordinator)

    def result(
        self,
        of: Fence,
        verdict: Verdict = Verdict.SUCCESS,
        slot: int = 0,
        executor: str = "executor",
        ended_ms: int = WALL_MS,
    ) -> Result:
        codes = {Verdict.SUCCESS: 0, Verdict.FAILURE: 3}
        return Result(
            job=self.id,
            revision=self.revision,
            slot=slot,
            fence=of,
            executor=PeerId(executor),
            verdict=verdict,
            exit_code=codes.get(verdict, -1),
            reason="",
            started_ms=ended_ms - 1000,
            ended_ms=ended_ms,
            duration_ms=1000,
        )

    def resulted(self, of: Fence, verdict: Verdict = Verdict.SUCCESS, slot: int = 0) -> bytes:
        return self.sign(self.result(of, verdict, slot), "executor")

    def acceptance(
        self, of: Fence, verdict: Verdict = Verdict.SUCCESS, slot: int = 0, result: bytes = b""
    ) -> Acceptance:
        return Acceptance(
            job=self.id,
            revision=self.revision,
            slot=slot,
            fence=of,
            verdict=verdict,
            result=result,
        )

    def accepted(
        self, of: Fence, verdict: Verdict = Verdict.SUCCESS, slot: int = 0, by: str = ""
    ) -> bytes:
        """A choice of a result; `by` its fence's coordinator unless another is named."""
        bare = verdict is Verdict.STOPPED
        result = b"" if bare else self.resulted(of, verdict, slot)
        return self.sign(self.acceptance(of, verdict, slot, result), by or of.coordinator)

    def controlled(
        self, by: str, number: int = 1, desired: Desired = Desired.STOPPED, job: JobId | None = None
    ) -> bytes:
        record = Control(
            job=job or self.id,
            shoal=self.shoal.id,
            number=number,
            desired=desired,
            generation=1,
            namespace=self.spec.namespace,
            created_ms=0,
        )
        return self.sign(record, by)

    def held(self, coordinator: str = "a", *standbys: str, term: int = 1) -> HeldJob:
        holders = tuple(PeerId(name) for name in (coordinator, *standbys))
        return HeldJob.create(self.sealed, PeerId(coordinator), term, WALL_MS, holders)

    def sync(
        self,
        *slots: SlotState,
        seq: int = 1,
        spec: bytes | None = None,
        control: bytes = b"",
        term: int = 1,
        coordinator: str = "a",
        accepted_ms: int = WALL_MS,
        holders: tuple[str, ...] = ("a",),
        fingerprint: bytes = b"",
    ) -> JobSync:
        return JobSync(
            seq,
            self.id,
            self.spec_data if spec is None else spec,
            control,
            term,
            PeerId(coordinator),
            accepted_ms,
            slots,
            tuple(PeerId(name) for name in holders),
            fingerprint,
        )
