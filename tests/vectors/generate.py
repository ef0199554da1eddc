"""Rewrite the golden vectors: `python -m tests.vectors.generate`.

They are made by the code that they check, so a change in them is a change of the protocol: look
at the difference before it is committed. What peers may speak is not changed: a kind's earlier form
goes to `earlier.json`, anything else is refused, unless told by `--unreleased` that no release has
spoken it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import msgspec

from protocol import foreign, ids
from protocol.derived import open_spec
from protocol.ids import PeerId, Revision, ShoalId
from protocol.wire import Envelope, dumps, loads, seal
from tests.vectors import earlier, extremes, keys, kinds, samples
from tests.vectors.notation import to_fields

HERE = Path(__file__).parent

Vector = dict[str, object]

LATER = [0, "later", [], {"a": None, "b": True}, b"\x00"]  # what a newer peer may add at an end


def plain(value: msgspec.Struct) -> list[object]:
    items = msgspec.to_builtins(value, builtin_types=(bytes,))
    assert isinstance(items, list)
    return items


def vectors_of(sample: msgspec.Struct) -> list[Vector]:
    """The typical one, the extremes, and the forms that only ever have to be decoded."""
    kind = type(sample)
    rule = kinds.rule_of(kind)
    vectors = [
        _vector(f"{rule}.{name}", rule, dumps(plain(value)), value)
        for name, value in (
            ("typical", sample),
            ("least", extremes.least(kind)),
            ("most", extremes.most(kind)),
        )
    ]
    later = _vector(f"{rule}.later", rule, dumps([*plain(sample), *LATER]), sample)
    vectors.append({**later, "decode_only": True})
    for absent in range(1, kinds.optional_of(kind) + 1):
        data = dumps(plain(sample)[:-absent])
        value = msgspec.convert(loads(data), kind)
        short = _vector(f"{rule}.short-{absent}", rule, data, value)
        vectors.append({**short, "decode_only": True})
    return vectors


def _vector(name: str, rule: str, data: bytes, value: msgspec.Struct) -> Vector:
    return {
        "name": name,
        "rule": rule,
        "kind": type(value).__name__,
        "hex": data.hex(),
        "fields": to_fields(value),
    }


def parts() -> list[Vector]:
    """Structs that only come inside others: extremes are covered there, absences are not."""
    slot = samples.ASSIGNMENT.slot
    state = samples.SlotState(slot, samples.SEALED_ASSIGNMENT, samples.SEALED_ACCEPTANCE)
    needs = samples.Requirements("process", 100, 64 << 20, 0, 0, (("arch", "=", ("arm64",)),))
    renewal = samples.Renewal(samples.JOB, samples.REVISION, slot, samples.FENCE, "running")
    answer = samples.RenewAnswer(samples.JOB, slot, samples.FENCE, "over", samples.PEER.peer)
    facts = samples.Facts(4000, 1 << 30, 1 << 33, 120, 2, 0, -5_000, -1, 1)
    update = samples.UpdateState(2, samples.REVISION, 1)
    heard = samples.MESSAGE
    values = (samples.LETTER, samples.FENCE, state, needs, facts, renewal, answer, update, heard)
    return [vector for value in values for vector in vectors_of(value)]


def job_bodies() -> list[Vector]:
    return [
        {
            "name": f"job.{name}",
            "rule": "job",
            "hex": spec.encode().hex(),
            "fields": spec.to_plain(),
        }
        for name, spec in samples.JOBS.items()
    ]


def envelopes() -> list[Vector]:
    """Sealed records with real keys; the author's chain is none, one or two certificates long."""
    found: list[Vector] = []
    for name, record, keyring in (
        ("root", samples.CERTIFICATE, keys.ROOT_KEYRING),
        ("root-to-peer", samples.SPEC, keys.PEER),
        ("root-to-admit-to-peer", samples.RESULT, keys.GUEST),
    ):
        data = seal(record, keyring)
        envelope = msgspec.convert(loads(data), Envelope)
        vector = _vector(f"envelope.{name}", "envelope", data, envelope)
        found.append({**vector, "record": type(record).__name__, "opened": to_fields(record)})
    unknown = dumps([1000, "from", {"a": "later version"}])
    data = _sealed(unknown, keys.PEER.certificate)
    envelope = msgspec.convert(loads(data), Envelope)
    vector = _vector("envelope.unknown-record", "envelope", data, envelope)
    return [*found, {**vector, "record": "Unknown", "opened": {"kind": 1000}}]


