"""wire: only deterministic CBOR gets in, and only what was signed under the shoal's root."""

from __future__ import annotations

import io
import json
import tracemalloc
from contextlib import suppress
from pathlib import Path

import cbor2
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId, ShoalId
from protocol.messages import Announce, Goodbye, Hello, Message, Ping
from protocol.records import Advert, Certificate, Departure, Role, Suspicion, Unknown
from protocol.wire import (
    DEPTH_MAX,
    FRAME_BYTES_MAX,
    ITEMS_MAX,
    RECORD_BYTES_MAX,
    SIGNATURE_CONTEXT,
    decode_as,
    decode_message,
    decode_record,
    dumps,
    encode_message,
    encode_record,
    load_plain,
    load_row,
    loads,
    open_sealed,
    scan,
    seal,
)
from tests.protocol.fakes import FakeKeyring, FakeShoal
from tests.protocol.strategies import PLAIN, message_frames, records, structs
from tests.vectors.kinds import STREAMS

VECTORS = Path(__file__).parent.parent / "vectors"
FRAMES = [
    bytes.fromhex(vector["hex"])
    for name in (
        "membership",
        "anti-entropy",
        "jobs",
        "bidding",
        "executions",
        "questions",
        "records",
    )
    for vector in json.loads((VECTORS / f"{name}.json").read_text())
]


def refuses(data: bytes, bytes_max: int = FRAME_BYTES_MAX) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        scan(data, bytes_max)
    return str(caught.value)


# ---- the structural scan ----------------------------------------------------------------------


@given(PLAIN)
def test_what_we_write_passes_and_comes_back(value: object) -> None:
    data = dumps(value)
    scan(data)
    assert loads(data) == value


def test_a_frame_has_a_largest_size() -> None:
    text = "x" * (FRAME_BYTES_MAX - 5)
    assert loads(dumps(text)) == text
    assert "limit" in refuses(dumps(text + "x"))
    assert "limit" in refuses(b"\x82\x01\x07", bytes_max=2)


def test_nesting_has_a_deepest_level() -> None:
    def nested(levels: int) -> object:
        return [nested(levels - 1)] if levels else 0

    scan(dumps(nested(DEPTH_MAX)))
    assert "deeper" in refuses(dumps(nested(DEPTH_MAX + 1)))
    assert "deeper" in refuses(b"\x81" * 100_000 + b"\x00")
    assert "deeper" in refuses(b"\xa1\x61a" * 40_000 + b"\x00")


def test_items_are_counted_over_all_levels() -> None:
    scan(dumps([0] * (ITEMS_MAX - 1)))
    refuses(dumps([0] * ITEMS_MAX))
    refuses(dumps([[0] * 4096, [0] * 4096]))
    refuses(dumps({f"{number:05}": 0 for number in range(4096)}))


