"""S3 on a device: told of where its client is installed, and loaded where it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.archives import ArchiveError
from agent.config import S3 as Settings
from agent.s3 import S3
from protocol.s3 import Place


def test_it_is_here_where_its_client_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (S3(Settings()).present, S3(Settings()).lacking) == (True, ())
    monkeypatch.setattr("agent.s3.CLIENT", "no_such_package")
    assert (S3(Settings()).present, S3(Settings()).lacking) == (False, ("bucket",))


def test_an_agent_that_has_it_does_not_load_it() -> None:
    code = "import sys, agent.main; print(sorted({'minio', 'boto3'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_keys_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    s3 = S3(Settings(credentials=tmp_path / "absent"))
    with pytest.raises(ArchiveError, match="absent with access keys cannot be read"):
        s3.open(Place("readings"), lambda: None)


def test_what_is_wrong_with_the_file_of_keys_is_known(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    assert S3(Settings()).trouble() == ""
    assert "cannot be read" in S3(Settings(credentials=file)).trouble()
    file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    file.chmod(0o644)
    assert "others can read the access keys" in S3(Settings(credentials=file)).trouble()
    file.chmod(0o600)
    assert S3(Settings(credentials=file)).trouble() == ""


def test_a_client_that_does_not_load_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agent.bucket", None)
    with pytest.raises(ArchiveError, match="s3 does not work on this device: "):
        S3(Settings()).open(Place("readings"), lambda: None)
