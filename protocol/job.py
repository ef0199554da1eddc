"""The job spec: a job file's meaning, checked, with one canonical form.

`JobSpec.from_plain` reads what people write (Bacalhau's job files, keys in any letter case),
`JobSpec.to_plain` writes the canonical tree that is hashed and signed: PascalCase keys, no floats,
cpu as millicores ("500m"), sizes in bytes, durations in whole seconds. What is empty is left out;
every other default is written down, so that a later version's defaults do not change a job that
was signed before. A field added later must be left out at its default for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, cast

import msgspec

from protocol.check import CheckSpec
from protocol.constraints import Constraint, read_constraints
from protocol.engine import ENGINES, EngineSpec, ProcessParams
from protocol.errors import JobSpecError
from protocol.inputs import InputSource
from protocol.jobtype import JobType
from protocol.moment import format_moment, parse_moment_s
from protocol.network import NetworkSpec
from protocol.publisher import PublisherSpec
from protocol.records import Heard
from protocol.resources import Resources
from protocol.retry import Disconnect, RetryOn, RetrySpec
from protocol.schedule import Schedule
from protocol.sources import ArchiveSource, InlineSource
from protocol.task import (
    META_MAX,
    META_VALUE_BYTES_MAX,
    ResultPath,
    TaskSpec,
    TimeoutsSpec,
)
from protocol.template import Parameter, filled, read_parameters, values_of
from protocol.topics import ROOT, asked_topic
from protocol.tree import NAME, NAME_ALLOWED, Fields, Node, Plain
from protocol.trigger import KEY_CHARS_MAX, Fired, MqttTrigger, Trigger, matches, task_with
from protocol.update import OnFailure, UpdateSpec
from protocol.volumes import why_none
from protocol.wire import dumps, load_plain

__all__ = [
    "ArchiveSource",
    "Constraint",
    "Disconnect",
    "EngineSpec",
    "InlineSource",
    "InputSource",
    "JobSpec",
    "JobType",
    "NetworkSpec",
    "OnFailure",
    "Plain",
    "ProcessParams",
    "PublisherSpec",
    "Resources",
    "ResultPath",
    "RetryOn",
    "RetrySpec",
    "Schedule",
    "TaskSpec",
    "TimeoutsSpec",
    "UpdateSpec",
]

SPEC_BYTES_MAX: Final = 64 * 1024
NAMESPACE_DEFAULT: Final = "default"
PRIORITY_MAX: Final = 100  # Nomad's range; Bacalhau has none, and zero as its default
COUNT_MAX: Final = 10_000  # the largest fleet the simulator is asked to hold
LABEL_VALUE_BYTES_MAX: Final = 256
_LAST_MOMENT_S: Final = 253_402_300_799  # the end of the year 9999

FIELDS: Final = (
    "Name",
    "Namespace",
    "Type",
    "Priority",
    "Count",
    "Constraints",
    "Meta",
    "Labels",
    "Retry",
    "Spread",
    "Disconnect",
    "NotAfter",
    "Update",
    "Schedule",
    "Parameters",
    "Trigger",
    "Fired",
    "Check",
    "Tasks",
)
OURS: Final = "is set by the agent; leave it out"
HINTS: Final = {
    "HealthyAfter": "belongs into Update; write Update: {HealthyAfter: 30s}",
    # what `bacalhau job describe` adds to a file
    **dict.fromkeys(("ID", "State", "Version", "Revision", "CreateTime", "ModifyTime"), OURS),
}


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a person wants to run, and where."""

    name: str
    namespace: str = NAMESPACE_DEFAULT
    type: JobType
    priority: int = 0  # the higher, the sooner
    count: int = 1  # slots; one where the type has none (ops, daemon)
    constraints: tuple[Constraint, ...] = ()
    meta: dict[str, str] = {}
    labels: dict[str, str] = {}
    retry: RetrySpec = RetrySpec()
    spread: bool = False  # slots on different peers: a service's default, nobody else's
    disconnect: Disconnect = Disconnect()
    not_after_s: int | None = None  # Unix time; when a job that does not end by itself expires
    update: UpdateSpec = UpdateSpec()
    schedule: Schedule | None = None  # with one, it is a standing record that fires others
    parameters: tuple[Parameter, ...] | None = None  # of a template, which runs nothing by itself
    trigger: Trigger | None = None  # of a template: what runs it by itself
    fired: Fired | None = None  # of a run: the message that fired it
    check: CheckSpec | None = None
    tasks: tuple[TaskSpec, ...]  # exactly one for now

    @classmethod
    def from_plain(cls, tree: Plain, engines: Sequence[str] = ENGINES) -> JobSpec:
        """Read a job; `engines` are those known here. Raises JobSpecError."""
        fields = Node(tree).fields(*FIELDS, later=HINTS)
        kind = _read_type(fields)
        task = _read_task(fields.need("Tasks"), engines, kind)
        schedule = fields.read("Schedule", lambda at: Schedule.read(at, kind), None)
        parameters = fields.read("Parameters", lambda at: _read_parameters(at, kind), None)
        trigger = fields.read("Trigger", lambda at: _read_trigger(at, kind, parameters), None)
        if trigger is not None and parameters is None:
            parameters = ()  # a template without blanks
        held = kind.standing or schedule is not None or parameters is not None
        if schedule is not None and parameters is not None:
            fields.need("Schedule").fail("a template has none: nobody would fill its blanks")
        spec = cls(
            name=_read_name(fields, held, task),
            namespace=fields.read(
                "Namespace", lambda at: at.matching(NAME, NAME_ALLOWED), NAMESPACE_DEFAULT
            ),
            type=kind,
            priority=fields.read("Priority", lambda at: at.integer(0, PRIORITY_MAX), 0),
            count=fields.read("Count", lambda at: _read_count(at, kind), 1),
            constraints=fields.read("Constraints", read_constraints, ()),
            meta=fields.read("Meta", lambda at: at.words(META_MAX, META_VALUE_BYTES_MAX), {}),
            labels=fields.read("Labels", lambda at: at.words(META_MAX, LABEL_VALUE_BYTES_MAX), {}),
            retry=RetrySpec.read(fields.get("Retry"), kind),
            spread=_read_spread(fields.get("Spread"), kind),
            disconnect=fields.read(
                "Disconnect", lambda at: Disconnect.read(at, kind), Disconnect()
            ),
            not_after_s=fields.read("NotAfter", lambda at: _read_not_after_s(at, kind, held), None),
            update=fields.read("Update", lambda at: UpdateSpec.read(at, kind), UpdateSpec()),
            schedule=schedule,
            parameters=parameters,
            trigger=trigger,
            fired=fields.read("Fired", lambda at: _read_fired(at, kind, held), None),
            check=fields.read("Check", lambda at: _read_check(at, kind, task), None),
            tasks=(task,),
        )
        spec.check_blanks()
        spec.check_published()
        spec.check_trigger()
        spec.check_size()
        fired = schedule is not None or parameters is not None
        if task.volumes and (reason := why_none(kind, fired)):
            raise JobSpecError("Tasks[0].Volumes", reason)
        return spec

    def to_plain(self) -> dict[str, Plain]:
        """The canonical tree: from_plain gives this very spec back."""
        tree: dict[str, Plain] = {
            "Name": self.name,
            "Namespace": self.namespace,
            "Type": self.type.value,
            "Priority": self.priority,
            "Tasks": [task.to_plain() for task in self.tasks],
        }
        if self.type.counted:
            tree["Count"] = self.count
        if self.type is JobType.SERVICE:
            tree["Spread"] = self.spread
        parts: dict[str, Plain] = {
            "Constraints": [constraint.to_plain() for constraint in self.constraints],
            "Meta": {**self.meta},
            "Labels": {**self.labels},
            "Retry": self.retry.to_plain(self.type),
            "Disconnect": self.disconnect.to_plain(),
            "NotAfter": "" if self.not_after_s is None else format_moment(self.not_after_s),
            "Update": self.update.to_plain(),
            "Schedule": None if self.schedule is None else self.schedule.to_plain(),
            "Check": {} if self.check is None else self.check.to_plain(),
            "Trigger": None if self.trigger is None else self.trigger.to_plain(),
            "Fired": None if self.fired is None else self.fired.to_plain(),
        }
        if self.parameters is not None:  # none at all is still a template
            tree["Parameters"] = [parameter.to_plain() for parameter in self.parameters]
        return tree | {key: part for key, part in parts.items() if part}

    @property
    def standing(self) -> bool:
        """Whether it is a record that every peer holds; otherwise a one-off job."""
        return self.type.standing or self.schedule is not None or self.parameters is not None

    @property
    def one_off(self) -> JobSpec:
        """What a schedule or template makes: the same job, for one time."""
        return msgspec.structs.replace(
            self, schedule=None, parameters=None, trigger=None, not_after_s=None
        )

    def filled(self, values: Mapping[str, str], engines: Sequence[str] = ENGINES) -> JobSpec:
        """A template's job with its blanks filled, read again as any other. Raises JobSpecError."""
        return JobSpec.from_plain(self._filled(values), engines)

    def _filled(self, values: Mapping[str, str]) -> dict[str, Plain]:
        tasks = [
            filled(task.to_plain(), values, f"Tasks[{index}]")
            for index, task in enumerate(self.tasks)
        ]
        return {**self.one_off.to_plain(), "Tasks": cast("list[Plain]", tasks)}

    def filled_by(self, message: Heard, key: str, engines: Sequence[str] = ENGINES) -> JobSpec:
        """A template's job for a message that its trigger has heard. Raises JobSpecError."""
        assert self.parameters is not None and self.trigger is not None, self.name
        tree = self._filled(values_of(self.parameters, {}))
        fired = self.trigger.fired(message, key)
        tasks = cast("list[dict[str, Plain]]", tree["Tasks"])
        given: list[Plain] = [task_with(task, fired, message) for task in tasks]
        return JobSpec.from_plain({**tree, "Tasks": given, "Fired": fired.to_plain()}, engines)

    def check_blanks(self) -> None:
        """Every blank of a template is one of its parameters. Raises JobSpecError."""
        if self.parameters is not None:
            names = {parameter.name: "" for parameter in self.parameters}
            for index, task in enumerate(self.tasks):
                filled(task.to_plain(), names, f"Tasks[{index}]")

    def check_published(self) -> None:
        """No two slots publish to one place: the last would be left. Raises JobSpecError."""
        target = self.task.publisher.s3
        if target is None or "{executionID}" in target.key:
            return
        several = self.count > 1 or self.type is JobType.OPS
        if several and not (self.type is JobType.OPS and "{nodeID}" in target.key):
            raise JobSpecError(
                "Tasks[0].Publisher.Params.Key",
                "its slots would overwrite each other's results; put {executionID} into it",
            )

    def check_trigger(self) -> None:
        """Whatever message comes, there is a run of it, and it fits. Raises JobSpecError."""
        if self.trigger is not None:
            self._check_circle(self.trigger.mqtt)
            try:
                self.filled_by(self.trigger.mqtt.longest(), "x" * KEY_CHARS_MAX)
            except JobSpecError as error:
                where = f"{error.path}: " if error.path else ""
                text = f"a run with the longest message it takes: {where}{error.message}"
                raise JobSpecError("Trigger", text) from None

    def _check_circle(self, mqtt: MqttTrigger) -> None:
        """No template runs itself without end. Of the shoal's own topics none runs anything.
        Raises JobSpecError."""
        publisher = self.task.publisher.mqtt
        if publisher is None or publisher.broker != mqtt.broker:
            return
        topic = asked_topic(publisher, self.name, self.namespace)
        if topic and not topic.startswith(ROOT) and matches(mqtt.topic, topic):
            text = f"its results are among those of {mqtt.topic}, which run it again"
            text = f"{text}; publish elsewhere"
            raise JobSpecError("Tasks[0].Publisher.Params.Topic", text)

    def check_size(self) -> None:
        """Each field has its bound; this one is on all of them together. Raises JobSpecError.

        As many items as peers take no more of, or as deep, are more than the fields have room for.
        """
        body = self.encode()
        if len(body) > SPEC_BYTES_MAX:
            message = (
                f"{len(body)} bytes as a record; allowed: {SPEC_BYTES_MAX}; ship files instead"
            )
            raise JobSpecError("", message)

    @property
    def task(self) -> TaskSpec:
        return self.tasks[0]

    def encode(self) -> bytes:
        """Canonical CBOR: the `body` of a spec record."""
        return dumps(self.to_plain())

    @classmethod
    def decode(cls, body: bytes, engines: Sequence[str] = ENGINES) -> JobSpec:
        """Read a spec record's `body`. Raises RemoteProtocolError or JobSpecError."""
        return _decode(body, tuple(engines))


