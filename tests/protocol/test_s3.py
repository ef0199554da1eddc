"""s3: what a job file may say of buckets, and what of that is one canonical tree."""

from __future__ import annotations

import base64
import hashlib

import pytest

from protocol.errors import JobSpecError
from protocol.s3 import S3Source, S3Target
from protocol.sources import read_source
from protocol.tree import Node, Plain

DIGEST = hashlib.sha256(b"x").digest()
VALUES = {
    "{executionID}": "e1",
    "{jobID}": "j1",
    "{nodeID}": "p1",
    "{date}": "20270131",
    "{time}": "235959",
}


def source(**params: Plain) -> S3Source:
    found = read_source("s3", Node({"Bucket": "readings", **params}, "P"))
    assert isinstance(found, S3Source)
    return found


def target(**params: Plain) -> S3Target:
    return S3Target.read(Node({"Bucket": "results", "Key": "out", **params}, "P"))


# ---- sources -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "key", "many", "again"),
    [
        ("day/one.csv", "day/one.csv", False, "day/one.csv"),
        ("day/", "day/", True, "day/"),
        ("day/*", "day/", True, "day/"),
        ("day/r-*", "day/r-", True, "day/r-*"),
        ("*", "", True, "*"),
        ("", "", True, "*"),
        (None, "", True, "*"),
        ("a*b", "a*b", False, "a*b"),
        ("with space+ä", "with space+ä", False, "with space+ä"),
    ],
)
def test_a_key_is_of_one_object_or_of_all_that_begin_so(
    written: Plain, key: str, many: bool, again: str
) -> None:
    found = source(Key=written)
    assert (found.key, found.many) == (key, many)
    plain = found.to_plain()
    assert plain["Params"] == {"Bucket": "readings", "Key": again}
    assert source(Key=again) == found


def test_keys_are_read_in_any_letter_case_and_written_in_one() -> None:
    found = source(
        key="a/b", REGION="eu-west-1", endpoint="HTTP://MinIO.lan:9000/", versionid="v1", filter=""
    )
    assert found.to_plain() == {
        "Type": "s3",
        "Params": {
            "Bucket": "readings",
            "Endpoint": "http://minio.lan:9000",
            "Region": "eu-west-1",
            "Key": "a/b",
            "VersionID": "v1",
        },
    }
    assert found.place.name == "http://minio.lan:9000/readings"
    assert source(Endpoint="https://MinIO.lan").place.name == "minio.lan/readings"
    assert found.url == "s3://readings/a/b?versionId=v1"
    assert source(Key="a").place.name == "s3.amazonaws.com/readings"
    assert source(Key="a*").url == "s3://readings/a*"


def test_a_checksum_is_as_s3_tells_it_or_in_hex() -> None:
    expected = DIGEST.hex()
    assert source(Key="a", ChecksumSHA256=base64.b64encode(DIGEST).decode()).digest == expected
    assert source(Key="a", ChecksumSHA256=expected.upper()).digest == expected
    assert source(Key="a", ChecksumSHA256="").digest == ""


