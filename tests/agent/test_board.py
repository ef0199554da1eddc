"""Boards are told apart by their hardware, and doubt never blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.board import Board, read_board


def hardware(
    root: Path, *, serial: str = "", uuid: str = "", cards: dict[str, str] | None = None
) -> Path:
    """A made-up /proc and /sys under `root`."""
    if serial:
        path = root / "proc/device-tree/serial-number"
        path.parent.mkdir(parents=True)
        path.write_bytes(serial.encode() + b"\0")
    if uuid:
        path = root / "sys/class/dmi/id/product_uuid"
        path.parent.mkdir(parents=True)
        path.write_text(uuid + "\n")
    for name, address in (cards or {}).items():
        card = root / "sys/class/net" / name
        (card / "device").mkdir(parents=True)
        (card / "address").write_text(address + "\n")
        (card / "addr_assign_type").write_text("0\n")
    return root


def read(root: Path, **environ: str) -> Board:
    return read_board(root, environ)


def test_reading_twice_gives_the_same_and_tells_nothing_in_clear(tmp_path: Path) -> None:
    root = hardware(tmp_path, serial="10000000abcdef01", cards={"eth0": "b8:27:eb:01:02:03"})
    board = read(root)
    assert board == read(root) and not board.differs(board)
    assert "abcdef01" not in board.to_text() and "b8:27" not in board.to_text()
    assert Board.from_text(board.to_text()) == board


def test_this_machine_can_be_read() -> None:
    assert read_board() == read_board()


def test_another_serial_number_is_another_board(tmp_path: Path) -> None:
    cards = {"eth0": "b8:27:eb:01:02:03"}
    here = read(hardware(tmp_path / "a", serial="10000000abcdef01", cards=cards))
    there = read(hardware(tmp_path / "b", serial="10000000abcdef02", cards=cards))
    assert here.differs(there)


def test_the_strongest_mark_that_both_know_decides(tmp_path: Path) -> None:
    uuid = "4c4c4544-0042-3510-8054-b7c04f4a4d32"
    as_root = read(hardware(tmp_path / "a", uuid=uuid, cards={"eth0": "b8:27:eb:01:02:03"}))
    as_user = read(hardware(tmp_path / "b", cards={"eth0": "b8:27:eb:01:02:03"}))
    new_card = read(hardware(tmp_path / "c", uuid=uuid, cards={"eth0": "b8:27:eb:99:99:99"}))
    assert not as_root.differs(as_user) and not as_user.differs(as_root)
    assert not as_root.differs(new_card)
    assert as_user.differs(new_card)


def test_one_network_card_in_common_is_enough(tmp_path: Path) -> None:
    two = {"eth0": "b8:27:eb:01:02:03", "eth1": "b8:27:eb:01:02:04"}
    before = read(hardware(tmp_path / "a", cards=two))
    after = read(hardware(tmp_path / "b", cards={"eth0": "b8:27:eb:01:02:04"}))
    assert not before.differs(after)


def test_what_cannot_be_known_never_differs(tmp_path: Path) -> None:
    nothing = read(tmp_path)
    known = read(hardware(tmp_path / "a", serial="10000000abcdef01"))
    other_kind = read(hardware(tmp_path / "b", cards={"eth0": "b8:27:eb:01:02:03"}))
    assert nothing == Board()
    assert not nothing.differs(known) and not known.differs(nothing)
    assert not known.differs(other_kind)


@pytest.mark.parametrize(
    "uuid", ["00000000-0000-0000-0000-000000000000", "03000200-0400-0500-0006-000700080009"]
)
def test_a_makers_filler_is_no_mark(tmp_path: Path, uuid: str) -> None:
    assert read(hardware(tmp_path, uuid=uuid, serial="0000000000000000")) == Board()


def test_virtual_and_random_network_addresses_are_no_marks(tmp_path: Path) -> None:
    root = hardware(tmp_path, cards={"wlan0": "b8:27:eb:01:02:03"})
    (root / "sys/class/net/wlan0/addr_assign_type").write_text("1\n")
    bridge = root / "sys/class/net/docker0"
    bridge.mkdir()
    (bridge / "address").write_text("02:42:01:02:03:04\n")
    (bridge / "addr_assign_type").write_text("0\n")
    assert read(root) == Board()


def test_the_override_replaces_what_is_read(tmp_path: Path) -> None:
    root = hardware(tmp_path, serial="10000000abcdef01")
    one, two = read(root, SHOAL_BOARD_ID="one"), read(root, SHOAL_BOARD_ID="two")
    assert one.differs(two) and not one.differs(read(root, SHOAL_BOARD_ID="one"))
    assert read(root).differs(two), "told on purpose, so it counts"
    assert not one.differs(read(root)), "an override that got lost is no other board"


@pytest.mark.parametrize("text", ["", "junk", "shoal board 1\nmac xyz\n", "shoal board 2\n"])
def test_a_damaged_board_file_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="not a board file"):
        Board.from_text(text)
