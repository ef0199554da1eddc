"""Processors: which images run here, by themselves or by an emulator that the kernel knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.engines.processors import own_kind, runs_here


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def test_its_own_kind_and_what_that_runs_besides(tmp_path: Path) -> None:
    assert own_kind() == "amd64"
    assert [runs_here(kind, tmp_path) for kind in ("amd64", "386", "")] == [True] * 3
    assert not runs_here("arm64", tmp_path) and not runs_here("riscv64", tmp_path)


@pytest.mark.parametrize(
    ("machine", "kind", "fits"),
    [
        ("aarch64", "arm64", True),
        ("aarch64", "arm", True),
        ("aarch64", "386", False),
        ("armv7l", "arm64", False),
    ],
)
def test_on_other_machines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, kind: str, fits: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert runs_here(kind, tmp_path) is fits


def test_what_an_emulator_runs_as_long_as_it_is_enabled(tmp_path: Path) -> None:
    handler = tmp_path / "qemu-aarch64"
    handler.write_text("enabled\ninterpreter /usr/bin/qemu-aarch64-static\n")
    assert runs_here("arm64", tmp_path)
    assert not runs_here("arm", tmp_path)
    handler.write_text("disabled\ninterpreter /usr/bin/qemu-aarch64-static\n")
    assert not runs_here("arm64", tmp_path)


@pytest.mark.parametrize("kind", ["../../etc/passwd", "\0", "a" * 5000])
def test_whatever_an_image_calls_its_kind(kind: str, tmp_path: Path) -> None:
    assert not runs_here(kind, tmp_path)
