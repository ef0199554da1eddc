"""Inputs, publishers and result paths as Bacalhau's users type them."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cli.exitcodes import CliError
from agent.cli.sources import publisher, result_path, source

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("text", "kind", "params", "target"),
    [
        ("https://e.org/x", "urlDownload", {"URL": "https://e.org/x"}, "/inputs"),
        ("https://e.org:81/x", "urlDownload", {"URL": "https://e.org:81/x"}, "/inputs"),
        ("https://e.org:81/x:/in", "urlDownload", {"URL": "https://e.org:81/x"}, "/in"),
        (
            "https://e.org/x?u=http://y",
            "urlDownload", {"URL": "https://e.org/x?u=http://y"}, "/inputs",
        ),
        ("src=https://e.org/x?a=b,dst=/in", "urlDownload", {"URL": "https://e.org/x?a=b"}, "/in"),
        (
            f"https://e.org/x,dst=/in,opt=sha256={DIGEST}",
            "urlDownload", {"URL": "https://e.org/x", "SHA256": DIGEST}, "/in",
        ),
        ("s3://bucket", "s3", {"Bucket": "bucket", "Key": ""}, "/inputs"),
        ("s3://bucket/a/b?c#d:/in", "s3", {"Bucket": "bucket", "Key": "a/b?c#d"}, "/in"),
        ("source=s3://bucket/12:00,target=in", "s3", {"Bucket": "bucket", "Key": "12:00"}, "in"),
        (
            "s3://bucket/k,DST=/in,opt=endpoint=http://m:9000,option=version-id=7,opt=checksum-256=x",
            "s3",
            {
                "Bucket": "bucket", "Key": "k", "Endpoint": "http://m:9000",
                "VersionID": "7", "ChecksumSHA256": "x",
            },
            "/in",
        ),
        (
            's3://bucket/a/*,"opt=filter=^a,b$",opt=region=eu-west-1',
            "s3",
            {"Bucket": "bucket", "Key": "a/*", "Filter": "^a,b$", "Region": "eu-west-1"},
            "/inputs",
        ),
        ("file:///srv/data:/in", "localDirectory", {"SourcePath": "/srv/data"}, "/in"),
        (
            "file:///srv/data,opt=read-write=True",
            "localDirectory", {"SourcePath": "/srv/data", "ReadWrite": True}, "/inputs",
        ),
        (
            f"peer://{DIGEST}:/in,opt=size=77",
            "peer", {"Digest": DIGEST, "Size": "77"}, "/in",
        ),
    ],
)  # fmt: skip
def test_an_input(text: str, kind: str, params: dict[str, Any], target: str) -> None:
    found = source("--input", text)
    assert found == {"Source": {"Type": kind, "Params": params}, "Target": target}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "nothing is named"),
        ("data.csv", "no source is named"),
        ("git://e.org/x", "no inputs of git here"),
        ("https://e.org/x,/in", "cannot read '/in'"),
        ("https://e.org/x,as=/in", "cannot read 'as=/in'"),
        ("https://e.org/x,opt=rw=true", "no option 'rw'; allowed: sha256"),
        ("s3://b/k,opt=profile=x", "no option 'profile'; allowed: endpoint, region, filter"),
        ('s3://b/k,"opt', "unexpected end of data"),
        ("https://[e.org/x", "Invalid IPv6"),
    ],
)
def test_what_is_no_input_says_so(text: str, why: str) -> None:
    with pytest.raises(CliError) as found:
        source("--input", text)
    assert why in str(found.value) and str(found.value).startswith("--input")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", {"Type": "local"}),
        ("s3://bucket/a/b", {"Type": "s3", "Params": {"bucket": "bucket", "key": "a/b"}}),
        (
            "s3,opt=bucket=bucket,opt=key=7,opt=endpoint=http://m:9000",
            {"Type": "s3", "Params": {"bucket": "bucket", "key": "7", "endpoint": "http://m:9000"}},
        ),
        (
            "target=s3://bucket/a,opt=Key=other",
            {"Type": "s3", "Params": {"Key": "other", "bucket": "bucket"}},
        ),
        (
            "mqtt://home/a/b,opt=qos=0,opt=retain=true",
            {
                "Type": "mqtt",
                "Params": {"qos": 0, "retain": True, "broker": "home", "topic": "a/b"},
            },
        ),
    ],
)
def test_a_publisher(text: str, expected: dict[str, Any]) -> None:
    assert publisher(text) == expected


@pytest.mark.parametrize("text", ["", "local,opt=a=b", "ftp://x/y", "s3://b/k,more"])
def test_what_is_no_publisher_says_so(text: str) -> None:
    with pytest.raises(CliError, match="--publisher"):
        publisher(text)


def test_a_result_path_has_the_name_in_front_or_that_of_its_last_part() -> None:
    assert result_path("outputs:/outputs") == {"Name": "outputs", "Path": "/outputs"}
    assert result_path("day:/data/12:00") == {"Name": "day", "Path": "/data/12:00"}
    assert result_path("/data/log.txt/") == {"Name": "log.txt", "Path": "/data/log.txt/"}
    for text in ("/data/12:00", ":/x", "x:"):
        with pytest.raises(CliError, match="allowed: NAME:PATH"):
            result_path(text)
