"""The golden vectors, wire.cddl and the code say the same of every message and record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cddl_verifier import Validator, schema_diagnostics

from protocol import foreign, ids
from protocol.derived import open_spec
from protocol.errors import RemoteProtocolError
from protocol.job import JobSpec
from protocol.wire import (
    RECORD_BYTES_MAX,
    decode_as,
    decode_message,
    decode_record,
    dumps,
    encode_message,
    encode_record,
    loads,
    open_sealed,
)
from tests.vectors import earlier, extremes, generate, keys, kinds, samples
from tests.vectors.earlier import decode
from tests.vectors.notation import from_fields, to_fields

HERE = Path(__file__).parent
CDDL = HERE.parent.parent / "protocol" / "wire.cddl"
FAMILIES = (*samples.TYPICAL, "parts")

Vector = dict[str, Any]


def read(family: str) -> list[Vector]:
    return json.loads((HERE / f"{family}.json").read_text())  # type: ignore[no-any-return]


STRUCTS = [pytest.param(each, id=each["name"]) for family in FAMILIES for each in read(family)]
BODIES = [pytest.param(each, id=each["name"]) for each in read("job")]
ENVELOPES = [pytest.param(each, id=each["name"]) for each in read("envelopes")]
FORGERIES = [pytest.param(each, id=each["name"]) for each in read("forgeries")]
REFUSALS = [pytest.param(each, id=each["name"]) for each in read("refusals")]


RUNS = [pytest.param(each, id=each["name"]) for each in read("runs")]


@pytest.fixture(scope="module")
def cddl() -> Validator:
    return Validator(CDDL)


@pytest.mark.parametrize("vector", RUNS)
def test_a_run_gives_the_spec_that_its_source_was_signed_for(vector: Vector) -> None:
    sealed = open_spec(bytes.fromhex(vector["hex"]), keys.PEER)
    assert sealed.body.hex() == vector["body"]
    assert sealed.author == vector["author"]
    assert to_fields(sealed.record) == vector["spec"]


# ---- each vector ------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", STRUCTS)
def test_fields_encode_to_exactly_these_bytes(vector: Vector) -> None:
    value = from_fields(kinds.BY_NAME[vector["kind"]], vector["fields"])
    data = encode_record(value) if type(value) in kinds.RECORDS else encode_message(value)  # type: ignore[arg-type]
    assert (data.hex() == vector["hex"]) is not vector.get("decode_only", False)


@pytest.mark.parametrize("vector", STRUCTS)
def test_bytes_decode_to_exactly_these_fields(vector: Vector) -> None:
    value = decode(kinds.BY_NAME[vector["kind"]], bytes.fromhex(vector["hex"]))
    assert type(value).__name__ == vector["kind"]
    assert to_fields(value) == vector["fields"]


@pytest.mark.parametrize("vector", [*STRUCTS, *BODIES, *ENVELOPES])
def test_bytes_are_what_the_cddl_says(cddl: Validator, vector: Vector) -> None:
    result = cddl.validate(bytes.fromhex(vector["hex"]), root_type=vector["rule"])
    assert result, result.errors


@pytest.mark.parametrize("vector", STRUCTS)
def test_one_required_field_less_is_refused_by_the_cddl_and_by_the_code(
    cddl: Validator, vector: Vector
) -> None:
    kind = kinds.BY_NAME[vector["kind"]]
    items = loads(bytes.fromhex(vector["hex"]))
    assert isinstance(items, list)
    tagged = kind.__struct_config__.tag is not None
    required = len(kind.__struct_fields__) - kinds.optional_of(kind) + tagged
    if not required:  # facts: all of it may be absent
        assert decode(kind, dumps([])) == kind()
        return
    data = dumps(items[: required - 1])
    assert not cddl.validate(data, root_type=vector["rule"])
    with pytest.raises(RemoteProtocolError):
        decode(kind, data)


@pytest.mark.parametrize("vector", [each for each in STRUCTS if ".typical" in str(each.id)])
def test_the_cddl_and_the_code_refuse_the_same_fields(cddl: Validator, vector: Vector) -> None:
    kind = kinds.BY_NAME[vector["kind"]]
    items = loads(bytes.fromhex(vector["hex"]))
    assert isinstance(items, list)
    first = len(items) - len(kind.__struct_fields__)  # behind the kind's number, where there is one
    strange = (-(2**63), 2**63, {"a": []}, "\0" * 5000, [[]], True, False, None)
    changes = [(index, each) for index in range(len(kind.__struct_fields__)) for each in strange]
    for index, value in (*changes, *extremes.edges(kind)):
        at = first + index
        data = dumps([*items[:at], value, *items[at + 1 :]])
        said = bool(cddl.validate(data, root_type=vector["rule"]))
        assert accepts(kind, data) == said, (kind.__struct_fields__[index], value)


def accepts(kind: type[msgspec.Struct], data: bytes) -> bool:
    try:
        decode(kind, data)
    except RemoteProtocolError:
        return False
    return True


@pytest.mark.parametrize("vector", BODIES)
def test_a_job_body_is_read_and_written_back(vector: Vector) -> None:
    spec = JobSpec.decode(bytes.fromhex(vector["hex"]))
    assert spec.to_plain() == vector["fields"]
    again = JobSpec.from_plain(vector["fields"])
    assert again.encode().hex() == vector["hex"]


@pytest.mark.parametrize("vector", ENVELOPES)
def test_an_envelope_opens_to_its_record(vector: Vector) -> None:
    data = bytes.fromhex(vector["hex"])
    assert dumps(loads(data)) == data
    assert to_fields(decode_as(data, kinds.BY_NAME["Envelope"])) == vector["fields"]
    sealed = open_sealed(data, keys.PEER)
    assert type(sealed.record).__name__ == vector["record"]
    assert to_fields(sealed.record) == vector["opened"]
    assert sealed.data == data
    assert sealed.author == vector["fields"]["author"]
    assert (sealed.certificate is None) == (sealed.author == keys.SHOAL)


@pytest.mark.parametrize("vector", FORGERIES)
def test_a_forgery_does_not_open(vector: Vector) -> None:
    data = bytes.fromhex(vector["hex"])
    loads(data, RECORD_BYTES_MAX)  # it is well formed: what is wrong is said in `why`
    with pytest.raises(RemoteProtocolError):
        open_sealed(data, keys.PEER)


@pytest.mark.parametrize("vector", REFUSALS)
def test_bytes_out_of_form_are_refused(vector: Vector) -> None:
    data = bytes.fromhex(vector["hex"])
    for read_any in (loads, decode_message, decode_record):
        with pytest.raises(RemoteProtocolError):
            read_any(data)


def test_ids_are_derived_as_written() -> None:
    found = {vector["name"]: (vector["of"], vector["is"]) for vector in read("ids")}
    for name in ("job-id", "job-id-not-ascii"):
        of, expected = found[name]
        assert ids.job_id(*of) == expected
    of, expected = found["revision"]
    assert ids.revision_of(bytes.fromhex(of[0])) == expected
    of, expected = found["foreign"]
    assert foreign.name_of(bytes.fromhex(of[0])) == expected
    of, expected = found["execution-id"]
    assert ids.execution_id(*of) == expected
    for name in ("rendezvous", "rendezvous-empty"):
        of, expected = found[name]
        assert ids.rendezvous(*of) == expected
    of, expected = found["peer-id"]
    assert [keys.IdentityKeyring(bytes.fromhex(seed)).peer for seed in of] == expected


# ---- all of them together ---------------------------------------------------------------------


def test_the_files_are_what_generate_writes() -> None:
    for name, text in generate.build().items():
        assert (HERE / name).read_text() == text, f"{name}: python -m tests.vectors.generate"
    written = {path.name for path in HERE.glob("*.json")}
    others = ("envelopes", *earlier.UNCHANGING, "earlier")
    assert written == {f"{family}.json" for family in (*FAMILIES, *others)}


def test_every_kind_has_vectors() -> None:
    seen = {each["kind"] for family in (*FAMILIES, "envelopes") for each in read(family)}
    assert seen == set(kinds.BY_NAME)


def test_every_kind_has_its_own_number() -> None:
    for group in (kinds.RECORDS, (*kinds.MESSAGES, *kinds.STREAMS)):
        tags = [kind.__struct_config__.tag for kind in group]
        assert len(tags) == len(set(tags))


def test_the_cddl_is_well_formed() -> None:
    assert schema_diagnostics(CDDL) == ()


@pytest.mark.parametrize("kind", kinds.BY_NAME.values(), ids=list(kinds.BY_NAME))
def test_the_cddl_names_the_fields_of_each_kind(kind: type[msgspec.Struct]) -> None:
    """In order, with the kind's number first, and optional exactly where there is a default."""
    text = CDDL.read_text()
    start = text.index(f"\n{kinds.rule_of(kind)} = [") + 1
    lines = [
        line.split(";")[0].strip() for line in text[start : text.index("\n]", start)].split("\n")
    ]
    tag = kind.__struct_config__.tag
    if tag is not None:
        assert lines[1] == f"{tag},"
    declared = [line for line in lines[1:] if ":" in line]
    names = [line.removeprefix("? ( ").split(":")[0] for line in declared]
    assert tuple(names) == kind.__struct_fields__
    optional = [line.startswith("? ( ") for line in declared]
    required = len(names) - kinds.optional_of(kind)
    assert optional == [index >= required for index in range(len(names))]
    grows = any(line.startswith("* any") for line in lines)
    assert grows is not kind.__struct_config__.forbid_unknown_fields


def test_kinds_are_only_ever_added_to() -> None:
    assert kinds.broken_promises(kinds.frozen(), kinds.current()) == []
    assert kinds.frozen() == kinds.current(), "python -m tests.vectors.generate"


def test_a_broken_promise_is_noticed() -> None:
    before = ["record 1 A: x y z?", "frame 1 B: x", "code - C: ONE=1"]
    assert kinds.broken_promises(before, [*before, "frame 2 D: x"]) == []
    for line, now in (
        (0, "record 1 A: x y z? more?"),
        (1, "frame 1 B: x y?"),
    ):
        assert kinds.broken_promises(before, [*before[:line], now, *before[line + 1 :]]) == []
    for line, now in (
        (0, "record 1 A: x y"),
        (0, "record 1 A: y x z?"),
        (0, "record 1 A: x y z"),
        (0, "record 1 A: x y z? more"),
        (0, "record 2 A: x y z?"),
        (0, "record 1 Other: x y z?"),
        (1, "frame 1 B: "),
        (2, "code - C: ONE=1 TWO=2"),
    ):
        after = [*before[:line], now, *before[line + 1 :]]
        assert kinds.broken_promises(before, after) == [before[line]], now
