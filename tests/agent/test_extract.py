"""Extracting: files and directories below one place, whatever an archive asks for."""

from __future__ import annotations

import errno
import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from agent.extract import NoRoom, NotExtracted, extract, extract_stream


def made(tmp_path: Path, *members: tarfile.TarInfo, data: bytes = b"data") -> Path:
    path = tmp_path / "archive"
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    path.write_bytes(gzip.compress(raw.getvalue()))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def out(tmp_path: Path, *members: tarfile.TarInfo, strict: bool = True) -> Path:
    into = tmp_path / "into"
    into.mkdir(exist_ok=True)
    extract(made(tmp_path, *members), into, 100, 4, strict=strict)
    return into


def test_files_and_directories_come_out_with_modes_that_harm_nobody(tmp_path: Path) -> None:
    run = entry("./bin/run", mode=0o6777, mtime=1_800_000_000)
    into = out(tmp_path, entry("empty", tarfile.DIRTYPE), run, entry("bin/shut", mode=0o000))
    assert (into / "empty").is_dir() and (into / "bin" / "run").read_bytes() == b"data"
    assert (into / "bin" / "run").stat().st_mode & 0o7777 == 0o755
    assert (into / "bin" / "run").stat().st_mtime == 1_800_000_000
    assert (into / "bin" / "shut").stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_fault_of_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, "no room")

    monkeypatch.setattr("agent.extract.shutil.copyfileobj", full)
    with pytest.raises(NoRoom, match=r"^the disk is full$"):
        out(tmp_path, entry("x"))


def test_an_absolute_name_lands_inside(tmp_path: Path) -> None:
    assert (out(tmp_path, entry("/etc/x")) / "etc" / "x").read_bytes() == b"data"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", "/../x"])
def test_no_name_leads_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotExtracted, match="leads out"):
        out(tmp_path, entry(name))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_whatever_else_there_is_is_refused_or_left_out(tmp_path: Path, kind: bytes) -> None:
    odd = entry("odd", kind, linkname="/etc/passwd")
    with pytest.raises(NotExtracted, match="only files and directories"):
        out(tmp_path, odd)
    assert [path.name for path in out(tmp_path, odd, entry("a"), strict=False).iterdir()] == ["a"]


def streamed(tmp_path: Path, *members: tarfile.TarInfo) -> Path:
    into = tmp_path / "into"
    into.mkdir(exist_ok=True)
    raw = gzip.decompress(made(tmp_path, *members).read_bytes())
    extract_stream(io.BytesIO(raw), into, 100, 10)
    return into


def test_a_hard_link_is_the_file_by_its_second_name(tmp_path: Path) -> None:
    into = streamed(tmp_path, entry("o/a"), entry("o/deep/b", tarfile.LNKTYPE, linkname="o/a"))
    assert (into / "o/deep/b").read_bytes() == b"data"


@pytest.mark.parametrize("target", ["../secret", "/secret", "o/link", "o/none", "o"])
def test_a_hard_link_leads_nowhere_but_to_a_file_that_came_out(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    link = entry("o/link", tarfile.SYMTYPE, linkname="../../secret")
    into = streamed(tmp_path, entry("o/a"), link, entry("o/b", tarfile.LNKTYPE, linkname=target))
    assert (into / "o/b").is_fifo() and not (into / "secret").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_left_out_leaves_a_mark_that_nothing_is_written_through(
    tmp_path: Path, kind: bytes
) -> None:
    into = streamed(tmp_path, entry("odd", kind, linkname="/etc"), entry("a"))
    assert (into / "odd").is_fifo() and (into / "a").read_bytes() == b"data"
    with pytest.raises(OSError, match="No such device"):
        streamed(tmp_path, entry("odd"))


def test_a_link_that_was_there_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "kept").write_bytes(b"kept")
    (tmp_path / "into" / "a").symlink_to(tmp_path / "kept")
    with pytest.raises(NotExtracted):
        out(tmp_path, entry("a"))
    assert (tmp_path / "kept").read_bytes() == b"kept"


