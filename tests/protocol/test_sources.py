"""Sources: where a task's input comes from, read as Bacalhau's job files have it."""

from __future__ import annotations

import pytest

from protocol.errors import JobSpecError
from protocol.inputs import InputSource, read_inputs
from protocol.sources import (
    ArchiveSource,
    DirectorySource,
    InlineSource,
    Source,
    UrlSource,
)
from protocol.tree import Node, Plain

DIGEST = "ab" * 32


def inline(url: str, target: str = "/data") -> Plain:
    return {"Source": {"Type": "inline", "Params": {"URL": url}}, "Target": target}


def archive(**params: Plain) -> Plain:
    return {"Source": {"Type": "archive", "Params": {**params}}, "Target": "in"}


def local(path: str, **params: Plain) -> Plain:
    source: Plain = {"Type": "localDirectory", "Params": {"SourcePath": path, **params}}
    return {"Source": source, "Target": "/data"}


def web(url: str, **params: Plain) -> Plain:
    return {"Source": {"Type": "urlDownload", "Params": {"URL": url, **params}}, "Target": "in"}


@pytest.mark.parametrize(
    ("item", "source"),
    [
        (local("//srv/./data/"), DirectorySource("/srv/data")),
        (local("/srv", readwrite=True), DirectorySource("/srv", True)),
        (local("/srv", CreateAs="noCreate"), DirectorySource("/srv")),
        (local("/srv", CreateAs=""), DirectorySource("/srv")),
        (
            {"Source": {"Type": "local", "Params": {"SourcePath": "/srv"}}, "Target": "/data"},
            DirectorySource("/srv"),
        ),
        (web("https://x.org/a/b%20c.csv?d=e/f"), UrlSource("https://x.org/a/b%20c.csv?d=e/f")),
        (web("http://[::1]:80/f", sha256=DIGEST.upper()), UrlSource("http://[::1]:80/f", DIGEST)),
        (
            {"Source": {"Type": "peer", "Params": {"Digest": DIGEST, "Size": 1}}, "Target": "x"},
            ArchiveSource(DIGEST, 1, True),
        ),
    ],
)
def test_bacalhaus_sources_and_ours_are_read_and_written(item: Plain, source: Source) -> None:
    (found,) = read_inputs(Node([item]))
    assert found.source == source
    assert read_inputs(Node([found.to_plain()])) == (found,)


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/b%20c.csv?d=e/f#g", "b c.csv"), ("day/", "day"), ("day//?d=e", "day"), ("a%2Fb", "b")],
)
def test_a_download_is_called_as_its_address_ends(path: str, name: str) -> None:
    (found,) = read_inputs(Node([web(f"https://x.org/{path}")]))
    assert isinstance(found.source, UrlSource) and found.source.file_name == name


@pytest.mark.parametrize(
    ("url", "content", "media_type"),
    [
        ("data:,hello%20you", b"hello you", "text/plain;charset=us-ascii"),
        ("data:;base64,aGVsbG8=", b"hello", "text/plain;charset=us-ascii"),
        ("DATA:text/HTML;charset=utf-8,x", b"x", "text/html;charset=utf-8"),
        ("data:application/gzip;base64,", b"", "application/gzip"),
        ("data:;base64,aGVs\r\nbG8=\n", b"hello", "text/plain;charset=us-ascii"),
        ("data:,hello\nyou", b"hello\nyou", "text/plain;charset=us-ascii"),
        ("data:,zwölf", "zwölf".encode(), "text/plain;charset=us-ascii"),
    ],
)
def test_inline_sources_hold_their_bytes(url: str, content: bytes, media_type: str) -> None:
    (found,) = read_inputs(Node([inline(url)]))
    assert isinstance(found.source, InlineSource)
    assert (found.source.content(), found.source.media_type) == (content, media_type)
    assert read_inputs(Node([found.to_plain()])) == (found,)


@pytest.mark.parametrize("url", ["http://x", "data:x", "data:;base64,a", "data:;base64,§", ""])
def test_what_is_no_data_url_is_refused(url: str) -> None:
    with pytest.raises(JobSpecError, match=r"\[0\].Source.Params.URL: .* is not a data URL"):
        read_inputs(Node([inline(url)]))


def test_a_source_that_was_never_read_has_no_content() -> None:
    assert InlineSource("nothing").media_type == "text/plain;charset=us-ascii"
    with pytest.raises(ValueError, match="does not start like one"):
        InlineSource("nothing").content()


def test_archives_are_named_by_their_content() -> None:
    (found,) = read_inputs(Node([archive(digest=DIGEST.upper(), SIZE="1Ki")]))
    assert found == InputSource(ArchiveSource(DIGEST, 1024), "in")
    assert read_inputs(Node([found.to_plain()])) == (found,)


@pytest.mark.parametrize(
    ("item", "path", "message"),
    [
        (archive(Digest="abc", Size=1), "I[0].Source.Params.Digest", "SHA-256 as 64 hex digits"),
        (archive(Digest=DIGEST), "I[0].Source.Params.Size", "missing"),
        (archive(Digest=DIGEST, Size="5Ti"), "I[0].Source.Params.Size", "allowed: 0 to 4Gi"),
        ({"Source": {"Type": "inline"}, "Target": "x"}, "I[0].Source.Params.URL", "missing"),
        (local("srv"), "I[0].Source.Params.SourcePath", "allowed: e.g. /srv/data"),
        (local("/srv/../etc"), "I[0].Source.Params.SourcePath", "is not a path of a device"),
        (local("/"), "I[0].Source.Params.SourcePath", "is not a path of a device"),
        (local("/a", ReadWrite=1), "I[0].Source.Params.ReadWrite", "is not a boolean"),
        (local("/a", CreateAs="dir"), "I[0].Source.Params.CreateAs", "make the path on the device"),
        (local("/a", CreateAs="File"), "I[0].Source.Params.CreateAs", "make the path on the"),
        (web("ftp://x/f"), "I[0].Source.Params.URL", "allowed: http:// or https://"),
        (web("https:///f"), "I[0].Source.Params.URL", "is not an address here"),
        (web("https://x:y/f"), "I[0].Source.Params.URL", "is not an address here"),
        (web("https://x/a b"), "I[0].Source.Params.URL", "is not an address here"),
        (web("https://x/"), "I[0].Source.Params.URL", "names no file"),
        (web("https://x/%2e%2e"), "I[0].Source.Params.URL", "names no file"),
        (web("https://x/a%2F.."), "I[0].Source.Params.URL", "names no file"),
        (web("https://x"), "I[0].Source.Params.URL", "names no file"),
        (web("https://x/f", SHA256="abc"), "I[0].Source.Params.SHA256", "64 hex digits"),
        (inline("data:," + "x" * 70000), "I[0].Source.Params.URL", "at most 61440"),
    ],
)
def test_errors_name_the_place(item: Plain, path: str, message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        read_inputs(Node([item], "I"))
    assert (caught.value.path, message in caught.value.message) == (path, True), caught.value