def _sealed(body: bytes, certificate: bytes) -> bytes:
    signature = keys.PEER.sign(b"shoal/record/1\0" + body)
    return dumps([body, keys.PEER.peer, signature, certificate])


def runs() -> list[Vector]:
    """Sealed runs of a schedule and of a template, and the spec record that follows from each."""
    found: list[Vector] = []
    for name, record, keyring in (
        ("schedule-each", samples.DERIVED, keys.GUEST),
        ("ops-schedule-each", samples.OPS_RUN, keys.GUEST),
        ("template", samples.RUN, keys.PEER),
        ("trigger", samples.FIRED_RUN, keys.PEER),
    ):
        data = seal(record, keyring)
        sealed = open_spec(data, keys.PEER)
        opened = {"author": sealed.author, "spec": to_fields(sealed.record)}
        found.append({"name": name, "hex": data.hex(), "body": sealed.body.hex(), **opened})
    return found


def forgeries() -> list[Vector]:
    """Envelopes that are well formed and must not open in the shoal of `keys`."""
    good = loads(samples.SEALED_SPEC)
    assert isinstance(good, list)
    body, author, signature, certificate = good
    other = loads(samples.SEALED_CONTROL)
    assert isinstance(other, list)
    return [
        {"name": name, "why": why, "hex": dumps(envelope).hex()}
        for name, why, envelope in (
            (
                "tampered-body",
                "a byte of the body is another",
                [_flip(body), author, signature, certificate],
            ),
            (
                "tampered-signature",
                "a byte of the signature",
                [body, author, _flip(signature), certificate],
            ),
            (
                "other-signature",
                "the signature of another body",
                [body, author, other[2], certificate],
            ),
            (
                "other-author",
                "signed by another",
                [body, keys.ADMIT.peer, signature, keys.ADMIT.certificate],
            ),
            (
                "other-certificate",
                "another's certificate",
                [body, author, signature, keys.ADMIT.certificate],
            ),
            ("no-certificate", "an author without one", [body, author, signature, b""]),
            (
                "root-with-certificate",
                "the root has none",
                [body, keys.SHOAL, keys.ROOT_KEYRING.sign(b"shoal/record/1\0" + body), certificate],
            ),
            (
                "no-context",
                "signed without the context",
                [body, author, keys.PEER.sign(body), certificate],
            ),
            ("longer", "an envelope never grows", [body, author, signature, certificate, 0]),
        )
    ]


def _flip(data: object) -> bytes:
    assert isinstance(data, bytes)
    return data[:-1] + bytes([data[-1] ^ 1])


def refusals() -> list[Vector]:
    """Bytes that are refused before anything is decoded."""
    return [
        {"name": name, "hex": data}
        for name, data in (
            ("empty", ""),
            ("cut-in-a-head", "19"),
            ("cut-in-a-string", "6261"),
            ("cut-in-an-array", "8201"),
            ("cut-in-a-map", "a16161"),
            ("trailing-byte", "82010700"),
            ("number-not-shortest", "82011807"),
            ("number-not-shortest-2", "8201190007"),
            ("number-not-shortest-4", "82011a00000007"),
            ("number-not-shortest-8", "82011b0000000000000007"),
            ("length-not-shortest", "9802010 7".replace(" ", "")),
            ("text-length-not-shortest", "82017801 61".replace(" ", "")),
            ("indefinite-array", "9f0107ff"),
            ("indefinite-text", "82017f6161ff"),
            ("indefinite-bytes", "82015f4161ff"),
            ("indefinite-map", "8201bfff"),
            ("break", "ff"),
            ("float16", "8201f90000"),
            ("float32", "8201fa00000000"),
            ("float64", "8201fb0000000000000000"),
            ("undefined", "8201f7"),
            ("simple-0", "8201e0"),
            ("simple-255", "8201f8ff"),
            ("reserved-28", "82011c"),
            ("tag-date", "8201c074323032352d30312d30315430303a30303a30305a"),
            ("tag-bignum", "8201c249ffffffffffffffffff"),
            ("tag-regexp", "8201d82368285b612b5d2b29"),
            ("tag-shared", "8201d81c80"),
            ("tag-self-described", "d9d9f7820107"),
            ("key-twice", "8201a2616101616102"),
            ("keys-unsorted", "8201a2616201616102"),
            ("keys-unsorted-by-length", "8201a262616101616202"),
            ("key-number", "8201a10102"),
            ("key-bytes", "8201a1416102"),
            ("key-array", "8201a18002"),
            ("key-null", "8201a1f602"),
            ("text-not-utf8", "820161ff"),
            ("text-surrogate", "820163eda080"),
            ("array-huge", "9b7fffffffffffffff"),
            ("array-over-8192", "992001" + "00" * 8193),
            ("map-huge", "bb7fffffffffffffff"),
            ("text-huge", "7bffffffffffffffff"),
            ("depth-9", "81" * 9 + "00"),
            ("depth-9-maps", "a16161" * 9 + "00"),
        )
    ]


