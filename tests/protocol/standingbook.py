"""Records of standing jobs as peers would sign them, in few words; for tests."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.ids import JobId, job_id
from protocol.job import JobSpec
from protocol.records import Control, Desired, Role, Spec
from protocol.tree import Plain
from protocol.wire import Sealed, open_sealed, seal
from tests.protocol.fakes import FakeKeyring, FakeShoal

PROCESS: Plain = {"Type": "process", "Params": {"Command": ["collectd"]}}


def daemon(
    name: str = "collect", *, task: dict[str, Plain] | None = None, **more: Plain
) -> JobSpec:
    """A daemon; `task` adds to its one task, `more` to the job."""
    tasks: Plain = [{"Engine": PROCESS, **(task or {})}]
    return JobSpec.from_plain({"Name": name, "Type": "daemon", "Tasks": tasks, **more})


@dataclass
class StandingBook:
    """One standing job's records; each author gets its keys when first named."""

    name: str = "collect"
    namespace: str = "default"
    shoal: FakeShoal = field(default_factory=FakeShoal)

    @property
    def id(self) -> JobId:
        return job_id(self.shoal.id, self.namespace, "standing", self.name)

    def keyring(self, name: str, *roles: Role) -> FakeKeyring:
        return self.shoal.keyring(name, *roles)

    def opened(self, data: bytes) -> Sealed:
        return open_sealed(data, self.keyring("a"))

    def spec(self, by: str = "a", generation: int = 1, **more: Plain) -> bytes:
        """A generation of the daemon; `more` are fields of the job, so that its bytes differ."""
        return self.spec_of(daemon(self.name, **more).encode(), by, generation)

    def spec_of(
        self, body: bytes, by: str = "a", generation: int = 1, kind: str = "standing"
    ) -> bytes:
        record = Spec(
            job=job_id(self.shoal.id, self.namespace, kind, self.name),
            shoal=self.shoal.id,
            namespace=self.namespace,
            kind=kind,
            key=self.name,
            generation=generation,
            body=body,
        )
        return seal(record, self.keyring(by))

    def control(
        self,
        desired: Desired = Desired.STOPPED,
        number: int = 1,
        by: str = "a",
        generation: int = 1,
        key: str | None = None,
        shoal: str = "",
    ) -> bytes:
        record = Control(
            job=self.id,
            shoal=self.shoal.id if not shoal else type(self.shoal.id)(shoal),
            number=number,
            desired=desired,
            generation=generation,
            namespace=self.namespace,
            created_ms=0,
            key=self.name if key is None else key,
        )
        return seal(record, self.keyring(by))
