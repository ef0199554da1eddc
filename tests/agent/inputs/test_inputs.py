"""Inputs of the device itself and of other peers; those in the job are tested with its tasks."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from agent.archives import ArchiveError, Archives, ByteStream, serve
from agent.config import S3 as Settings
from agent.inputs.downloads import Downloads
from agent.inputs.holders import AT_A_TIME
from agent.inputs.inputs import Inputs
from agent.inputs.objects import Objects
from agent.s3 import S3
from agent.transport.errors import NotReachable
from protocol.config import PolicyConfig
from protocol.effects import StartTask
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.job import JobSpec
from protocol.tree import Plain
from tests.agent.test_archives import pair


class Bench:
    def __init__(self, root: Path, *directories: str) -> None:
        self.root = root
        self.asked: list[PeerId] = []
        self.around: Sequence[PeerId] = ()
        self.others: dict[PeerId, Archives] = {}
        self.nursery: trio.Nursery | None = None
        self.results = Archives(root / "results", 1 << 30)
        policy = PolicyConfig(directories=directories)
        self.inputs = Inputs(
            Archives(root / "archives"),
            self.results,
            Downloads(Archives(root / "downloads")),
            Objects(Archives(root / "downloads"), S3(Settings())),
            policy,
            self.dial,
            lambda: self.around,
        )

    async def dial(self, peer: PeerId) -> ByteStream:
        self.asked.append(peer)
        if peer not in self.others:
            raise NotReachable("nobody there")
        assert self.nursery is not None
        ours, theirs = pair()
        self.nursery.start_soon(serve, theirs, (self.others[peer],))
        return ours

    async def put(self, source: dict[str, Plain], target: str = "in", engine: str = "") -> Path:
        params: Plain = {"Image": "busybox"} if engine else {"Command": ["true"]}
        task: Plain = {
            "Engine": {"Type": engine or "process", "Params": params},
            "InputSources": [{"Source": source, "Target": target}],
        }
        spec = JobSpec.from_plain({"Type": "batch", "Tasks": [task]})
        work = self.root / "work"
        work.mkdir(exist_ok=True)
        await self.inputs.put(
            StartTask(ExecutionId("e"), JobId("j"), spec, {}, None, (PeerId("author"),)), work
        )
        return work / target.lstrip("/")


def local(path: Path | str, writable: bool = False) -> dict[str, Plain]:
    return {"Type": "localDirectory", "Params": {"SourcePath": str(path), "ReadWrite": writable}}


# ---- of the device -----------------------------------------------------------------------------


async def test_a_directory_is_given_to_a_process_by_a_link(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "deep").mkdir(parents=True)
    (shared / "deep/file").write_text("x")
    bench = Bench(tmp_path, str(shared))
    assert (await bench.put(local(shared / "deep"), "/data/in") / "file").read_text() == "x"


async def test_a_container_has_it_as_a_mount_and_so_no_link(tmp_path: Path) -> None:
    bench = Bench(tmp_path, str(tmp_path))
    assert not (await bench.put(local(tmp_path), "/data", "docker")).exists()


@pytest.mark.parametrize(
    ("allowed", "writable", "fits"),
    [("shared", False, True), ("shared", True, False), ("shared:rw", True, True)],
)
async def test_what_may_be_written_to_is_said_by_its_owner(
    tmp_path: Path, allowed: str, writable: bool, fits: bool
) -> None:
    (tmp_path / "shared").mkdir()
    bench = Bench(tmp_path, f"{tmp_path}/{allowed}")
    if fits:
        await bench.put(local(tmp_path / "shared", writable))
    else:
        with pytest.raises(ArchiveError, match="its owner does not allow"):
            await bench.put(local(tmp_path / "shared", writable))


async def test_a_link_out_of_what_is_allowed_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/way").symlink_to("/etc")
    bench = Bench(tmp_path, str(tmp_path / "shared"))
    with pytest.raises(ArchiveError, match="shared/way leads to /etc, which its owner does not"):
        await bench.put(local(tmp_path / "shared/way"))


async def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="/absent is not on this device"):
        await Bench(tmp_path, str(tmp_path)).put(local(tmp_path / "absent"))


# ---- of other peers ----------------------------------------------------------------------------


def packed(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("out/file")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))


async def test_a_result_of_an_earlier_job_is_an_input_where_it_is_here(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    digest = "ab" * 32
    packed(bench.results.path(digest))
    size = bench.results.size_of(digest)
    found = await bench.put({"Type": "peer", "Params": {"Digest": digest, "Size": size}})
    assert (found / "out/file").read_bytes() == b"hi"
    assert bench.asked == []


PEERS = [PeerId("author"), *(PeerId(f"peer-{number:03d}") for number in range(100))]


async def test_else_all_around_are_asked_a_few_at_a_time_and_the_first_that_has_it_gives_it(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    bench = Bench(tmp_path)
    bench.nursery, bench.around = nursery, PEERS
    digest, size = kept_by(bench, PEERS[41], PEERS[77])
    found = await bench.put({"Type": "peer", "Params": {"Digest": digest, "Size": size}})
    assert (found / "out/file").read_bytes() == b"hi"
    batches = 41 // AT_A_TIME + 1
    assert sorted(bench.asked[:-1]) == sorted(PEERS[: batches * AT_A_TIME]), "nobody after it"
    assert bench.asked[-1] == PEERS[41], "of which it was then fetched"
    assert bench.results.holds(digest)


async def test_one_that_gives_something_else_is_passed_over(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    bench = Bench(tmp_path)
    bench.nursery, bench.around = nursery, PEERS
    digest, size = kept_by(bench, PEERS[20])
    bad = Archives(tmp_path / "bad")
    bad.path(digest).write_bytes(bytes(size))
    bench.others[PEERS[3]] = bad
    found = await bench.put({"Type": "peer", "Params": {"Digest": digest, "Size": size}})
    assert (found / "out/file").read_bytes() == b"hi"
    assert [path.name for path in bench.results.directory.iterdir()] == [digest]


async def test_where_nobody_has_it_that_says_how_many_were_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.around = PEERS
    source: dict[str, Plain] = {"Type": "peer", "Params": {"Digest": "ab" * 32, "Size": 1}}
    with pytest.raises(ArchiveError, match=r"none of 101 devices has them: .*; and 97 more"):
        await bench.put(source)
    assert sorted(bench.asked) == sorted(PEERS), "each once"


def kept_by(bench: Bench, *peers: PeerId) -> tuple[str, int]:
    """Digest and size of a result that these peers have."""
    packed(bench.root / "packed")
    data = (bench.root / "packed").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    for peer in peers:
        store = bench.others[peer] = Archives(bench.root / peer)
        store.path(digest).write_bytes(data)
    return digest, len(data)


# ---- a full disk -------------------------------------------------------------------------------


async def test_what_would_fill_the_disk_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    downloads = Archives(tmp_path / "downloads")
    digest = "cd" * 32
    downloads.path(digest).write_bytes(b"data")
    url: dict[str, Plain] = {
        "Type": "urlDownload",
        "Params": {"URL": "http://192.0.2.1/f", "SHA256": digest},
    }
    assert (await bench.put(url) / "f").read_bytes() == b"data"
    monkeypatch.setattr("agent.archives.FREE_BYTES_MIN", 1 << 60)
    with pytest.raises(ArchiveError, match="the disk is too full for 0 MiB more"):
        await bench.put(url, "again")
    shipped, size = kept_by(bench)
    (tmp_path / "packed").rename(bench.results.path(shipped))
    with pytest.raises(ArchiveError, match="unpacked: the disk is too full for 0 MiB more"):
        await bench.put({"Type": "peer", "Params": {"Digest": shipped, "Size": size}}, "peer")
