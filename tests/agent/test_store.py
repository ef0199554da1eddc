"""The store: durable before it says so, in order, shared commits, and honest about failures."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from agent.datalock import DataLocked
from agent.eventlog import UNSAVED_MAX
from agent.store import QUEUED_MAX, Store
from agent.storefile import DATABASE_FILE
from agent.storesql import StoreFailed
from protocol.effects import Tell

TELL = Tell("kind", "text")


def test_saved_rows_are_there_after_a_restart(tmp_path: Path) -> None:
    async def life(number: int) -> None:
        store = Store.open(tmp_path)
        assert store.load()["job"] == {str(n): b"x" for n in range(number)}
        await store.save([("job", str(number), b"x"), ("slot", "s", None)])
        await store.aclose()

    for number in range(3):
        trio.run(life, number)


async def test_a_save_is_durable_when_it_returns(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    await store.save([("job", "a", b"1")])
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (DATABASE_FILE, f"{DATABASE_FILE}-wal"):  # what a power cut would leave
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    other = Store.open(copy)
    assert other.load()["job"] == {"a": b"1"}
    await other.aclose()
    await store.aclose()


async def test_what_queues_meanwhile_shares_a_commit(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    before = store.commits
    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(store.save, [("job", str(n), b"x")])
    assert 1 <= store.commits - before <= 20
    assert store.fsyncs - before < 40 and store.bytes_written > 100
    await store.aclose()


async def test_order_is_that_of_the_calls_beyond_the_bound_of_the_queue(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    done: list[int] = []

    async def save(n: int) -> None:
        await store.save([("job", "same", b"%d" % n), ("slot", str(n), b"")])
        done.append(n)

    coroutines = 3 * QUEUED_MAX
    async with trio.open_nursery() as nursery:
        for n in range(coroutines):
            nursery.start_soon(save, n)
            await trio.lowlevel.checkpoint()
    await store.aclose()
    again = Store.open(tmp_path)
    rows = again.load()
    assert rows["job"] == {"same": b"%d" % (coroutines - 1)} and len(rows["slot"]) == coroutines
    assert len(done) == coroutines
    await again.aclose()


async def test_enqueue_goes_on_at_once_and_says_when_it_is_full(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    pendings = []
    while (pending := store.enqueue([("job", str(len(pendings)), b"x")])) is not None:
        pendings.append(pending)
    assert len(pendings) == QUEUED_MAX and not pendings[0].durable
    for pending in reversed(pendings):
        await pending.wait()
        assert pending.durable
    await store.save([("job", "more", b"x")])
    await store.aclose()


async def test_cancelling_a_save_does_not_undo_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.save([("job", "a", b"1")])
    assert scope.cancelled_caught
    await store.save([("job", "b", b"2")])
    await store.aclose()
    again = Store.open(tmp_path)
    assert again.load()["job"] == {"a": b"1", "b": b"2"}
    await again.aclose()


async def test_our_own_mistakes_show_at_the_caller(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    for rows in ([("nonsense", "a", b"")], [("job", 5, b"")], [("job", "a", "text")]):
        with pytest.raises(AssertionError):
            await store.save(rows)  # type: ignore[arg-type]
    await store.save([("job", "a", b"")])
    await store.aclose()


async def test_a_second_agent_is_refused(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with pytest.raises(DataLocked, match="another agent"):
        Store.open(tmp_path)
    await store.aclose()
    await Store.open(tmp_path).aclose()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    pending = store.enqueue([("job", "a", b"")])
    await store.aclose()
    await store.aclose()
    assert pending is not None
    await pending.wait()
    with pytest.raises(StoreFailed, match="closed"):
        await store.save([("job", "b", b"")])
    with pytest.raises(StoreFailed, match="closed"):
        await store.reload()
    store.tell(TELL, 1)


async def test_events_alone_never_wake_the_disk(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    await store.save([("job", "a", b"")])
    before = store.commits, store.bytes_written
    for _ in range(UNSAVED_MAX - 1):
        store.tell(TELL, 1)
    await store.refill_reserve()  # the writer has been round
    assert (store.commits, store.bytes_written) == before
    await store.save([("job", "a", b"2")])
    assert store.commits == before[0] + 1 and store.log.unsaved == 0
    await store.aclose()
    again = Store.open(tmp_path)
    assert len(again.log.last(1000)) == UNSAVED_MAX - 1
    await again.aclose()


async def test_many_events_are_committed_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    for _ in range(3 * UNSAVED_MAX):
        store.tell(TELL, 1)
        if store.log.unsaved >= UNSAVED_MAX:
            await store.refill_reserve()
    assert store.commits == 3
    store.tell(Tell("last", "text"), 1)
    await store.aclose()
    again = Store.open(tmp_path)
    assert again.log.last(1)[0].kind == "last"
    assert again.tell(TELL, 1).seq > 3 * UNSAVED_MAX
    await again.aclose()


async def test_a_failure_reaches_every_waiter_until_the_reload(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    await store.save([("job", "good", b"1")])
    store._file._connection.execute("PRAGMA query_only = 1")  # the disk turned read-only
    errors: list[StoreFailed] = []

    async def save(n: int) -> None:
        try:
            await store.save([("job", str(n), b"")])
        except StoreFailed as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for n in range(2 * QUEUED_MAX):
            nursery.start_soon(save, n)
    assert len(errors) == 2 * QUEUED_MAX
    with pytest.raises(StoreFailed, match="readonly"):
        store.enqueue([("job", "later", b"")])
    assert (await store.reload())["job"] == {"good": b"1"}
    await store.save([("job", "after", b"2")])
    assert (await store.reload())["job"] == {"good": b"1", "after": b"2"}
    assert store.commits == 2 and store.was_corrupt == ""
    await store.aclose()


async def test_a_reload_sets_a_corrupt_file_aside(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    await store.save([("job", "a", b"1")])
    await store.reload()  # closing folds the WAL into the file
    (tmp_path / DATABASE_FILE).write_bytes(b"garbage" * 5000)
    rows = await store.reload()
    assert rows["job"] == {} and rows["meta"] == {"lost_database": b"shoal.db.corrupt-1"}
    assert store.was_corrupt == "shoal.db.corrupt-1"
    await store.save([("job", "b", b"2")])
    await store.aclose()


async def test_a_reload_that_fails_can_be_tried_again(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    await store.save([("job", "a", b"1")])
    path, moved = tmp_path / DATABASE_FILE, tmp_path / "moved"
    store._file.close()
    path.rename(moved)
    path.mkdir()
    with pytest.raises(StoreFailed):
        await store.save([("job", "b", b"2")])
    with pytest.raises(StoreFailed, match="cannot be opened"):
        await store.reload()
    with pytest.raises(StoreFailed):
        await store.save([("job", "b", b"2")])
    path.rmdir()
    moved.rename(path)
    assert (await store.reload())["job"] == {"a": b"1"}
    await store.save([("job", "b", b"2")])
    await store.aclose()


_WRITER = """
import os, sys, trio
from pathlib import Path
from agent.store import Store

