"""The trace of a run."""

from protocol.events import Booted
from protocol.ids import JobId, PeerId
from protocol.messages import JobWant, Ping
from protocol.sim.trace import Trace, brief, event_text, frame_text, shortened
from protocol.wire import encode_message


def test_the_digest_covers_time_device_kind_and_frame() -> None:
    def digest(*note: object) -> str:
        trace = Trace()
        trace.note(*note)  # type: ignore[arg-type]
        return trace.digest

    digests = {
        digest(1.0, 1, "frame", b"a"),
        digest(1.5, 1, "frame", b"a"),
        digest(1.0, 2, "frame", b"a"),
        digest(1.0, 1, "gossip", b"a"),
        digest(1.0, 1, "frame", b"b"),
    }
    assert len(digests) == 5
    assert digest(1.0, 1, "frame", b"a") in digests


def test_lines_are_for_whoever_reads_along() -> None:
    lines: list[str] = []
    Trace(lines.append).tell(1.25, 3, "starts")
    assert lines == ["    1.2500    3 starts"]
    Trace().tell(1.25, 3, "starts")


def test_frames_are_told_in_brief() -> None:
    assert frame_text(encode_message(Ping(7))) == "Ping(seq=7)"
    assert frame_text(b"\xff").startswith("garbage")
    job = JobId("a" * 26 + "bcdefg")
    assert brief(JobWant((job,))) == "JobWant(jobs=[…bcdefg])"
    assert brief(b"\x01\x02\x03\x04\x05") == "<01020304 5>"
    assert event_text(Booted(), {}) == "Booted(found=())"
    assert shortened("x" * 10, 4) == "xxxx…"
    assert PeerId("short") == brief("short").strip("'")
