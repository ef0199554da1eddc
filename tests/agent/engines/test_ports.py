"""Ports that are chosen for tasks: free ones, each once, told under names that shells can read."""

from __future__ import annotations

import socket

import pytest

from agent.engines import ports as ports_module
from agent.engines.ports import FIRST, LAST, Ports, note_of, read_note, variables
from protocol.network import Port


def test_each_gets_a_number_of_its_own_and_what_has_one_keeps_it() -> None:
    it = Ports()
    chosen = [
        it.choose((Port("a", 0, 80), Port("b", 8080, 81), Port("c", 0, 0))) for _ in range(50)
    ]
    given = [port.static for each in chosen for port in (each[0], each[2])]
    assert len(set(given)) == 100 and all(FIRST <= number <= LAST for number in given)
    assert all(each[1] == Port("b", 8080, 81) and each[0].target == 80 for each in chosen)
    assert all(each[2].target == each[2].static for each in chosen)


def test_what_somebody_listens_at_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        number = taken.getsockname()[1]
        monkeypatch.setattr(ports_module, "FIRST", number)
        monkeypatch.setattr(ports_module, "LAST", number)
        with pytest.raises(OSError, match=f"no port between {number} and {number} is free"):
            Ports().choose((Port("a", 0, 0),))
    assert Ports().choose((Port("a", 0, 0),)) == (Port("a", number, number),)


def test_a_task_is_told_where_it_listens_and_where_it_is_reached() -> None:
    ports = (Port("my-web 1", 20_001, 80),)
    assert variables(ports, within=True) == {
        "SHOAL_PORT_my_web_1": "80",
        "SHOAL_HOST_PORT_my_web_1": "20001",
        "BACALHAU_PORT_my_web_1": "80",
        "BACALHAU_HOST_PORT_my_web_1": "20001",
    }
    assert variables(ports, within=False)["BACALHAU_PORT_my_web_1"] == "20001"


def test_they_are_noted_for_the_agents_next_life() -> None:
    assert read_note(note_of((Port("a", 20_001, 80),))) == (("a", 20_001),)
    assert read_note(None) == read_note(b"\0\0") == read_note(b'{"a": 1}') == ()


def test_one_that_is_taken_over_ipv6_alone_is_not_free() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("::", 0))
        taken.listen()
        assert not ports_module._is_free(taken.getsockname()[1])