def test_a_megabyte_of_empty_maps_costs_nothing() -> None:
    bomb = dumps([{}] * 4)[:1] + b"\xa0" * (1 << 20)
    for data in (
        bomb,
        b"\x9a\x00\x01\xff\xff" + b"\xa0" * 0x1FFFF,
        b"\x99\x1f\xff" + b"\xa0" * 0x1FFF,
    ):
        tracemalloc.start()
        with suppress(RemoteProtocolError):
            loads(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 << 20, f"{peak} bytes"


def test_a_huge_declared_length_allocates_nothing() -> None:
    for head in (b"\x9b", b"\xbb", b"\x5b", b"\x7b"):
        for length in (1 << 32, 1 << 62, (1 << 64) - 1):
            tracemalloc.start()
            refuses(head + length.to_bytes(8, "big"))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 1 << 20


@given(PLAIN)
def test_every_other_encoding_of_a_value_is_refused(value: object) -> None:
    """One value has one encoding: cbor2's own order of keys, or indefinite lengths, are not it."""
    for other in (cbor2.dumps(value), _indefinite(value)):
        if other != dumps(value):
            refuses(other)


def _indefinite(value: object) -> bytes:
    stream = io.BytesIO()
    encoder = cbor2.CBOREncoder(stream, indefinite_containers=True)
    encoder.encode(value)
    return stream.getvalue()


@given(st.binary(max_size=40), st.integers(0, 2**64 - 1))
@example(b"", 0)
def test_one_number_has_one_head(rest: bytes, number: int) -> None:
    shortest = cbor2.dumps(number)
    for width, low in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if number < 1 << (8 * width):
            head = bytes([low]) + number.to_bytes(width, "big")
            if head == shortest:
                scan(head)
            else:
                refuses(head)


@given(
    st.dictionaries(st.text(max_size=30), st.integers(0, 9), min_size=2, max_size=6), st.randoms()
)
def test_keys_come_sorted_and_once(labels: dict[str, int], random: object) -> None:
    ordered = sorted(labels, key=cbor2.dumps)
    assert list(loads(dumps(labels))) == ordered  # type: ignore[call-overload]
    shuffled = ordered[1:] + ordered[:1]
    refuses(_map([(key, labels[key]) for key in shuffled]))
    refuses(_map([(key, labels[key]) for key in [*ordered, ordered[-1]]]))
    scan(_map([(key, labels[key]) for key in ordered]))


def _map(entries: list[tuple[str, int]]) -> bytes:
    return bytes([0xA0 + len(entries)]) + b"".join(
        cbor2.dumps(key) + cbor2.dumps(value) for key, value in entries
    )


def test_keys_of_a_map_within_a_map_have_an_order_of_their_own() -> None:
    assert loads(dumps({"b": {"a": 1}, "c": [{"a": {}}, {"a": 0}]})) == {
        "b": {"a": 1},
        "c": [{"a": {}}, {"a": 0}],
    }
    refuses(b"\xa2\x61b\xa1\x61z\x00\x61a\x00")


def test_load_plain_wants_a_map() -> None:
    assert load_plain(dumps({"a": [1, None, "x", b"y", {"b": True}]})) == {
        "a": [1, None, "x", b"y", {"b": True}]
    }
    for other in ([], "a", 1, None, True, b""):
        with pytest.raises(RemoteProtocolError, match="map"):
            load_plain(dumps(other))


# ---- frames -----------------------------------------------------------------------------------


@given(message_frames())
def test_messages_round_trip(message: Message) -> None:
    data = encode_message(message)
    assert decode_message(data) == message
    assert decode_as(data, type(message)) == message


@given(st.sampled_from(STREAMS).flatmap(structs))
def test_what_begins_a_stream_round_trips(value: msgspec.Struct) -> None:
    assert decode_as(encode_message(value), type(value)) == value


@given(records())
def test_records_round_trip(record: msgspec.Struct) -> None:
    assert decode_record(encode_record(record)) == record  # type: ignore[arg-type]


def test_a_message_of_a_later_version_is_none() -> None:
    assert decode_message(dumps([999, "?", {"a": 1}])) is None
    assert decode_message(dumps([2**63])) is None


def test_a_row_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    for more in ([], ["later"], [0, {"a": None}]):
        assert load_row(dumps([1, "a", *more]), tuple[int, str]) == (1, "a")
        assert load_row(dumps([1, 2, *more][:2]), tuple[int, ...]) == (1, 2)


@pytest.mark.parametrize("row", [b"", dumps([1]), dumps(["a", 1]), dumps({"a": 1}), dumps(7)])
def test_a_row_that_is_none_is_refused(row: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        load_row(row, tuple[int, str])


def test_a_record_of_a_later_version_is_kept_by_its_number() -> None:
    assert decode_record(dumps([999, "?"])) == Unknown(999)


@pytest.mark.parametrize(
    "value", [[], {}, 1, "a", None, [None], ["1", 7], [True, 7], [-1, 7], [[1], 7], {"1": 7}]
)
def test_what_does_not_start_with_a_kind_is_refused(value: object) -> None:
    for decode in (decode_message, decode_record):
        with pytest.raises(RemoteProtocolError, match="kind"):
            decode(dumps(value))


def test_a_stream_takes_its_own_kinds_only() -> None:
    hello = Hello(b"certificate", b"boot", "0.1.0")
    assert decode_as(encode_message(hello), Hello) == hello
    for other in (Goodbye("busy", ""), Ping(1)):
        with pytest.raises(RemoteProtocolError):
            decode_as(encode_message(other), Hello)
    assert decode_as(dumps([1, "x"]), tuple[int, str]) == (1, "x")


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_as_the_peers_fault(data: bytes) -> None:
    _survives(data)


@settings(max_examples=500)
@given(st.data())
def test_mutated_frames_are_refused_as_the_peers_fault(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from(FRAMES)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(frame) - 1)))
        match data.draw(st.sampled_from(("flip", "cut", "insert", "repeat"))):
            case "flip" if frame:
                frame[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del frame[at : at + data.draw(st.integers(1, 8))]
            case "insert":
                frame[at:at] = data.draw(st.binary(min_size=1, max_size=9))
            case _:
                frame[at:at] = frame[at : at + 16]
    _survives(bytes(frame))


@given(st.lists(PLAIN, max_size=14), st.sampled_from((*range(0, 54), *range(100, 124))))
def test_well_formed_nonsense_is_refused_as_the_peers_fault(items: list[object], kind: int) -> None:
    _survives(dumps([kind, *items]))


def _survives(data: bytes) -> None:
    """Whatever comes is decoded, or is a RemoteProtocolError; what is decoded can be sent on."""
    keyring = FakeShoal().keyring("a")
    for decode in (decode_message, decode_record, load_plain):
        try:
            value = decode(data)
        except RemoteProtocolError:
            continue
        if isinstance(value, msgspec.Struct) and not isinstance(value, Unknown):
            assert decode(encode_message(value)) == value
    for kind in (Hello, Goodbye, Announce):
        try:
            decode_as(data, kind)
        except RemoteProtocolError:
            continue
    with pytest.raises(RemoteProtocolError):
        open_sealed(data, keyring)


# ---- sealed records ---------------------------------------------------------------------------

SHOAL = FakeShoal()
A = SHOAL.keyring("a")
B = SHOAL.keyring("b")
ADMIT = SHOAL.keyring("admit", Role.ADMIT)
GUEST = SHOAL.keyring("guest", Role.COMPUTE, issuer=ADMIT)
DEPARTURE = Departure(peer=PeerId("a"), incarnation=1)


def envelope(data: bytes) -> list[object]:
    value = loads(data)
    assert isinstance(value, list)
    return value


def refuses_sealed(data: bytes, keyring: FakeKeyring = B) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        open_sealed(data, keyring)
    return str(caught.value)


def test_a_record_opens_for_everybody_in_the_shoal() -> None:
    data = seal(DEPARTURE, A)
    for reader in (A, B, GUEST, SHOAL.root):
        sealed = open_sealed(data, reader)
        assert sealed.record == DEPARTURE
        assert sealed.author == "a"
        assert sealed.certificate is not None
        assert sealed.certificate.peer == "a"
        assert sealed.body == encode_record(DEPARTURE)
        assert sealed.data == data


def test_the_author_need_not_be_the_subject() -> None:
    sealed = open_sealed(seal(Suspicion(peer=PeerId("a"), incarnation=1, why=0), B), A)
    assert sealed.author == "b"


def test_an_author_holds_the_roles_of_its_certificate_in_its_namespaces() -> None:
    cook = SHOAL.keyring("cook", Role.SUBMIT, namespaces=("kitchen",))
    sealed = open_sealed(seal(DEPARTURE, cook), A)
    assert sealed.author_holds(Role.SUBMIT)
    assert sealed.author_holds(Role.SUBMIT, "kitchen")
    assert not sealed.author_holds(Role.SUBMIT, "garden")
    assert not sealed.author_holds(Role.OPERATE, "kitchen")


def test_the_root_signs_without_a_certificate_and_holds_no_role() -> None:
    sealed = open_sealed(seal(DEPARTURE, SHOAL.root), A)
    assert (sealed.author, sealed.certificate) == ("shoal", None)
    assert not sealed.author_holds(Role.COMPUTE)
    body, author, signature, _ = envelope(seal(DEPARTURE, SHOAL.root))
    assert "no certificate" in refuses_sealed(dumps([body, author, signature, A.certificate]))


def test_a_member_admitted_by_a_member_is_one() -> None:
    sealed = open_sealed(seal(DEPARTURE, GUEST), A)
    assert (sealed.author, sealed.author_holds(Role.COMPUTE)) == ("guest", True)


def test_a_chain_has_two_links_at_most() -> None:
    deputy = SHOAL.keyring("deputy", Role.ADMIT, issuer=ADMIT)
    far = SHOAL.keyring("far", issuer=deputy)
    open_sealed(seal(DEPARTURE, deputy), A)
    assert "chain too long" in refuses_sealed(seal(DEPARTURE, far))


def test_a_chain_is_too_long_however_often_its_parts_were_verified() -> None:
    reader = SHOAL.keyring("reader")
    deputy = SHOAL.keyring("deputy", Role.ADMIT, issuer=ADMIT)
    far = SHOAL.keyring("far", issuer=deputy)
    open_sealed(far.certificate, reader)  # as a record it is within the bound, as a link it is not
    assert "chain too long" in refuses_sealed(seal(DEPARTURE, far), reader)


def test_only_who_may_admit_admits() -> None:
    smuggled = FakeShoal().keyring("smuggled", issuer=A)
    assert "without the role" in refuses_sealed(seal(DEPARTURE, smuggled))


def test_a_tampered_record_does_not_open() -> None:
    data = seal(DEPARTURE, A)
    body, author, signature, certificate = envelope(data)
    assert isinstance(body, bytes) and isinstance(signature, bytes)
    later = encode_record(Departure(peer=PeerId("a"), incarnation=2))
    for changed in (
        [later, author, signature, certificate],
        [body, author, signature[:-1], certificate],
        [body, author, signature[::-1], certificate],
        [body, author, b"", certificate],
        [body, author, A.sign(body), certificate],  # not in our context
    ):
        assert "bad signature" in refuses_sealed(dumps(changed))


def test_another_signer_or_certificate_does_not_open() -> None:
    body, _, signature, certificate = envelope(seal(DEPARTURE, A))
    assert "bad signature" in refuses_sealed(dumps([body, "b", signature, B.certificate]))
    assert "another peer's" in refuses_sealed(dumps([body, "b", signature, certificate]))
    assert "another peer's" in refuses_sealed(dumps([body, "a", signature, B.certificate]))
    assert "not signed under" in refuses_sealed(dumps([body, "a", signature, seal(DEPARTURE, A)]))
    refuses_sealed(dumps([body, "a", signature, b""]))
    refuses_sealed(dumps([body, "a", signature, b"\x00"]))


def test_another_shoals_member_does_not_open() -> None:
    other = FakeShoal(ShoalId("elsewhere"))
    assert "nobody of this shoal" in refuses_sealed(seal(DEPARTURE, other.keyring("a")))
    assert "nobody of this shoal" in refuses_sealed(seal(DEPARTURE, other.root))
    # a certificate for another shoal does not count here, even if our own root signed it
    certificate = Certificate(
        shoal=other.id,
        peer=PeerId("a"),
        name="a",
        roles=(Role.COMPUTE,),
        namespaces=("*",),
        issued_ms=0,
        expires_ms=1,
    )
    stray = FakeKeyring(PeerId("a"), SHOAL.id, seal(certificate, SHOAL.root))
    assert "another shoal's" in refuses_sealed(seal(DEPARTURE, stray))


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts[:3],
        lambda parts: [*parts, 0],
        lambda parts: [parts[0].decode("latin-1"), *parts[1:]],
        lambda parts: [parts[0], parts[1].encode(), *parts[2:]],
        lambda parts: [parts[0], "", *parts[2:]],
        lambda parts: [parts[0], "../a", *parts[2:]],
        lambda parts: [*parts[:2], bytes(129), parts[3]],
        lambda parts: [*parts[:3], None],
        lambda parts: {"body": parts[0]},
    ],
)
def test_an_envelope_has_four_parts_and_never_more(change: object) -> None:
    parts = envelope(seal(DEPARTURE, A))
    refuses_sealed(dumps(change(parts)))  # type: ignore[operator]