def test_what_bursts_its_bounds_is_refused(tmp_path: Path) -> None:
    for members in ([entry(str(n)) for n in range(5)], [entry("a")] * 5):
        with pytest.raises(NotExtracted, match="too many"):
            out(tmp_path, *members)
    with pytest.raises(NotExtracted, match="too large"):
        extract(made(tmp_path, entry("big"), data=b"x" * 101), tmp_path / "into", 100, 4)


@pytest.mark.parametrize(
    "kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]
)
def test_a_description_without_end_is_not_read(tmp_path: Path, kind: bytes) -> None:
    """A kilobyte of these unpacks to a megabyte, which tarfile would hold several times over."""
    size = 64 << 20
    head = entry("long", kind, size=size).tobuf(tarfile.GNU_FORMAT)
    with gzip.open(tmp_path / "archive", "wb", compresslevel=1) as file:
        for block in (head, *[b"1" * (1 << 20)] * (size >> 20)):
            file.write(block)
    tracemalloc.start()
    try:
        with pytest.raises(NotExtracted, match=f"a description of {size} bytes"):
            extract(tmp_path / "archive", tmp_path / "into", 100, 4)
        assert tracemalloc.get_traced_memory()[1] < size // 8
    finally:
        tracemalloc.stop()


def test_files_with_holes_are_told_of(tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    for holes in (entry("a", tarfile.GNUTYPE_SPARSE), entry("a", pax_headers=headers)):
        with pytest.raises(NotExtracted, match="files with holes"):
            out(tmp_path, holes)


def test_a_size_below_nothing_is_refused(tmp_path: Path) -> None:
    raw = bytearray(entry("a").tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = b"\xff" * 11 + b"\x00"  # -256, as GNU tar writes numbers
    raw[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(raw))[0]
    (tmp_path / "archive").write_bytes(gzip.compress(bytes(raw) + bytes(1024)))
    with pytest.raises(NotExtracted):
        extract(tmp_path / "archive", tmp_path / "into", 100, 4)


@pytest.mark.parametrize("mtime", [10**30, -(10**30)])
def test_a_time_that_cannot_be_is_no_reason_to_fail(tmp_path: Path, mtime: int) -> None:
    assert (out(tmp_path, entry("a", mtime=mtime)) / "a").read_bytes() == b"data"


@pytest.mark.parametrize(
    "data",
    [b"", b"no gzip", gzip.compress(b"no tar" * 500), b"\x1f\x8b\x08"],
    # A gzip holds the time it was made at, and names of tests must be the same in every worker.
    ids=["nothing", "no gzip", "no tar", "cut off"],
)
def test_what_is_no_archive_is_told_of(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(NotExtracted):
        extract(tmp_path / "archive", tmp_path, 100, 4)


def test_a_stream_that_is_no_whole_archive_is_told_of(tmp_path: Path) -> None:
    member = entry("a")
    member.size = 5000
    for data in (b"", b"no tar at all" * 100, member.tobuf(tarfile.PAX_FORMAT) + b"1" * 3000):
        with pytest.raises(NotExtracted, match="ReadError"):
            extract_stream(io.BytesIO(data), tmp_path, 10_000, 4)


def test_a_stream_leads_out_no_more_and_is_as_large_as_it_says(tmp_path: Path) -> None:
    holes = {"GNU.sparse.size": str(10 << 30), "GNU.sparse.map": "0,1"}
    large = entry("large", size=(1 << 30) + 1)
    for member, why in (
        (entry("../escaped"), "leads out of the directory"),
        (entry("outputs/../../escaped"), "leads out of the directory"),
        (entry("sparse", pax_headers=holes), "too large unpacked"),
        (large, "too large unpacked"),
    ):
        data = member.tobuf(tarfile.PAX_FORMAT) + bytes(10_000)
        with pytest.raises(NotExtracted, match=why):
            extract_stream(io.BytesIO(data), tmp_path / "into", 1 << 30, 4)
    assert not (tmp_path / "escaped").exists() and not (tmp_path / "into").exists()