def names() -> list[Vector]:
    """Derived ids, and the order in which peers come for a key."""
    shoal = ShoalId(keys.SHOAL)
    peers = [PeerId(name) for name in ("p0", "p1", "p2", "p3", keys.PEER.peer)]
    revision = Revision(samples.REVISION)
    return [
        {"name": "job-id", "of": [shoal, "default", "one-off", "3f9a"], "is": samples.JOB},
        {
            "name": "job-id-not-ascii",
            "of": [shoal, "küche", "standing", "sammle 漢"],
            "is": ids.job_id(shoal, "küche", "standing", "sammle 漢"),
        },
        {"name": "revision", "of": [kinds_hex(samples.SPEC)], "is": revision},
        {
            "name": "foreign",
            "of": [samples.SEALED_CONTROL.hex()],
            "is": foreign.name_of(samples.SEALED_CONTROL),
        },
        {
            "name": "execution-id",
            "of": [revision, 1, 2, keys.PEER.peer, 3],
            "is": ids.execution_id(revision, 1, 2, keys.PEER.peer, 3),
        },
        {
            "name": "rendezvous",
            "of": [samples.JOB, peers],
            "is": ids.rendezvous(samples.JOB, peers),
        },
        {"name": "rendezvous-empty", "of": ["", peers], "is": ids.rendezvous("", peers)},
        {
            "name": "peer-id",
            "of": [seed.hex() for seed in (keys.ROOT_SEED, keys.PEER_SEED)],
            "is": [keys.ROOT.peer, keys.PEER.peer],
        },
    ]


def kinds_hex(record: msgspec.Struct) -> str:
    return dumps(plain(record)).hex()


def families() -> dict[str, list[Vector]]:
    """The vectors of every generated file."""
    files: dict[str, list[Vector]] = {
        family: [vector for value in values for vector in vectors_of(value)]
        for family, values in samples.TYPICAL.items()
    }
    files |= {
        "parts": parts(),
        "job": job_bodies(),
        "envelopes": envelopes(),
        "forgeries": forgeries(),
        "runs": runs(),
        "refusals": refusals(),
        "ids": names(),
    }
    return files


def build() -> dict[str, str]:
    """Every generated file by its name."""
    texts = {f"{name}.json": earlier.text_of(vectors) for name, vectors in families().items()}
    return texts | {kinds.FROZEN.name: "\n".join(kinds.current()) + "\n"}


def written() -> dict[str, list[Vector]]:
    """What stands in the files."""
    names = [path for path in sorted(HERE.glob("*.json")) if path != earlier.FILE]
    return {path.stem: json.loads(path.read_text()) for path in names}


def kept() -> list[Vector]:
    """Earlier forms, with those that would be lost now. Raises SystemExit for what cannot be."""
    before, after = written(), families()
    aside = [*earlier.read(), *earlier.put_aside(before, after)]
    wrong = [*earlier.changed(before, after), *filter(None, map(earlier.misread, aside))]
    if wrong:
        listed = "\n  ".join(wrong)
        raise SystemExit(
            f"these vectors would change or no longer be read as they were:\n  {listed}\n"
            "Peers in the field speak them. Leave what there is as it is, and add to it; only what "
            "no release has spoken may be changed: python -m tests.vectors.generate --unreleased"
        )
    return aside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--unreleased", action="store_true", help="nothing that changes was ever in a release"
    )
    unreleased = parser.parse_args().unreleased
    broken = kinds.broken_promises(kinds.frozen(), kinds.current())
    if broken:
        listed = "\n  ".join(broken)
        raise SystemExit(
            f"these kinds no longer keep what {kinds.FROZEN.name} promises:\n  {listed}\n"
            "Peers in the field speak them. Add a field with a default at the end, or a new kind; "
            "only what no release has spoken may be taken out of the list by hand."
        )
    read_on = [each for each in earlier.read() if not earlier.misread(each)]
    aside = read_on if unreleased else kept()
    earlier.FILE.write_text(earlier.text_of(aside))
    for name, text in build().items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
