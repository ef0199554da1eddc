"""The backlog: bounded by number and by bytes, and a thread waits for room."""

from __future__ import annotations

import threading

from agent.mqtt.backlog import Backlog

WAIT_S = 30.0


def test_there_is_room_for_so_many_and_for_so_many_bytes() -> None:
    few = Backlog(2, 100)
    assert few.add(1, 0.0) and few.add(1, 0.0) and not few.add(1, 0.0)
    few.remove(1)
    assert few.add(98, 0.0) and (few.messages, few.size_bytes) == (2, 99)
    small = Backlog(10, 100)
    assert small.add(60, 0.0) and not small.add(41, 0.0) and small.add(40, 0.0)
    small.remove(60)
    assert small.add(60, 0.0) and small.size_bytes == small.bytes_max


def test_one_has_room_alone_whatever_its_size() -> None:
    backlog = Backlog(10, 100)
    assert backlog.add(1000, 0.0) and not backlog.add(1, 0.0)
    backlog.remove(1000)
    assert backlog.add(1, 0.0) and not backlog.add(1000, 0.0)
    backlog.remove(1)
    assert (backlog.messages, backlog.size_bytes) == (0, 0)


def test_a_thread_waits_until_there_is_room() -> None:
    backlog = Backlog(1, 100)
    assert backlog.add(1, 0.0)
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(backlog.add(1, WAIT_S)))
    thread.start()
    backlog.remove(1)
    thread.join(WAIT_S)
    assert taken == [True] and backlog.messages == 1