async def write(store, worker):
    n = 0
    while True:
        await store.save([("job", f"{worker}-{n}", b"%d" % n), ("slot", str(worker), b"%d" % n)])
        os.write(1, b"%d %d\\n" % (worker, n))
        n += 1

async def main():
    store = Store.open(Path(sys.argv[1]))
    async with trio.open_nursery() as nursery:
        for worker in range(4):
            nursery.start_soon(write, store, worker)

trio.run(main)
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    rng, acknowledged = random.Random(seed), dict[int, int]()
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, bufsize=0
    )
    assert child.stdout is not None
    with child.stdout:
        output = b""
        lines = rng.randrange(1, 600)
        while output.count(b"\n") < lines:
            part = child.stdout.read(65536)
            assert part, "the writer ended early"
            output += part
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        while part := child.stdout.read(65536):
            output += part
    for line in output.splitlines():
        worker, n = line.split()
        acknowledged[int(worker)] = int(n)
    store = Store.open(tmp_path)
    assert store.was_corrupt == ""
    rows = store.load()
    for worker, last in acknowledged.items():
        for n in range(last + 1):
            assert rows["job"][f"{worker}-{n}"] == b"%d" % n
        latest = int(rows["slot"][str(worker)])
        assert latest >= last, "and the two rows of one save came together"
        assert f"{worker}-{latest}" in rows["job"] and f"{worker}-{latest + 1}" not in rows["job"]
    store.close()