def test_an_unknown_kind_is_kept_with_its_bytes() -> None:
    body = dumps([4711, "of", {"a": "later version"}])
    data = dumps([body, "a", A.sign(SIGNATURE_CONTEXT + body), A.certificate])
    sealed = open_sealed(data, B)
    assert sealed.record == Unknown(4711)
    assert (sealed.data, sealed.body, sealed.author) == (data, body, "a")


def test_what_is_signed_are_the_bytes_that_came() -> None:
    """A later version's record has more fields: it opens, though we would write it otherwise."""
    body = dumps([3, "a", 1, 0, "a field of later", {"b": [1]}])
    data = dumps([body, "a", A.sign(SIGNATURE_CONTEXT + body), A.certificate])
    sealed = open_sealed(data, B)
    assert sealed.record == DEPARTURE
    assert sealed.body == body != encode_record(DEPARTURE)
    # and the same record with the default left out is another sequence of bytes: it needs its own
    short = dumps([3, "a", 1])
    assert decode_record(short) == DEPARTURE
    refuses_sealed(dumps([short, "a", A.sign(SIGNATURE_CONTEXT + body), A.certificate]))


def test_a_signed_body_out_of_form_is_refused_all_the_same() -> None:
    for body in (b"", b"\x9f\x03\xff", dumps([3, "a", -1]), dumps([3, "a/b", 1]), dumps("a")):
        refuses_sealed(dumps([body, "a", A.sign(SIGNATURE_CONTEXT + body), A.certificate]))


