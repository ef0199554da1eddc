"""Files of containers: in for whoever its user is, out only as files, within bounds."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import IO, cast

import pytest

from agent.engines import container_files
from agent.engines.container import ContainerLaunch
from agent.engines.container_files import fetch_files, open_up, put_files
from agent.engines.docker_client import DockerClient, EngineFailed, NotAnswering, NotThere


@pytest.fixture
def work(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# ---- in ----------------------------------------------------------------------------------------


class Taking:
    """A client that keeps what is put."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.asked: list[str] = []
        self.tar = b""

    def put(self, execution_id: str, tar: IO[bytes]) -> None:
        self.asked.append(execution_id)
        if self.failure is not None:
            raise self.failure
        self.tar = tar.read()

    def members(self) -> dict[str, tarfile.TarInfo]:
        with tarfile.open(fileobj=io.BytesIO(self.tar)) as tar:
            return {member.name: member for member in tar}

    def content(self, name: str) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(self.tar)) as tar:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()


def put(work: Path, client: Taking | None = None, **launch: object) -> Taking:
    """As a launch has it; nothing stays in the spool."""
    client = client or Taking()
    spool = work.parent / "tmp"
    spool.mkdir()
    made = ContainerLaunch("e1", "busybox", **launch)  # type: ignore[arg-type]
    try:
        put_files(cast("DockerClient", client), made, work, spool)
    finally:
        assert os.listdir(spool) == []
    return client


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_what_has_no_files_costs_no_call(work: Path) -> None:
    write(work / "input/x", "mounted")
    assert put(work, inputs=("/input",)).asked == []


def test_directories_for_results_are_anybodys(work: Path) -> None:
    write(work / "stray", "x")
    client = put(work, results=("/outputs", "/var/lib/app"))
    found = client.members()
    assert (client.asked, list(found)) == (["e1"], ["outputs", "var/lib/app"])
    for member in found.values():
        assert member.isdir() and member.mode == 0o777
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
        assert member.mtime > 1_700_000_000


def test_shipped_files_go_into_the_task_directory_as_they_are(work: Path) -> None:
    write(work / "script.sh", "echo", 0o755)
    write(work / "secret", "s", 0o600)
    write(work / "deep/deeper/data", "d" * 100_000, 0o444)
    (work / "deep").chmod(0o700)
    client = put(work, has_task_dir=True)
    assert {name: member.mode for name, member in client.members().items()} == {
        "shoal": 0o777,
        "shoal/deep": 0o777,
        "shoal/deep/deeper": 0o777,
        "shoal/deep/deeper/data": 0o666,
        "shoal/script.sh": 0o777,
        "shoal/secret": 0o666,
    }
    assert client.content("shoal/deep/deeper/data") == b"d" * 100_000
    assert client.content("shoal/script.sh") == b"echo"


def test_shipped_files_are_nobodys_of_this_device(work: Path) -> None:
    write(work / "file", "x")
    if os.geteuid() == 0:
        os.chown(work / "file", 1234, 1234)
    client = put(work, has_task_dir=True, results=("/outputs",))
    assert list(client.members()) == ["shoal", "outputs", "shoal/file"]
    for member in client.members().values():
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")


def test_an_empty_task_directory_is_made_for_results(work: Path) -> None:
    assert list(put(work, has_task_dir=True).members()) == ["shoal"]


def test_what_is_mounted_does_not_go_in_twice(work: Path) -> None:
    write(work / "input/x", "mounted")
    write(work / "config", "mounted")
    write(work / "data/in", "shipped")
    client = put(work, has_task_dir=True, inputs=("/input", "/config"))
    assert list(client.members()) == ["shoal", "shoal/data", "shoal/data/in"]


def test_what_docker_says_against_it_is_said_on(work: Path) -> None:
    with pytest.raises(EngineFailed, match="no space left on device"):
        put(work, Taking(EngineFailed("no space left on device")), has_task_dir=True)


# ---- out ---------------------------------------------------------------------------------------


class Giving:
    """A client that has this tar at every path, in pieces of a size."""

    def __init__(self, tar: bytes, size: int = 700, failure: Exception | None = None) -> None:
        self.tar = tar
        self.size = size
        self.failure = failure
        self.asked: list[tuple[str, str]] = []
        self.given = 0
        self.closed = 0

    def get(self, execution_id: str, path: str) -> Generator[bytes, None, None]:
        self.asked.append((execution_id, path))
        try:
            for begin in range(0, len(self.tar), self.size):
                self.given += 1
                yield self.tar[begin : begin + self.size]
            if self.failure is not None:
                raise self.failure
        finally:
            self.closed += 1