_LIMITED = """
import resource, sys, trio
from pathlib import Path
from agent.store import Store
from agent.storesql import StoreFailed

async def main():
    store = Store.open(Path(sys.argv[1]))
    await store.save([("job", "before", b"x")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    saved = 0
    try:
        while True:
            await store.save([("job", f"big-{saved}", bytes(50_000))])
            saved += 1
    except StoreFailed as error:
        print("failed:", error)
    try:
        await store.save([("job", "refused", b"x")])
    except StoreFailed:
        print("refused")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    rows = await store.reload()
    assert [k for k in rows["job"]] == ["before"] + [f"big-{n}" for n in range(saved)], rows.keys()
    await store.save([("job", "after", b"x")])
    await store.aclose()
    print("saved", saved)

trio.run(main)
"""


def test_a_disk_that_takes_no_more_fails_the_save_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    failed, refused, saved = ended.stdout.splitlines()
    assert failed.startswith("failed: ") and DATABASE_FILE in failed
    assert refused == "refused" and int(saved.split()[1]) >= 5


_FULL = """
import os, sys, trio
from pathlib import Path
from agent.store import Store
from agent.storesql import StoreFailed

data, real = Path(sys.argv[1]), sys.argv[2] == "tmpfs"

def fill(file):
    "Take all room but the reserve: of the file system, or of the pages that SQLite may use."
    if real:
        with (data / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                return
    connection, release = file._connection, file._release_reserve
    def limit(more):
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + more}")
    def release_and_gain():
        released = release()
        limit(200 if released else 0)
        return released
    file._release_reserve = release_and_gain
    limit(20)

async def main():
    store = Store.open(data)
    await store.save([("job", "before", b"x")])
    assert (data / "reserve").exists() and not store.disk_full
    told = []
    store.on_full = lambda: told.append(store.disk_full)
    fill(store._file)
    written = 0
    while not store.disk_full:
        await store.save([("job", f"row-{written}", bytes(3000))])
        written += 1
    assert not (data / "reserve").exists() and told == [True]
    for n in range(20):  # stop and status go on
        await store.save([("meta", f"stop-{n}", b"x")])
    try:
        while True:
            await store.save([("job", f"row-{written}", bytes(60_000))])
            written += 1
    except StoreFailed as error:
        print(error)
    assert told == [True], "once"
    (data / "filler").unlink(missing_ok=True)
    rows = await store.reload()
    assert len(rows["job"]) == written + 1 and len(rows["meta"]) == 20
    assert await store.refill_reserve() and not store.disk_full
    fill(store._file)  # and again before anything was written
    await store.save([("job", "after", bytes(200_000))])
    assert store.disk_full and told == [True, True]
    (data / "filler").unlink(missing_ok=True)
    await store.aclose()
    print("fine")

trio.run(main)
"""


def in_small_file_system(tmp_path: Path, script: str) -> list[str]:
    """A command that runs `script` on 24 MiB of its own, or with few pages where that is barred."""
    mount = 'mount -t tmpfs -o size=24m none "$1" && exec "$2" -c "$3" "$1" tmpfs'
    rest = ["sh", "-c", mount, "sh", str(tmp_path), sys.executable, script]
    for rights in (["--mount"], ["--mount", "--user", "--map-root-user"]):
        probe = ["unshare", *rights, "sh", "-c", 'mount -t tmpfs none "$1"', "sh", str(tmp_path)]
        if subprocess.run(probe, check=False, capture_output=True, timeout=30).returncode == 0:
            return ["unshare", *rights, *rest]
    return [sys.executable, "-c", script, str(tmp_path), "pages"]


@pytest.mark.parametrize("kind", ["tmpfs", "pages"])
def test_a_full_disk_gives_the_reserve_to_what_must_go_on(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", _FULL, str(tmp_path), "pages"]
    if kind == "tmpfs":
        command = in_small_file_system(tmp_path, _FULL)
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "full" in ended.stdout.splitlines()[0] and ended.stdout.endswith("fine\n")


def test_a_directory_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from agent.store import Store\n"
        "from protocol.errors import ShoalError\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: Store.open(Path(sys.argv[1]))\n"
        "except ShoalError as error: sys.exit(str(error))\n"
    )
    tmp_path.chmod(0o500)
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    tmp_path.chmod(0o700)
    assert ended.returncode == 1
    assert ended.stderr == f"{tmp_path} cannot be written: Permission denied\n"


def test_the_data_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Store.open(tmp_path / "data").close()
    finally:
        os.umask(old)
    for path in (tmp_path / "data").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
