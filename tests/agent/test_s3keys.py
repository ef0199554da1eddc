"""Access keys: whose they are for which server, and that a broken file gives nothing away."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.s3keys import Keys, KeysError, keys_for

FILE = """
[default]
aws_access_key_id = A
aws_secret_access_key = a%cret

[minio.lan:9000]
aws_access_key_id = M
aws_secret_access_key = m
aws_session_token = t

[half]
aws_access_key_id = H
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.write_text(FILE)
    return path


def test_a_profile_with_the_name_of_the_host_comes_first(file: Path) -> None:
    assert keys_for("minio.lan:9000", file, "default", {}) == Keys("M", "m", "t")
    assert keys_for("s3.amazonaws.com", file, "default", {}) == Keys("A", "a%cret")
    assert keys_for("s3.amazonaws.com", file, "absent", {}) is None


def test_a_named_file_comes_before_the_environment_and_that_before_the_usual_places(
    file: Path,
) -> None:
    own = {"AWS_ACCESS_KEY_ID": "E", "AWS_SECRET_ACCESS_KEY": "e", "AWS_SESSION_TOKEN": "s"}
    usual = {"AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_PROFILE": "minio.lan:9000"}
    assert keys_for("aws", file, "default", own) == Keys("A", "a%cret")
    assert keys_for("aws", None, "default", {**own, **usual}) == Keys("E", "e", "s")
    assert keys_for("aws", None, "default", usual) == Keys("M", "m", "t")
    absent = {"AWS_SHARED_CREDENTIALS_FILE": str(file.with_name("absent"))}
    assert keys_for("aws", None, "default", absent) is None


def test_what_is_wrong_with_a_file_is_said_and_not_what_stands_in_it(
    file: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeysError, match=r"/absent with access keys cannot be read: No such file"):
        keys_for("aws", tmp_path / "absent", "default", {})
    with pytest.raises(KeysError, match=r"has no access key and secret in \[half\]"):
        keys_for("aws", file, "half", {})
    for broken in (b"SECRETsecret\n", b"[default]\nSECRETsecret\n", b"\xff\xfe"):
        file.write_bytes(broken)
        with pytest.raises(KeysError, match="is not as AWS' tools have it") as caught:
            keys_for("aws", file, "default", {})
        assert "secret\n" not in str(caught.value) and "SECRET" not in str(caught.value)
    assert "cret" not in repr(Keys("A", "cret", "cret"))
