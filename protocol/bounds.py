"""Bounds: how large a number and how long a text or list in a message or record may be.

They keep the absurd out of every table, file name and terminal behind the decoder; how much of the
sensible is too much, each receiver decides. Lists without a bound here are bounded by the frame
(wire.ITEMS_MAX). Codes are closed: a new verdict needs a new field or kind, so that no older peer
meets a number it cannot act on. Characters are Unicode code points.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from protocol.ids import PeerId

INT_MAX: Final = 2**63 - 1  # what SQLite, Go and C keep exact
NAME_CHARS_MAX: Final = 63  # a DNS label, as in job files
REASON_CHARS_MAX: Final = 1000  # a paragraph; see `clipped`
SLOTS_MAX: Final = 10_000  # job.COUNT_MAX
SPEC_BODY_BYTES_MAX: Final = 64 * 1024  # job.SPEC_BYTES_MAX
TAIL_BYTES_MAX: Final = 16 * 1024  # of each output stream in a result: a screenful of long lines
PEERS_MAX: Final = 64  # listed as holders of one job
TOPIC_CHARS_MAX: Final = 1024  # MQTT allows 64 KiB; people read these, and each run carries one
PAYLOAD_BYTES_MAX: Final = 32 * 1024  # as base64 with the rest within a spec of 64 KiB
LETTER_BYTES_MAX: Final = 124 * 1024  # of a relayed frame: what goes with it must fit as well

Count = Annotated[int, Meta(ge=0, le=INT_MAX)]
Known = Annotated[int, Meta(ge=-1, le=INT_MAX)]  # -1: not known, or none
Signed = Annotated[int, Meta(ge=-INT_MAX, le=INT_MAX)]
Millis = Annotated[int, Meta(ge=0, le=INT_MAX)]  # Unix time or a duration, milliseconds
Slot = Annotated[int, Meta(ge=0, lt=2**48)]  # a number below Count, or a peer's (ids.peer_slot)
Slots = Annotated[int, Meta(ge=0, le=SLOTS_MAX)]
Score = Annotated[int, Meta(ge=0, le=1000)]
Percent = Annotated[int, Meta(ge=-1, le=100)]  # -1: not known
VerdictCode = Annotated[int, Meta(ge=0, le=3)]  # records.Verdict
DesiredCode = Annotated[int, Meta(ge=0, le=2)]  # records.Desired
AccusationCode = Annotated[int, Meta(ge=0, le=1)]  # records.Accusation
Flag = Annotated[int, Meta(ge=-1, le=1)]  # -1: not known
Outcome = Annotated[int, Meta(ge=0, le=2)]  # heldservice: none, settled, failed
Domain = Annotated[int, Meta(ge=0, le=255)]
ExitCode = Annotated[int, Meta(ge=-1, le=2**32 - 1)]  # 32 bits: what Windows and WebAssembly have

Word = Annotated[str, Meta(max_length=32)]  # one of a few that both sides know
Name = Annotated[str, Meta(max_length=NAME_CHARS_MAX)]
Version = Annotated[str, Meta(max_length=64)]
Key = Annotated[str, Meta(max_length=256)]
Value = Annotated[str, Meta(max_length=256)]
Reason = Annotated[str, Meta(max_length=REASON_CHARS_MAX)]
Address = Annotated[str, Meta(min_length=1, max_length=256)]  # a multiaddr
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]  # SHA-256
DigestOrEmpty = Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
Prefix = Annotated[str, Meta(max_length=64)]

Hash = Annotated[bytes, Meta(max_length=64)]
Signature = Annotated[bytes, Meta(max_length=128)]
Nonce = Annotated[bytes, Meta(max_length=64)]
Tail = Annotated[bytes, Meta(max_length=TAIL_BYTES_MAX)]
LetterFrame = Annotated[bytes, Meta(max_length=LETTER_BYTES_MAX)]
Topic = Annotated[str, Meta(max_length=TOPIC_CHARS_MAX)]
Payload = Annotated[bytes, Meta(max_length=PAYLOAD_BYTES_MAX)]
Correlation = Annotated[bytes, Meta(max_length=256)]  # MQTT 5 allows 64 KiB; a number is usual
SpecBody = Annotated[bytes, Meta(max_length=SPEC_BODY_BYTES_MAX)]

InputValue = Annotated[str, Meta(max_length=4096)]  # template.VALUE_BYTES_MAX
Inputs = Annotated[dict[Name, InputValue], Meta(max_length=32)]  # template.PARAMETERS_MAX
Labels = Annotated[dict[Key, Value], Meta(max_length=64)]
Addresses = Annotated[tuple[Address, ...], Meta(max_length=32)]
Words = Annotated[tuple[Word, ...], Meta(max_length=16)]
KEPT_MAX: Final = 16
KeptVolumes = Annotated[tuple[tuple[Name, PeerId], ...], Meta(max_length=KEPT_MAX)]
Names = Annotated[tuple[Name, ...], Meta(max_length=64)]
PortNumber = Annotated[int, Meta(ge=1, le=65_535)]
Ports = Annotated[tuple[tuple[Name, PortNumber], ...], Meta(max_length=16)]  # network.PORTS_MAX
Peers = Annotated[tuple[PeerId, ...], Meta(max_length=PEERS_MAX)]


def clipped(reason: str) -> str:
    """Shorten a sentence to what a Reason holds; peers refuse a longer one."""
    return reason if len(reason) <= REASON_CHARS_MAX else reason[: REASON_CHARS_MAX - 1] + "…"