@lru_cache(maxsize=64)  # a job's holder and executor read one spec several times, 0.4 ms each
def _decode(body: bytes, engines: tuple[str, ...]) -> JobSpec:
    tree = load_plain(body, SPEC_BYTES_MAX)
    return JobSpec.from_plain(cast("Plain", tree), engines)  # bytes are refused where they stand


def _read_type(fields: Fields) -> JobType:
    at = fields.get("Type")
    if at is None:
        raise JobSpecError("Type", f"missing; allowed: {', '.join(JobType)}")
    return JobType(at.choice(tuple(JobType), "a job type"))


def _read_name(fields: Fields, held: bool, task: TaskSpec) -> str:
    """A standing job is known by its name; for a one-off job it is a label, its task's if none."""
    if held:
        return fields.need("Name").matching(NAME, NAME_ALLOWED)
    return fields.read("Name", lambda at: at.matching(NAME, NAME_ALLOWED), task.name)


def _read_count(node: Node, kind: JobType) -> int:
    """Bacalhau: zero stops a batch or service job, and says nothing for the other two."""
    if not kind.counted:
        if node.value not in (0, 1) or isinstance(node.value, bool):
            node.fail(f"{kind.noun} runs on every peer that matches; leave Count out")
        return 1
    if node.value == 0 and not isinstance(node.value, bool):
        node.fail(f"0 slots; allowed: 1 to {COUNT_MAX}; to end a job: shoal job stop NAME")
    return node.integer(1, COUNT_MAX)