def test_a_sealed_record_has_a_largest_size() -> None:
    body = dumps([4711, b"x" * (RECORD_BYTES_MAX - 2000)])
    room = dumps([body, "a", A.sign(SIGNATURE_CONTEXT + body), A.certificate])
    assert len(room) <= RECORD_BYTES_MAX
    open_sealed(room, B)
    body = dumps([4711, b"x" * RECORD_BYTES_MAX])
    assert "limit" in refuses_sealed(
        dumps([body, "a", A.sign(SIGNATURE_CONTEXT + body), A.certificate])
    )


@given(st.data())
def test_no_changed_byte_leaves_a_sealed_record_as_it_was(data: st.DataObject) -> None:
    """Whatever still opens says the same, by the same author: only unsigned bytes may differ."""
    sealed = seal(_advert(), GUEST)
    changed = bytearray(sealed)
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        open_sealed(bytes(changed), B)


def _advert() -> Advert:
    return Advert(
        peer=PeerId("guest"),
        incarnation=3,
        addresses=("/ip4/10.0.0.1/tcp/4101",),
        labels={"arch": "arm64"},
        engines=("process",),
        cpu_m=4000,
        memory_bytes=1 << 30,
        disk_bytes=1 << 33,
        gpus=0,
        version="0.1.0",
        name="guest",
    )
