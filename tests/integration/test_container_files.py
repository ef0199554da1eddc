"""Files of containers: in for whoever its user is, out only as files, within bounds.

Docker takes and gives them; its answers are cut off or come in pieces where a test says so.
"""

from __future__ import annotations

import errno
import io
import os
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
import trio

from agent.engines import container_files
from agent.engines.container import ContainerLaunch
from agent.engines.container_files import fetch_files, put_files
from agent.engines.docker_client import LABEL, DockerClient, EngineFailed, NotAnswering
from tests.dockerhost import IMAGE, DockerHost
from tests.dockerproxy import LEAVES_SOCKETS, DockerProxy

pytestmark = LEAVES_SOCKETS
GET = rb"^GET \S*/archive"
PUT = rb"^PUT \S*/archive"
WITHIN_S = 60.0


@pytest.fixture
def work(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def create(docker: DockerHost, client: DockerClient, **host: bool) -> str:
    """A container that never runs; its name."""
    name = client.name_of("e1")
    config = docker.api.create_host_config(**host)
    docker.api.create_container(IMAGE, "true", name=name, labels={LABEL: "e1"}, host_config=config)
    return name


# ---- in ----------------------------------------------------------------------------------------


class Inside:
    """A container, and what has been put into it."""

    def __init__(self, docker: DockerHost, client: DockerClient, work: Path) -> None:
        self.docker = docker
        self.client = client
        self.work = work
        self.name = create(docker, client)

    def put(self, **launch: object) -> None:
        """As a launch has it; nothing stays in the spool."""
        spool = self.work.parent / "tmp"
        spool.mkdir(exist_ok=True)
        made = ContainerLaunch("e1", IMAGE, **launch)  # type: ignore[arg-type]
        try:
            put_files(self.client, made, self.work, spool)
        finally:
            assert os.listdir(spool) == []

    def tar(self, path: str) -> bytes:
        pieces, _ = self.docker.api.get_archive(self.name, path)
        return b"".join(pieces)

    def members(self, path: str) -> dict[str, tarfile.TarInfo]:
        """What is there, by its path from the parent of this one."""
        with tarfile.open(fileobj=io.BytesIO(self.tar(path))) as tar:
            return {member.name: member for member in tar}

    def content(self, path: str) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(self.tar(path))) as tar:
            file = tar.extractfile(path.rpartition("/")[2])
            assert file is not None
            return file.read()


@pytest.fixture
def inside(docker: DockerHost, client: DockerClient, work: Path) -> Inside:
    return Inside(docker, client, work)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_what_has_no_files_costs_no_call(inside: Inside, work: Path, proxy: DockerProxy) -> None:
    write(work / "input/x", "mounted")
    asked = len(proxy.asked)
    inside.put(inputs=("/input",))
    assert len(proxy.asked) == asked
    inside.put(inputs=("/input",), results=("/outputs",))
    assert proxy.count(PUT) == 1


def test_directories_for_results_are_anybodys(inside: Inside, work: Path) -> None:
    write(work / "stray", "x")
    inside.put(results=("/outputs", "/var/lib/app"))
    for path in ("/outputs", "/var/lib/app"):
        (member,) = inside.members(path).values()
        assert member.isdir() and member.mode & 0o7777 == 0o777
        assert (member.uid, member.gid) == (0, 0)
        assert member.mtime > 1_700_000_000


def test_shipped_files_go_into_the_task_directory_as_they_are(inside: Inside, work: Path) -> None:
    write(work / "script.sh", "echo", 0o755)
    write(work / "secret", "s", 0o600)
    write(work / "deep/deeper/data", "d" * 100_000, 0o444)
    (work / "deep").chmod(0o700)
    inside.put(has_task_dir=True)
    found = inside.members("/shoal")
    assert {name: member.mode & 0o7777 for name, member in found.items()} == {
        "shoal": 0o777,
        "shoal/deep": 0o777,
        "shoal/deep/deeper": 0o777,
        "shoal/deep/deeper/data": 0o666,
        "shoal/script.sh": 0o777,
        "shoal/secret": 0o666,
    }
    assert inside.content("/shoal/deep/deeper/data") == b"d" * 100_000
    assert inside.content("/shoal/script.sh") == b"echo"


def test_shipped_files_are_nobodys_of_this_device(inside: Inside, work: Path) -> None:
    write(work / "file", "x")
    os.chown(work / "file", 1234, 1234)
    inside.put(has_task_dir=True, results=("/outputs",))
    found = {**inside.members("/shoal"), **inside.members("/outputs")}
    assert list(found) == ["shoal", "shoal/file", "outputs"]
    assert {(member.uid, member.gid) for member in found.values()} == {(0, 0)}


