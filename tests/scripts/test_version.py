"""scripts/version: which version is the previous one, and its files beside this checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import test_versions, version
from scripts.version import NoVersion, exported, newest_tag


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits of a repository of its own, nothing of it tagged."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q")
    for text in ("first", "second"):
        (root / "pyproject.toml").write_text(text)
        git(root, "add", ".")
        git(root, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", text)
    monkeypatch.setattr(version, "ROOT", root)
    monkeypatch.setattr(version, "KEPT", tmp_path / "kept")
    return root


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)


def test_without_a_tag_before_it_there_is_no_previous_version(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    git(repository, "tag", "v2")
    assert newest_tag() == ""
    monkeypatch.setattr(sys, "argv", ["test-versions"])
    assert test_versions.main() == 2
    assert "There is no tag before HEAD yet" in capsys.readouterr().err


def commit(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text)
    git(root, "add", ".")
    git(root, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", name)


def told(capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """What CI is told: the exit code, the tag, and why there is none."""
    code = version.main()
    streams = capsys.readouterr()
    return code, streams.out.strip(), streams.err


def test_before_the_first_release_it_says_that_there_is_none(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(repository, "CHANGELOG.md", "## Unreleased\n\n## 0.1.0 (never tagged)\n")
    commit(repository, "file", "1")
    code, tag, why = told(capsys)
    assert (code, tag) == (0, "") and "no release before this commit" in why


def test_a_release_is_named_before_it_is_tagged_and_has_to_be_tagged_then(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(repository, "CHANGELOG.md", "## Unreleased\n")
    commit(repository, "CHANGELOG.md", "## Unreleased\n\n## 0.2.0\n")
    assert told(capsys)[:2] == (0, ""), "the release's own commit"
    git(repository, "tag", "v0.2.0")
    assert told(capsys)[:2] == (0, ""), "none before itself"
    commit(repository, "file", "1")
    assert told(capsys) == (0, "v0.2.0", "")
    git(repository, "tag", "-d", "v0.2.0")
    code, tag, why = told(capsys)
    assert (code, tag) == (
        1,
        "",
    ) and "names 0.2.0, and there is no tag v0.2.0 in the history" in why


def test_a_clone_without_history_does_not_pass_for_one_without_releases(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commit(repository, "CHANGELOG.md", "## Unreleased\n\n## 0.2.0\n")
    git(repository, "tag", "v0.2.0")
    commit(repository, "file", "1")
    git(tmp_path, "clone", "-q", "--depth", "1", repository.as_uri(), "shallow")
    monkeypatch.setattr(version, "ROOT", tmp_path / "shallow")
    assert told(capsys)[0] == 1
    git(tmp_path / "shallow", "fetch", "-q", "--depth", "1", "--tags")
    assert told(capsys)[0] == 1, "its tag is there, and nothing that leads to it"
    git(tmp_path / "shallow", "fetch", "-q", "--tags", "--unshallow")
    assert told(capsys) == (0, "v0.2.0", "")


def test_files_that_are_no_repository_have_no_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(version, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    code, _, why = told(capsys)
    assert code == 0 and "git knows no commit here" in why


def test_the_newest_tag_before_it_is_the_previous_version(repository: Path) -> None:
    git(repository, "tag", "v1", "HEAD^")
    assert newest_tag() == "v1"
    found = exported("v1", shared=True)
    assert (found.root / "pyproject.toml").read_text() == "first"
    assert found.has("pyproject.toml") and not found.has("agent/mqtt")
    assert exported("v1", shared=True) == found


def test_an_export_that_broke_off_is_not_taken_for_the_version(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    full = programs / "tar"  # as on a disk that is full after the first file
    full.write_text('#!/bin/sh\n/bin/tar "$@" pyproject.toml; exit 2\n')
    full.chmod(0o755)
    (repository / "tests").mkdir()
    (repository / "tests/later").write_text("later")
    git(repository, "add", ".")
    git(repository, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "third")
    with monkeypatch.context() as broken:
        broken.setenv("PATH", str(programs), prepend=":")
        with pytest.raises(subprocess.CalledProcessError):
            exported("HEAD", shared=True)
    assert exported("HEAD", shared=True).has("tests/later")


def test_what_is_no_revision_is_said_so(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NoVersion, match="v9 is no tag or revision here"):
        exported("v9", shared=True)
    monkeypatch.setattr(sys, "argv", ["test-versions", "v9"])
    assert test_versions.main() == 2
    assert "v9 is no tag" in capsys.readouterr().err
