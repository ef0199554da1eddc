"""Derived jobs: one spec from one source and trigger, in the author's name, and nothing else."""

from __future__ import annotations

import pytest

from protocol.authority import verified_spec
from protocol.derived import derive, heard_by, open_spec, slot_of, slot_trigger, source_of
from protocol.errors import JobSpecError, RemoteProtocolError
from protocol.ids import PeerId, ShoalId
from protocol.job import JobSpec
from protocol.records import Derived, Heard, Role, Spec
from protocol.tree import Plain
from protocol.wire import Sealed, seal
from tests.protocol.fakes import FakeKeyring, FakeShoal
from tests.protocol.schedulenet import ops_schedule, schedule
from tests.protocol.standingbook import StandingBook, daemon
from tests.protocol.test_template import template
from tests.protocol.test_trigger import mqtt, triggered

SHOAL = FakeShoal()
A, B = SHOAL.keyring("a"), SHOAL.keyring("b")
WORKER = SHOAL.keyring("w", Role.COMPUTE)
OPERATOR = SHOAL.keyring("o", Role.COMPUTE, Role.OPERATE)


def source(spec: JobSpec, by: str = "a", generation: int = 3, **more: str) -> bytes:
    name = spec.name if spec.parameters is None else f"template/{spec.name}"
    return StandingBook(name, shoal=SHOAL).spec_of(spec.encode(), by, generation, **more)


def spec_in(sealed: Sealed) -> Spec:
    assert isinstance(sealed.record, Spec)
    return sealed.record


def forged(keyring: FakeKeyring, data: bytes, trigger: str, **inputs: str) -> bytes:
    return seal(Derived(shoal=SHOAL.id, source=data, trigger=trigger, inputs=inputs), keyring)


def test_whoever_fires_it_one_job_of_one_revision_comes_out() -> None:
    one = derive(source(schedule()), "1800000000", {}, A)
    other = derive(source(schedule()), "1800000000", {}, B)
    assert one.body == other.body and one.data != other.data
    assert one.author == other.author == "a"
    assert verified_spec(other.data, A).body == one.body


def test_the_same_source_signed_by_another_peer_gives_the_same_revision() -> None:
    one = derive(source(schedule()), "1800000000", {}, A)
    other = derive(source(schedule(), by="b"), "1800000000", {}, A)
    assert one.body == other.body and other.author == "b"


def test_it_is_the_sources_job_for_one_time() -> None:
    spec = spec_in(derive(source(schedule(Count=2)), "60", {}, A))
    assert JobSpec.decode(spec.body) == schedule(Count=2).one_off
    assert (spec.kind, spec.generation) == ("derived", 3)
    assert source_of(spec) == StandingBook("backup", shoal=SHOAL).id
    assert slot_of(spec) == 60


def test_each_peers_own_is_pinned_to_it() -> None:
    trigger = slot_trigger(60, PeerId("w"))
    spec = spec_in(derive(source(schedule(Scope="each", Count=3)), trigger, {}, WORKER))
    job = JobSpec.decode(spec.body)
    assert job.count == 1
    assert [str(each) for each in job.constraints] == ["shoal/peer=w"]
    assert slot_of(spec) == 60


def test_an_ops_jobs_own_run_has_that_one_peer_for_its_list() -> None:
    spec = spec_in(derive(source(ops_schedule(Scope="each")), "60/w", {}, WORKER))
    job = JobSpec.decode(spec.body)
    assert job.type == "ops" and "Count" not in job.to_plain()
    assert [str(each) for each in job.constraints] == ["shoal/peer=w"]


def test_a_run_of_an_ops_job_is_of_all_that_match_and_never_open() -> None:
    spec = ops_schedule(on=("a", "b"), NotAfter="2031-01-01T00:00:00Z")
    job = JobSpec.decode(spec_in(derive(source(spec), "60", {}, B)).body)
    assert job == spec.one_off and job.not_after_s is None


def test_a_templates_run_is_filled_by_its_inputs() -> None:
    spec = spec_in(derive(source(template()), "k", {"what": "x"}, A))
    assert JobSpec.decode(spec.body).task.engine.params["Command"][1] == "x"
    assert slot_of(spec) == 0
    with pytest.raises(JobSpecError, match="missing parameter what"):
        derive(source(template()), "k", {}, A)


# ---- for a message -----------------------------------------------------------------------------

HEARD = Heard("home/porch/motion", b"ON", "answers", b"7")


def message_run(message: Heard = HEARD, by: FakeKeyring = A, **fields: Plain) -> Sealed:
    data = source(triggered({"Mqtt": mqtt(**fields)}))
    return derive(data, "k", {}, by, message)


def test_a_message_is_one_job_whoever_hears_it() -> None:
    one, other = message_run(), message_run(by=B)
    assert one.body == other.body and one.data != other.data and one.author == "a"
    job = JobSpec.decode(spec_in(one).body)
    assert job.fired is not None and job.fired.environment["SHOAL_TRIGGER_ID"] == "k"
    assert verified_spec(other.data, A).body == one.body


