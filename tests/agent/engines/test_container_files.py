"""What is mounted into containers may be read by whoever runs there.

What goes in and comes out by docker's hands is in tests/integration/test_container_files.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.engines.container_files import open_up


@pytest.fixture
def work(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def modes(paths: Iterable[Path]) -> list[str]:
    return [f"{path.stat().st_mode & 0o777:o}" for path in paths]


def test_what_is_mounted_may_be_read_by_anybody(work: Path) -> None:
    write(work / "input/secret", "x", 0o600)
    write(work / "input/script.sh", "x", 0o755)
    write(work / "input/deep/group", "x", 0o640)
    write(work.parent / "beside", "x", 0o600)
    for path in (work, work / "input", work / "input/deep"):
        path.chmod(0o700)
    open_up(work)
    inner = work / "input"
    assert modes((work, inner, inner / "deep")) == ["755", "755", "755"]
    assert modes((inner / "secret", inner / "script.sh", inner / "deep/group")) == [
        "644", "755", "644",
    ]  # fmt: skip
    assert modes([work.parent / "beside"]) == ["600"]
    assert (inner / "secret").read_text() == "x"


def test_an_empty_directory_is_opened_up(work: Path) -> None:
    work.chmod(0o700)
    open_up(work)
    assert modes([work]) == ["755"]


def test_a_mounted_program_may_be_run_by_anybody(work: Path) -> None:
    write(work / "input/tool", "x", 0o700)  # umask 077 where it was packed
    open_up(work)
    assert (work / "input/tool").stat().st_mode & 0o777 == 0o755


def test_opening_up_follows_no_link(work: Path) -> None:
    """Latent: what is extracted holds no links today. stat looks at the link, chmod at its target,
    which gets the link's own 0777."""
    secret = work.parent / "secret"
    write(secret, "x", 0o600)
    (work / "link").symlink_to(secret)
    open_up(work)
    assert secret.stat().st_mode & 0o777 == 0o600