def _read_check(node: Node, kind: JobType, task: TaskSpec) -> CheckSpec:
    check = CheckSpec.read(node, kind)
    if check.command and task.engine.type == "wasm":
        # It would run on the device itself: the owner may have allowed modules, and no processes.
        node.fail("there is no command to run within a WebAssembly module; write Http or Tcp")
    return check


def _read_spread(node: Node | None, kind: JobType) -> bool:
    if node is None:
        return kind is JobType.SERVICE
    if kind is not JobType.SERVICE:
        node.fail("only a service has Spread; leave it out")
    return node.flag()


def _read_parameters(node: Node, kind: JobType) -> tuple[Parameter, ...]:
    if kind is not JobType.BATCH:
        node.fail(f"only a batch job is a template; {kind.noun} is not")
    return read_parameters(node)


def _read_trigger(node: Node, kind: JobType, parameters: tuple[Parameter, ...] | None) -> Trigger:
    if kind is not JobType.BATCH:
        node.fail(f"only a batch job is a template, which a trigger runs; {kind.noun} is not")
    for parameter in parameters or ():
        if parameter.default is None:
            node.fail(f"parameter {parameter.name} needs a Default: no message fills it")
    return Trigger.read(node)


def _read_fired(node: Node, kind: JobType, held: bool) -> Fired:
    if kind is not JobType.BATCH or held:
        node.fail(OURS)
    return Fired.read(node)


def _read_not_after_s(node: Node, kind: JobType, held: bool) -> int:
    if kind is JobType.BATCH and not held:
        node.fail("a batch job ends by itself; leave NotAfter out, see Timeouts")
    return node.quantity(parse_moment_s, 0, _LAST_MOMENT_S, format_moment)


def _read_task(node: Node, engines: Sequence[str], kind: JobType) -> TaskSpec:
    items = node.items(16)
    if len(items) != 1:
        node.fail(f"{len(items)} tasks; allowed: exactly one (several come in a later version)")
    return TaskSpec.read(items[0], engines, standing=kind.standing)
