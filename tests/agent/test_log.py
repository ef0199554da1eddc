"""Log lines in both formats, and what may not get into them."""

import io
import json
import logging

import pytest

from agent.log import RepeatFilter, set_up, tell
from agent.printable import clean

log = logging.getLogger("shoal.test")
NASTY = "a\nINFO fake line\r\x1b[2Jx\u202ey\u2028z\x00"


def lines(form: str = "human", level: str = "info", watched: bool = False) -> io.StringIO:
    stream = io.StringIO()
    set_up(form, level, stream, watched=watched)
    return stream


def test_an_event_is_one_line_for_people() -> None:
    out = lines()
    tell(log, "job.accepted", "accepted", job="abc", size=3, text="two words")
    stamp, rest = out.getvalue().split("  ", 1)
    assert rest == 'job.accepted  accepted  job=abc size=3 text="two words"\n'
    assert len(stamp) == len("2026-01-01T00:00:00")


def test_the_job_and_peer_of_an_event_come_first() -> None:
    out = lines()
    about = {"kind": "job.awarded", "job": "j", "peer": "p", "fields": {"slot": 0}}
    log.info("%s", "awarded", extra={"shoal": about})
    assert out.getvalue().endswith("job.awarded  awarded  job=j peer=p slot=0\n")


def test_an_event_is_one_object_for_programs() -> None:
    out = lines("json")
    tell(log, "job.accepted", "accepted", job="abc", size=3, text="never in the way of the text")
    line = json.loads(out.getvalue())
    assert line.pop("at") > 0
    assert line == {
        "level": "info", "kind": "job.accepted", "text": "accepted", "job": "abc", "size": 3,
    }  # fmt: skip


@pytest.mark.parametrize("form", ["human", "json"])
def test_nothing_in_an_event_starts_a_line_or_speaks_to_the_terminal(form: str) -> None:
    out = lines(form)
    tell(log, "peer.dead", NASTY, name=NASTY)
    log.warning("from %s", NASTY)
    try:
        raise ValueError(NASTY)
    except ValueError:
        log.exception("failed")
    text = out.getvalue()
    assert text.count("\n") == 3
    assert text.replace("\n", "").isprintable()


def test_clean_keeps_what_can_be_seen() -> None:
    assert clean("Küche 🐟") == "Küche 🐟"
    assert clean("a\nb\x1b") == "a\\nb\\x1b"


def test_a_wrong_argument_does_not_end_what_it_tells_of() -> None:
    out = lines()
    log.warning("%d things", "no number")
    assert "%d things" in out.getvalue()


def test_a_watched_agent_tells_what_a_person_wants_to_know_and_no_more() -> None:
    out = lines(watched=True)
    tell(log, "job.bids", "3 bids")
    tell(log, "job.awarded", "awarded to pi-attic", peer="12D3")
    log.info("a detail")
    log.warning("a worry")
    told = [line.split("  ", 1)[1] for line in out.getvalue().splitlines()]
    assert told == ["awarded to pi-attic", "warning: a worry"]


def test_levels_hold_and_libraries_are_quiet() -> None:
    out = lines(level="warning")
    tell(log, "job.accepted", "accepted")
    assert out.getvalue() == ""
    out = lines(level="debug")
    logging.getLogger("libp2p.host").info("noise")
    log.debug("ours")
    assert [line.split("  ")[-1] for line in out.getvalue().splitlines()] == ["ours"]


def test_repeated_lines_are_counted_instead_of_written() -> None:
    now = [0.0]
    repeats = RepeatFilter(lambda: now[0])

    def record(text: str, kind: str = "") -> logging.LogRecord:
        found = logging.LogRecord("n", logging.INFO, "f", 1, text, (), None)
        if kind:
            found.__dict__["shoal"] = {"kind": kind}
        return found

    passed = [repeats.filter(record("garbage", kind="stream.garbage")) for _ in range(100)]
    assert passed == [True] * 20 + [False] * 80
    assert repeats.filter(record("another"))
    now[0] = 11.0
    after = record("garbage", kind="stream.garbage")
    assert repeats.filter(after)
    assert after.getMessage() == "garbage (80 more like it before)"
    for i in range(1000):
        repeats.filter(record(str(i)))
    assert len(repeats._seen) <= 256
