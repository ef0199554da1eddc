"""When a session connects again: pauses that grow, are bounded, begin anew; by trio's clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import pytest
import trio
from trio.testing import MockClock

from agent.mqtt.client import ANSWER_S
from agent.mqtt.session import RETRY_FIRST_S, RETRY_MAX_S, Session
from agent.mqtt.settings import BrokerSettings
from agent.mqtt.suspects import STEADY_S
from agent.mqtt.trouble import Trouble

OUTAGE_S = 600.0
REFUSED = Trouble("refused", "nothing listens there", "start it")


@dataclass
class Line:
    """What becomes of connections: when each was tried, and how long it lasted."""

    lasting_s: list[float]  # of each; of those beyond, the last
    tried: list[tuple[float, float]] = field(default_factory=list)  # from and to

    async def connection(self) -> Trouble:
        began = trio.current_time()
        await trio.sleep(self.lasting_s[min(len(self.tried), len(self.lasting_s) - 1)])
        self.tried.append((began, trio.current_time()))
        return REFUSED

    def pauses(self) -> list[float]:
        return [after[0] - before[1] for before, after in pairwise(self.tried)]


def session(line: Line, monkeypatch: pytest.MonkeyPatch, seed: int = 1) -> Session:
    made = Session(
        "main",
        BrokerSettings("mqtt://127.0.0.1:1"),
        "me",
        persistent=False,
        will=None,
        changed=lambda *_: None,
        denied=lambda *_: None,
        unreadable=lambda _: None,
        rng=Random(seed),
    )
    monkeypatch.setattr(made, "_connection", line.connection)
    return made


async def run_for(made: Session, time_s: float) -> None:
    with trio.move_on_after(time_s):
        await made.run()


def within_jitter(pause: float, wanted: float) -> bool:
    """Half of it to one and a half: devices that lost one broker do not come back at once."""
    return 0.5 * wanted <= pause <= 1.5 * wanted


@pytest.mark.parametrize("trying_s", [0.0, ANSWER_S], ids=["refused", "silent"])
async def test_in_an_outage_of_ten_minutes_pauses_double_up_to_a_minute(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, trying_s: float
) -> None:
    for seed in range(20):
        line = Line([trying_s])
        await run_for(session(line, monkeypatch, seed), OUTAGE_S)
        pauses = line.pauses()
        wanted = [min(RETRY_FIRST_S * 2**number, RETRY_MAX_S) for number in range(len(pauses))]
        assert all(map(within_jitter, pauses, wanted)), (seed, pauses)
        assert wanted[-1] == RETRY_MAX_S and len(line.tried) < 30
        last = OUTAGE_S - line.tried[-1][1]
        assert last <= 1.5 * RETRY_MAX_S + trying_s, (
            "who is back is found soon, however long it was away"
        )


async def test_devices_that_lose_one_broker_do_not_come_back_together(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [Line([0.0]) for _ in range(20)]
    async with trio.open_nursery() as nursery:
        for seed, line in enumerate(lines):
            nursery.start_soon(run_for, session(line, monkeypatch, seed), OUTAGE_S)
    fourth = sorted(line.tried[3][0] - line.tried[0][0] for line in lines)
    assert fourth[-1] - fourth[0] > 2.0 and len(set(fourth)) == len(lines)


async def test_after_a_connection_that_lasted_pauses_begin_anew(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line([0.0] * 8 + [STEADY_S, 0.0])
    await run_for(session(line, monkeypatch), OUTAGE_S)
    assert within_jitter(line.pauses()[7], RETRY_MAX_S)
    assert within_jitter(line.pauses()[8], RETRY_FIRST_S), "after the good one"
    assert within_jitter(line.pauses()[10], 2 * RETRY_FIRST_S)


async def test_a_broker_that_flaps_is_connected_to_ever_more_seldom(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line([STEADY_S / 2])
    await run_for(session(line, monkeypatch), OUTAGE_S)
    assert within_jitter(line.pauses()[5], 32 * RETRY_FIRST_S)