def fetch(client: Giving, path: str, out: Path, given_up: threading.Event | None = None) -> None:
    try:
        given_up = given_up or threading.Event()
        bytes_max = container_files.RESULT_BYTES_MAX
        fetch_files(cast("DockerClient", client), "e1", path, out, bytes_max, given_up)
    finally:
        assert client.closed == 1, "docker keeps the container locked while it sends"


def info(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in more.items():
        setattr(made, key, value)
    return made


def packed(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in entries:
            if content:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


def tree(name: str, **files: bytes) -> bytes:
    inner = [(info(f"{name}/{key}"), content) for key, content in files.items()]
    return packed((info(f"{name}/", tarfile.DIRTYPE), b""), *inner)


def found(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("size", [1, 700, 1 << 20])
def test_a_tree_comes_out_whole_whatever_the_pieces_are(out: Path, size: int) -> None:
    large = bytes(range(256)) * 200
    client = Giving(tree("outputs", a=b"1\n", b=large), size)
    fetch(client, "/outputs", out)
    assert client.asked == [("e1", "/outputs")]
    assert found(out) == {"outputs/a": b"1\n", "outputs/b": large}


@pytest.mark.parametrize(
    ("path", "asked", "name", "at"),
    [
        ("out.txt", "/shoal/out.txt", "out.txt", "out.txt"),
        ("deep/out.txt", "/shoal/deep/out.txt", "out.txt", "deep/out.txt"),
        ("/var/log/app.log", "/var/log/app.log", "app.log", "var/log/app.log"),
    ],
)
def test_a_file_is_at_its_path_below(out: Path, path: str, asked: str, name: str, at: str) -> None:
    client = Giving(packed((info(name), b"kept")))
    fetch(client, path, out)
    assert client.asked == [("e1", asked)]
    assert found(out) == {at: b"kept"}


def test_modes_and_times_come_with_it(out: Path) -> None:
    script = info("tool", mode=0o4755, mtime=1000)
    fetch(Giving(packed((script, b"x"))), "tool", out)
    held = (out / "tool").stat()
    assert (held.st_mode & 0o7777, held.st_mtime) == (0o755, 1000)


def test_what_another_path_brought_stays(out: Path) -> None:
    fetch(Giving(tree("a", x=b"1")), "/data/a", out)
    fetch(Giving(tree("b", x=b"2")), "/data/b", out)
    assert found(out) == {"data/a/x": b"1", "data/b/x": b"2"}


def test_links_and_devices_are_no_results_and_leave_a_mark(out: Path) -> None:
    client = Giving(
        packed(
            (info("outputs", tarfile.DIRTYPE), b""),
            (info("outputs/kept"), b"x"),
            (info("outputs/link", tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
            (info("outputs/hard", tarfile.LNKTYPE, linkname="outputs/kept"), b""),
            (info("outputs/pipe", tarfile.FIFOTYPE), b""),
            (info("outputs/null", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
        )
    )
    fetch(client, "/outputs", out)
    places = sorted((out / "outputs").iterdir())
    assert [path.name for path in places if path.is_file()] == ["hard", "kept"]
    assert [path.name for path in places if path.is_fifo()] == ["link", "null", "pipe"]


def test_a_link_in_place_of_the_result_is_none(out: Path) -> None:
    link = info("outputs", tarfile.SYMTYPE, linkname="/etc")
    fetch(Giving(packed((link, b""), (info("outputs2"), b"x"))), "/outputs", out)
    assert (out / "outputs").is_fifo() and (out / "outputs2").is_file()


@pytest.mark.parametrize("name", ["../escaped", "outputs/../../escaped", "outputs/.."])
def test_names_that_lead_out_are_refused(out: Path, name: str) -> None:
    client = Giving(packed((info("outputs", tarfile.DIRTYPE), b""), (info(name), b"x")))
    with pytest.raises(OSError, match="leads out of the directory"):
        fetch(client, "/outputs", out)
    assert os.listdir(out.parent) == ["out"] and found(out) == {}


def test_what_is_too_large_is_refused_before_it_is_read(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_files, "RESULT_BYTES_MAX", 1000)
    first, second = (info("outputs/a"), b"x" * 600), (info("outputs/b"), b"x" * 401)
    client = Giving(packed(first, second) + bytes(1 << 20))
    with pytest.raises(OSError, match="too many files, or too large unpacked"):
        fetch(client, "/outputs", out)
    assert found(out) == {"outputs/a": b"x" * 600}
    assert client.given < 100
    monkeypatch.setattr(container_files, "RESULT_BYTES_MAX", 1001)
    fetch(Giving(packed(first, second)), "/outputs", out)
    assert len(found(out)["outputs/b"]) == 401


def test_a_gigabyte_is_too_large(out: Path) -> None:
    header = info("huge", size=(1 << 30) + 1).tobuf(tarfile.PAX_FORMAT)
    with pytest.raises(OSError, match="too large unpacked"):
        fetch(Giving(header + bytes(10_000)), "huge", out)
    assert found(out) == {}


def test_a_sparse_file_is_as_large_as_it_says(out: Path) -> None:
    holes = {"GNU.sparse.size": str(10 << 30), "GNU.sparse.map": "0,1"}
    sparse = info("sparse", pax_headers=holes)
    with pytest.raises(OSError, match="too large unpacked"):
        fetch(Giving(packed((sparse, b"x"))), "sparse", out)
    assert found(out) == {}


def test_too_many_files_are_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_files, "RESULT_FILES_MAX", 3)
    fetch(Giving(tree("fits", a=b"1", b=b"2")), "/fits", out)
    with pytest.raises(OSError, match="too many files"):
        fetch(Giving(tree("much", a=b"1", b=b"2", c=b"3")), "/much", out)
    assert found(out) == {"fits/a": b"1", "fits/b": b"2", "much/a": b"1", "much/b": b"2"}


def test_given_up_before_it_begins_nothing_is_read(out: Path) -> None:
    given_up = threading.Event()
    given_up.set()
    client = Giving(tree("outputs", a=b"1"))
    with pytest.raises(OSError, match="the agent ends"):
        fetch_files(cast("DockerClient", client), "e1", "/outputs", out, 1 << 30, given_up)
    assert client.given == 0 and found(out) == {}


def test_given_up_meanwhile_it_stops_at_the_next_piece(out: Path) -> None:
    given_up = threading.Event()

    class Ending(Giving):
        def get(self, execution_id: str, path: str) -> Generator[bytes, None, None]:
            for number, piece in enumerate(super().get(execution_id, path)):
                if number == 50:
                    given_up.set()
                yield piece

    client = Ending(tree("outputs", a=b"1" * 500_000))
    with pytest.raises(OSError, match="the agent ends"):
        fetch(client, "/outputs", out, given_up)
    assert client.given == 51


def test_nothing_there_is_no_error(out: Path) -> None:
    fetch(Giving(b"", failure=NotThere("Could not find the file")), "/outputs/deep", out)
    assert found(out) == {}


CUT_OFF = tree("outputs", a=b"1" * 5000)[:2000]


@pytest.mark.parametrize("tar", [b"", CUT_OFF], ids=["empty", "cut off"])
def test_a_docker_that_breaks_off_is_no_end_of_the_files(out: Path, tar: bytes) -> None:
    with pytest.raises(NotAnswering, match="docker cannot be reached"):
        fetch(Giving(tar, failure=NotAnswering("docker cannot be reached")), "/outputs", out)


@pytest.mark.parametrize(
    "tar", [b"", b"no tar at all" * 100, CUT_OFF], ids=["empty", "no tar", "cut off"]
)
def test_what_is_no_whole_tar_is_an_error_with_a_sentence(out: Path, tar: bytes) -> None:
    with pytest.raises(OSError, match="ReadError"):
        fetch(Giving(tar), "/outputs", out)


def test_a_disk_that_is_full_says_so(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agent.extract.shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        fetch(Giving(tree("outputs", a=b"1")), "/outputs", out)
    assert caught.value.errno == 28


# ---- mounted -----------------------------------------------------------------------------------


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


def test_a_relative_input_beside_a_mounted_one_goes_in(work: Path) -> None:
    """InputSources: Target: /data/model and Target: data/config."""
    write(work / "data/model", "mounted")
    write(work / "data/config", "shipped")
    client = put(work, has_task_dir=True, inputs=("/data/model",))
    assert list(client.members()) == ["shoal", "shoal/data", "shoal/data/config"]


def test_a_mounted_program_may_be_run_by_anybody(work: Path) -> None:
    write(work / "input/tool", "x", 0o700)  # umask 077 where it was packed
    open_up(work)
    assert (work / "input/tool").stat().st_mode & 0o777 == 0o755


def test_a_shipped_program_may_be_run_by_anybody(work: Path) -> None:
    write(work / "tool", "x", 0o700)
    client = put(work, has_task_dir=True)
    assert client.members()["shoal/tool"].mode & 0o111 == 0o111


def test_opening_up_follows_no_link(work: Path) -> None:
    """Latent: what is extracted holds no links today. stat looks at the link, chmod at its target,
    which gets the link's own 0777."""
    secret = work.parent / "secret"
    write(secret, "x", 0o600)
    (work / "link").symlink_to(secret)
    open_up(work)
    assert secret.stat().st_mode & 0o777 == 0o600