@pytest.mark.parametrize(
    ("params", "place", "message"),
    [
        ({"Bucket": None}, "P.Bucket", "missing"),
        ({"Bucket": "ab"}, "P.Bucket", "3 to 63"),
        ({"Bucket": "a/b"}, "P.Bucket", "'a/b' is not a name here"),
        ({"Bucket": "a..b"}, "P.Bucket", "is not a bucket"),
        ({"Key": "../x"}, "P.Key", "'../x' is not a key here"),
        ({"Key": "a/./x"}, "P.Key", "is not a key here"),
        ({"Key": "a\nb"}, "P.Key", "is not a key here"),
        ({"Key": "a" * 1025}, "P.Key", "is not a key here"),
        ({"Key": "a/", "VersionID": "v"}, "P.VersionID", "does not go with a key of many objects"),
        ({"Key": "*", "ChecksumSHA256": "0" * 64}, "P.ChecksumSHA256", "of many objects"),
        ({"Key": "a", "Filter": "x"}, "P.Filter", "does not go with a key of one object"),
        ({"Key": "*", "Filter": "a" * 513}, "P.Filter", "512"),
        ({"Key": "a", "ChecksumSHA256": "abc"}, "P.ChecksumSHA256", "is not the SHA-256"),
        (
            {"Key": "a", "ChecksumSHA256": base64.b64encode(DIGEST).decode() + "-2"},
            "P.ChecksumSHA256",
            "uploaded in parts",
        ),
        ({"Key": "a", "VersionID": "a b"}, "P.VersionID", "is not the version"),
        ({"Region": "EU_west"}, "P.Region", "'EU_west' is not a region"),
        ({"Endpoint": "minio.lan:9000"}, "P.Endpoint", "is not an endpoint"),
        ({"Endpoint": "ftp://minio.lan"}, "P.Endpoint", "is not an endpoint"),
        ({"Endpoint": "http://minio.lan/path"}, "P.Endpoint", "is not an endpoint"),
        ({"Endpoint": "http://me:secret@minio.lan"}, "P.Endpoint", "is not an endpoint"),
        ({"Endpoint": "http://minio.lan:port"}, "P.Endpoint", "is not an endpoint"),
        ({"Endpoint": "http://"}, "P.Endpoint", "is not an endpoint"),
        ({"Partition": {}}, "P.Partition", "SHOAL_PARTITION_INDEX"),
        ({"AccessKey": "x"}, "P.AccessKey", "unknown key"),
    ],
)
def test_errors_of_a_source_name_the_place_and_the_way_out(
    params: dict[str, Plain], place: str, message: str
) -> None:
    with pytest.raises(JobSpecError) as caught:
        source(**params)
    assert caught.value.path == place and message in str(caught.value)


# ---- publishers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "encoding"),
    [
        ({}, "gzip"),
        ({"Encoding": ""}, "gzip"),
        ({"Encoding": "GZIP"}, "gzip"),
        ({"Encoding": "plain"}, "plain"),
        ({"Compress": True}, "gzip"),
        ({"Compress": "false"}, "plain"),
        ({"Encoding": "gzip", "Compress": True}, "gzip"),
    ],
)
def test_results_are_one_archive_unless_the_job_says_otherwise(
    params: dict[str, Plain], encoding: str
) -> None:
    found = target(**params)
    assert found.to_plain() == {"Bucket": "results", "Key": "out", "Encoding": encoding}
    assert S3Target.read(Node(found.to_plain())) == found


@pytest.mark.parametrize(
    ("key", "encoding", "resolved"),
    [
        ("out", "gzip", "out.tar.gz"),
        ("out.tar.gz", "gzip", "out.tar.gz"),
        ("out/", "gzip", "out.tar.gz"),
        ("out", "plain", "out/"),
        ("out/", "plain", "out/"),
        ("{jobID}/{executionID}/{nodeID}", "plain", "j1/e1/p1/"),
        ("{date}-{time}-{date}", "gzip", "20270131-235959-20270131.tar.gz"),
        ("{unknown}", "plain", "{unknown}/"),
    ],
)
def test_a_key_ends_as_bacalhaus_do_with_its_placeholders_replaced(
    key: str, encoding: str, resolved: str
) -> None:
    assert target(Key=key, Encoding=encoding).resolved(VALUES) == resolved


@pytest.mark.parametrize(
    ("params", "place", "message"),
    [
        ({"Key": None}, "P.Key", "missing"),
        ({"Key": "/"}, "P.Key", "is not a key here"),
        ({"Key": "/out"}, "P.Key", "is not a key here"),
        ({"Key": "a//b"}, "P.Key", "is not a key here"),
        ({"Key": "a/../b"}, "P.Key", "is not a key here"),
        ({"Encoding": "zstd"}, "P.Encoding", "allowed: , gzip, plain"),
        ({"Encoding": "plain", "Compress": True}, "P.Compress", "does not go with Encoding"),
        ({"Filter": "x"}, "P.Filter", "unknown key"),
    ],
)
def test_errors_of_a_publisher_name_the_place_and_the_way_out(
    params: dict[str, Plain], place: str, message: str
) -> None:
    with pytest.raises(JobSpecError) as caught:
        target(**params)
    assert caught.value.path == place and message in str(caught.value)
