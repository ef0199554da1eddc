"""Graphics cards: each to one execution at a time, told as NVIDIA's tools count them."""

from __future__ import annotations

import pytest

from agent.engines.cards import Cards, note_of, read_note, variables


def test_two_that_want_one_each_get_two_and_what_has_ended_gives_its_own_back() -> None:
    it = Cards(lambda: 2)
    assert (it.choose("a", 1), it.choose("b", 1)) == ((0,), (1,))
    assert (it.of("b"), it.of("c")) == ((1,), ())
    it.free("a")
    it.free("a")
    assert it.choose("c", 1) == (0,)
    it.free("b")
    it.free("c")
    assert it.choose("d", 2) == (0, 1)


def test_more_than_are_free_are_refused_and_keep_nothing() -> None:
    it = Cards(lambda: 3)
    it.choose("a", 2)
    with pytest.raises(OSError, match="gpu: needs 2, 1 of 3 free on this device"):
        it.choose("b", 2)
    assert it.choose("c", 1) == (2,)


def test_one_that_is_asked_for_again_keeps_no_more_than_it_wants() -> None:
    it = Cards(lambda: 1)
    assert it.choose("a", 1) == it.choose("a", 1) == (0,)


def test_what_an_earlier_life_gave_is_nobody_elses() -> None:
    it = Cards(lambda: 3)
    it.hold("a", read_note(note_of((1,))))
    it.hold("none", read_note(None))
    assert it.choose("b", 2) == (0, 2)


def test_a_card_that_was_taken_out_is_given_to_nobody() -> None:
    there = [2]
    it = Cards(lambda: there[0])
    assert it.choose("a", 2) == (0, 1)
    there[0] = 1
    with pytest.raises(OSError, match="0 of 1 free"):
        it.choose("b", 1)


def test_a_note_that_cannot_be_read_is_none() -> None:
    for data in (b"", b"\0\0", b"{}", b"[-1]", b'["0"]', b"[0" + b",1" * 64 + b"]"):
        assert read_note(data) == ()


def test_cuda_counts_as_docker_and_the_driver_do() -> None:
    assert variables((0, 2)) == {
        "NVIDIA_VISIBLE_DEVICES": "0,2",
        "CUDA_VISIBLE_DEVICES": "0,2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