def test_an_empty_task_directory_is_made_for_results(inside: Inside) -> None:
    inside.put(has_task_dir=True)
    assert list(inside.members("/shoal")) == ["shoal"]


def test_what_is_mounted_does_not_go_in_twice(inside: Inside, work: Path) -> None:
    write(work / "input/x", "mounted")
    write(work / "config", "mounted")
    write(work / "data/in", "shipped")
    inside.put(has_task_dir=True, inputs=("/input", "/config"))
    assert list(inside.members("/shoal")) == ["shoal", "shoal/data", "shoal/data/in"]


def test_a_relative_input_beside_a_mounted_one_goes_in(inside: Inside, work: Path) -> None:
    """InputSources: Target: /data/model and Target: data/config."""
    write(work / "data/model", "mounted")
    write(work / "data/config", "shipped")
    inside.put(has_task_dir=True, inputs=("/data/model",))
    assert list(inside.members("/shoal")) == ["shoal", "shoal/data", "shoal/data/config"]


def test_a_shipped_program_may_be_run_by_anybody(inside: Inside, work: Path) -> None:
    write(work / "tool", "x", 0o700)
    inside.put(has_task_dir=True)
    assert inside.members("/shoal")["shoal/tool"].mode & 0o111 == 0o111


def test_what_docker_says_against_it_is_said_on(
    docker: DockerHost, client: DockerClient, inside: Inside
) -> None:
    docker.api.remove_container(inside.name)
    create(docker, client, read_only=True)
    with pytest.raises(EngineFailed, match="read-only"):
        inside.put(has_task_dir=True)


# ---- out ---------------------------------------------------------------------------------------


def info(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in more.items():
        setattr(made, key, value)
    return made


class Holding:
    """A container that has some files."""

    def __init__(self, docker: DockerHost, client: DockerClient, out: Path) -> None:
        self.docker = docker
        self.client = client
        self.out = out
        self.name = create(docker, client)

    def have(self, *entries: tuple[tarfile.TarInfo, bytes]) -> None:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for member, content in entries:
                if content:
                    member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        assert self.docker.api.put_archive(self.name, "/", data.getvalue())

    def have_tree(self, name: str, **files: bytes) -> None:
        inner = [(info(f"{name}/{key}"), content) for key, content in files.items()]
        self.have((info(name, tarfile.DIRTYPE), b""), *inner)

    def fetch(
        self, path: str, given_up: threading.Event | None = None, bytes_max: int = 1 << 30
    ) -> int:
        given_up = given_up or threading.Event()
        try:
            return fetch_files(self.client, "e1", path, self.out, bytes_max, given_up)
        finally:
            self.is_let_go()

    def is_let_go(self) -> None:
        """Docker keeps a container locked while it sends, and takes no files meanwhile."""
        taken = threading.Event()

        def put() -> None:
            self.docker.api.put_archive(self.name, "/", b"\0" * 1024)
            taken.set()

        threading.Thread(target=put, daemon=True).start()
        assert taken.wait(WITHIN_S), "docker sends it yet"

    def found(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.out)): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def holding(docker: DockerHost, client: DockerClient, out: Path) -> Holding:
    return Holding(docker, client, out)


@pytest.mark.parametrize("size", [1, 700, 1 << 20])
def test_a_tree_comes_out_whole_whatever_the_pieces_are(
    holding: Holding, proxy: DockerProxy, size: int
) -> None:
    large = bytes(range(256)) * 200
    holding.have_tree("outputs", a=b"1\n", b=large)
    with proxy.slicing(GET, size):
        count = holding.fetch("/outputs")
    assert holding.found() == {"outputs/a": b"1\n", "outputs/b": large}
    assert count > len(large)


@pytest.mark.parametrize(
    ("path", "inside", "at"),
    [
        ("out.txt", "shoal/out.txt", "out.txt"),
        ("deep/out.txt", "shoal/deep/out.txt", "deep/out.txt"),
        ("/var/log/app.log", "var/log/app.log", "var/log/app.log"),
    ],
)
def test_a_file_is_at_its_path_below(holding: Holding, path: str, inside: str, at: str) -> None:
    holding.have((info(inside), b"kept"))
    holding.fetch(path)
    assert holding.found() == {at: b"kept"}


def test_modes_and_times_come_with_it(holding: Holding, out: Path) -> None:
    holding.have((info("shoal/tool", mode=0o4755, mtime=1000), b"x"))
    holding.fetch("tool")
    held = (out / "tool").stat()
    assert (held.st_mode & 0o7777, held.st_mtime) == (0o755, 1000)


def test_what_another_path_brought_stays(holding: Holding) -> None:
    holding.have_tree("data/a", x=b"1")
    holding.have_tree("data/b", x=b"2")
    holding.fetch("/data/a")
    holding.fetch("/data/b")
    assert holding.found() == {"data/a/x": b"1", "data/b/x": b"2"}