def test_where_the_answer_goes_is_no_part_of_the_job_and_travels_with_it() -> None:
    silent = message_run(Heard(HEARD.topic, HEARD.payload))
    assert silent.body == message_run().body
    assert heard_by(message_run(by=B).data) == ("b", HEARD)
    assert heard_by(derive(source(template()), "k", {"what": "x"}, A).data) is None


def test_another_payload_or_topic_is_another_revision() -> None:
    bodies = {
        message_run(Heard(topic, payload)).body
        for topic in ("home/porch/motion", "home/attic/motion")
        for payload in (b"ON", b"OFF")
    }
    assert len(bodies) == 4


def test_a_person_runs_it_without_a_message() -> None:
    job = JobSpec.decode(spec_in(derive(source(triggered()), "k", {"camera": "x"}, A)).body)
    assert job.fired is None and job.task.input_sources == ()


@pytest.mark.parametrize("payload", [b"\xff", b"\0"])
def test_what_no_variable_holds_is_nobodys_run(payload: bytes) -> None:
    with pytest.raises(JobSpecError):
        message_run(Heard(HEARD.topic, payload), Input="env")
    data = source(triggered({"Mqtt": mqtt(Input="env")}))
    message = Heard(HEARD.topic, payload)
    record = Derived(shoal=SHOAL.id, source=data, trigger="k", message=message)
    with pytest.raises(RemoteProtocolError, match="not a run of its source"):
        open_spec(seal(record, A), A)


@pytest.mark.parametrize(
    ("spec", "message", "by", "inputs"),
    [
        (triggered(), Heard("home/porch/door", b""), A, {}),
        (triggered(), Heard(HEARD.topic, b"x" * 16385), A, {}),
        (triggered(), HEARD, A, {"camera": "x"}),
        (triggered(), HEARD, WORKER, {}),
        (template(), HEARD, A, {}),
        (schedule(), HEARD, A, {}),
    ],
)
def test_no_other_message_runs_it(
    spec: JobSpec, message: Heard, by: FakeKeyring, inputs: dict[str, str]
) -> None:
    data = source(spec)
    record = Derived(shoal=SHOAL.id, source=data, trigger="60", inputs=inputs, message=message)
    with pytest.raises(RemoteProtocolError):
        open_spec(seal(record, by), A)


def test_other_specs_have_no_source_and_open_as_they_are() -> None:
    book = StandingBook(shoal=SHOAL)
    assert source_of(spec_in(open_spec(book.spec(), A))) is None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (forged(A, source(schedule()), "soon"), "does not have"),
        (forged(A, source(schedule()), "060"), "does not have"),
        (forged(A, source(schedule()), "60/a"), "another scope"),
        (forged(A, source(schedule(Scope="each")), "60"), "another scope"),
        (forged(A, source(schedule()), "60", what="x"), "does not have"),
        (forged(A, source(daemon("backup")), "60"), "does not have"),
        (forged(A, source(template()), ""), "too short"),
        (forged(A, source(template()), "k", whom="x"), "unknown parameter"),
        (forged(A, source(schedule(), kind="one-off"), "60"), "has runs"),
        (forged(WORKER, source(schedule()), "60"), "w may not fire"),
        (forged(WORKER, source(ops_schedule()), "60"), "w may not fire"),
        (forged(WORKER, source(ops_schedule(Scope="each")), "60/a"), "w may not fire"),
        (forged(WORKER, source(schedule(Scope="each")), "60/a"), "w may not fire"),
        (forged(WORKER, source(template()), "60/w", what="x"), "w may not fire"),
        (forged(A, source(schedule()).replace(b"true", b"evil"), "60"), "bad signature"),
        (forged(A, A.certificate, "60"), "has runs"),
        (
            seal(Derived(shoal=ShoalId("other"), source=source(schedule()), trigger="60"), A),
            "another shoal",
        ),
    ],
)
def test_what_its_source_does_not_give_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        open_spec(data, A)


@pytest.mark.parametrize("spec", [schedule(), ops_schedule()], ids=["batch", "ops"])
@pytest.mark.parametrize("by", ["w", "o"])
def test_a_source_whose_author_may_not_submit_gives_nothing(spec: JobSpec, by: str) -> None:
    book = StandingBook("backup", shoal=SHOAL)
    data = book.spec_of(spec.encode(), by=by)
    with pytest.raises(RemoteProtocolError, match="may not submit"):
        verified_spec(forged(A, data, "60"), A)


def test_a_source_whose_id_its_name_does_not_give_is_refused() -> None:
    good = open_spec(source(schedule()), A).record
    assert isinstance(good, Spec)
    bad = Spec(
        job=good.job, shoal=good.shoal, namespace=good.namespace, kind=good.kind,
        key="other", generation=1, body=good.body,
    )  # fmt: skip
    with pytest.raises(RemoteProtocolError, match="its key does not give"):
        open_spec(forged(A, seal(bad, A), "60"), A)
