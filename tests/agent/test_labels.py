"""Labels: found ones are the agent's alone, a person's come together by who said them last."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.hardware import Hardware
from agent.labels import (
    CONFIG,
    FOUND,
    FOUND_MAX,
    INVITE,
    LABELS_MAX,
    LIVE,
    OWN_MAX,
    RESERVED,
    Label,
    found,
    problem,
    together,
)
from protocol.advertising import LABELS_MAX as ADVERT_MAX
from protocol.constraints import parse_constraints


def values(labels: dict[str, Label]) -> dict[str, str]:
    return {name: label.value for name, label in labels.items()}


def test_what_the_agent_finds_on_whatever_these_tests_run_on() -> None:
    labels = found(Hardware())
    assert labels["os"] == "linux" and labels["arch"] in ("amd64", "arm64", "arm")
    assert int(labels["cpus"]) >= 1 and int(labels["memory"]) > 64
    assert labels["power"] in ("mains", "battery", "unknown")
    assert "temperature" not in labels, "it changes all the time, and an advert does not"
    assert all(0 < len(value) <= 63 for value in labels.values())


def test_what_is_plugged_in_is_a_label_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    assert found(Hardware(tmp_path))["power"] == "unknown"
    assert "gpu" not in found(Hardware(tmp_path))
    for name in ("video0", "nvidia0", "spidev0.1"):
        (tmp_path / "dev" / name).touch()
    labels = found(Hardware(tmp_path))
    assert labels["gpu"] == "nvidia"
    assert labels["device.video0"] == labels["device.spidev0.1"] == "true"
    (constraint,) = parse_constraints("device.spidev0.1")
    assert constraint.matches(labels), "a job can ask for it"


def test_a_board_full_of_device_files_keeps_the_advert_small(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for number in range(100):
        (tmp_path / "dev" / f"video{number}").touch()
    labels = found(Hardware(tmp_path))
    assert len(labels) == FOUND_MAX and {"arch", "os", "cpus", "memory", "power"} <= set(labels)


def test_who_said_it_last_is_believed() -> None:
    labels = together(
        {"os": "linux"},
        {"room": "attic", "floor": "top", "kind": "pi"},
        {"room": "kitchen", "floor": "ground"},
        {"room": "shed"},
    )
    assert list(labels) == ["floor", "kind", "os", "room"]
    assert {name: label.source for name, label in labels.items()} == {
        "floor": CONFIG, "kind": INVITE, "os": FOUND, "room": LIVE,
    }  # fmt: skip
    assert values(labels) == {"floor": "ground", "kind": "pi", "os": "linux", "room": "shed"}


def test_nobody_speaks_for_the_hardware() -> None:
    labels = together({"os": "linux"}, {"os": "plan9"}, {"gpu": "big"}, {"device.video0": "x"})
    assert values(labels) == {"os": "linux"}


def test_device_files_give_way_to_what_a_person_set() -> None:
    assert LABELS_MAX == ADVERT_MAX - 1, "shoal/clock comes to it"
    core = {"arch": "arm64"}
    devices = {f"device.video{n}": "true" for n in range(FOUND_MAX - 1)}
    own = {f"own-{n}": "x" for n in range(OWN_MAX)}
    labels = together(core | devices, {}, own, {})
    assert len(labels) == LABELS_MAX and {"arch", *own} <= set(labels)


def test_of_too_many_the_latest_are_kept() -> None:
    first = {f"a-{n:02}": "" for n in range(32)}
    second = {f"b-{n:02}": "" for n in range(40)}
    labels = together({"arch": "arm64"}, first, second, {"c": ""})
    assert len(labels) == OWN_MAX + 1 and {"c", "arch", *second} <= set(labels)
    assert [name for name in labels if name in first] == [f"a-{n:02}" for n in range(7)]


@pytest.mark.parametrize("name", [*RESERVED, "device.video0", "device.", "engine.docker"])
def test_found_names_are_reserved_and_refused_with_a_way_out(name: str) -> None:
    said = problem({name: "x"})
    assert said.startswith(f"the label {name} is the agent's own") and "use another name" in said


def test_names_that_only_look_like_it_are_free() -> None:
    assert problem({"my-gpu": "x", "device": "y", "osx": "", "engines.docker": "z"}) == ""


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"two words": "x"}, "is not a key here"),
        ({"": "x"}, "is not a key here"),
        ({"a": "ü" * 129}, "258 bytes; allowed: at most 256"),
        ({f"k{n}": "" for n in range(OWN_MAX + 1)}, "49 entries; allowed: at most 48"),
    ],
)
def test_what_an_advert_or_a_constraint_cannot_hold_is_refused(
    labels: dict[str, str], said: str
) -> None:
    assert said in problem(labels)