def test_links_and_devices_are_no_results_and_leave_a_mark(holding: Holding, out: Path) -> None:
    holding.have(
        (info("outputs", tarfile.DIRTYPE), b""),
        (info("outputs/kept"), b"x"),
        (info("outputs/link", tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        (info("outputs/hard", tarfile.LNKTYPE, linkname="outputs/kept"), b""),
        (info("outputs/pipe", tarfile.FIFOTYPE), b""),
        (info("outputs/null", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
    )
    holding.fetch("/outputs")
    places = sorted((out / "outputs").iterdir())
    assert [path.name for path in places if path.is_file()] == ["hard", "kept"]
    assert [path.name for path in places if path.is_fifo()] == ["link", "null", "pipe"]
    assert holding.found() == {"outputs/hard": b"x", "outputs/kept": b"x"}


def test_a_link_in_place_of_the_result_is_none(holding: Holding, out: Path) -> None:
    holding.have((info("outputs", tarfile.SYMTYPE, linkname="/etc"), b""))
    holding.fetch("/outputs")
    assert (out / "outputs").is_fifo() and holding.found() == {}


def test_what_is_too_large_is_refused_before_it_is_read(
    holding: Holding, proxy: DockerProxy, out: Path
) -> None:
    holding.have_tree("outputs", a=b"x" * 600, b=b"x" * 401, c=bytes(8 << 20))
    with (
        proxy.hanging(GET, 1 << 20),
        pytest.raises(OSError, match="too many files, or too large unpacked"),
    ):
        holding.fetch("/outputs", bytes_max=1000)
    assert holding.found() == {"outputs/a": b"x" * 600}
    holding.have_tree("fits", a=b"x" * 600, b=b"x" * 401)
    holding.fetch("/fits", bytes_max=1001)
    assert len(holding.found()["fits/b"]) == 401


def test_too_many_files_are_refused(holding: Holding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_files, "RESULT_FILES_MAX", 3)
    holding.have_tree("fits", a=b"1", b=b"2")
    holding.have_tree("much", a=b"1", b=b"2", c=b"3")
    holding.fetch("/fits")
    with pytest.raises(OSError, match="too many files"):
        holding.fetch("/much")
    found = {"fits/a": b"1", "fits/b": b"2", "much/a": b"1", "much/b": b"2"}
    assert holding.found() == found


def test_given_up_before_it_begins_nothing_is_asked_for(
    holding: Holding, proxy: DockerProxy
) -> None:
    given_up = threading.Event()
    given_up.set()
    holding.have_tree("outputs", a=b"1")
    with pytest.raises(OSError, match="the agent ends"):
        holding.fetch("/outputs", given_up)
    assert proxy.count(GET) == 0 and holding.found() == {}


async def test_given_up_meanwhile_it_stops_at_the_next_piece(
    holding: Holding, proxy: DockerProxy, out: Path
) -> None:
    given_up = threading.Event()
    holding.have_tree("outputs", a=b"1" * 8_000_000)

    def fetch() -> None:
        with pytest.raises(OSError, match="the agent ends"):
            holding.fetch("/outputs", given_up)

    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            with proxy.hanging(GET, 1_000_000):
                nursery.start_soon(trio.to_thread.run_sync, fetch)
                assert await trio.to_thread.run_sync(proxy.hung.wait, WITHIN_S)
                given_up.set()
    assert (out / "outputs/a").stat().st_size < 8_000_000


def test_nothing_there_is_no_error(holding: Holding, proxy: DockerProxy) -> None:
    assert holding.fetch("/outputs/deep") == 0
    assert holding.found() == {} and proxy.count(GET) == 1


@pytest.mark.parametrize("after", [0, 3000], ids=["at once", "in the middle"])
def test_a_docker_that_breaks_off_is_no_end_of_the_files(
    holding: Holding, proxy: DockerProxy, after: int
) -> None:
    holding.have_tree("outputs", a=b"1" * 5000)
    with proxy.cutting(GET, after), pytest.raises(NotAnswering, match="docker cannot be reached"):
        holding.fetch("/outputs")
    holding.fetch("/outputs")
    assert holding.found() == {"outputs/a": b"1" * 5000}


def test_a_disk_that_is_full_says_so(holding: Holding, out: Path) -> None:
    holding.have_tree("outputs", a=bytes(3 << 20))
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", out], check=True)
    try:
        with pytest.raises(OSError, match="No space left on device") as caught:
            holding.fetch("/outputs")
        assert caught.value.errno == errno.ENOSPC
    finally:
        subprocess.run(["umount", out], check=True)
