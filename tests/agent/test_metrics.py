"""The metrics: text that Prometheus' own parser reads, disk use, and a disk that hangs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from agent import metrics
from agent.engines.execution_dir import ExecutionDir
from agent.engines.outputs import Outputs
from agent.metrics import Metrics, disk_readings
from agent.readings import Kind, Reading

PEERS = Reading("peers", Kind.GAUGE, "Others.", {(("state", "alive"),): 2, (("state", "dead"),): 0})
BYTES = Reading("sent_bytes", Kind.COUNTER, 'With "quotes"\nand lines.', {(): 12.5})
NONE = Reading("none", Kind.GAUGE, "Of nothing.", {})
ODD = Reading("odd", Kind.GAUGE, "Odd.", {(("name", 'a"b\\c\nd'),): 1})


def parsed(text: bytes) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    return {
        sample.name: {
            tuple(each.labels.items()): each.value
            for each in family.samples
            if each.name == sample.name
        }
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_prometheus_own_parser_reads_it(tmp_path: Path) -> None:
    text = await Metrics(lambda: [PEERS, BYTES, NONE, ODD], tmp_path, Outputs()).text()
    found = parsed(text)
    assert found["shoal_peers"] == {(("state", "alive"),): 2, (("state", "dead"),): 0}
    assert found["shoal_sent_bytes_total"] == {(): 12.5}
    assert found["shoal_odd"] == {(("name", 'a"b\\c\nd'),): 1}
    assert found["process_resident_memory_bytes"][()] > 1e7
    assert found["shoal_disk_free_bytes"][()] > 0


async def test_what_the_agent_and_its_tasks_supervisors_had_stored_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, directory = Outputs(), ExecutionDir(tmp_path / "e1")
    directory.path.mkdir()
    outputs.begin(directory, fresh=True)
    (directory.path / f"stdout.{0:020d}").write_bytes(bytes(5000))
    monkeypatch.setattr(metrics, "process_bytes", lambda: 4096)
    made = Metrics(list, tmp_path, outputs)
    found = parsed(await made.text())
    assert found["shoal_written_bytes_total"] == {(): 4096}
    assert found["shoal_task_output_bytes_total"] == {(): 5000}
    assert found["shoal_task_fsyncs_total"] == {(): 0}
    monkeypatch.setattr(metrics, "process_bytes", lambda: None)
    assert "shoal_written_bytes_total" not in parsed(await made.text()), "nobody counts it"


async def test_it_is_looked_up_anew_at_each_scrape_and_the_disk_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = [0, 0]

    def look(data_dir: Path) -> list[Reading]:
        looks[1] += 1
        return []

    def readings() -> list[Reading]:
        looks[0] += 1
        return []

    monkeypatch.setattr(metrics, "disk_readings", look)
    made = Metrics(readings, tmp_path, Outputs())
    assert looks == [0, 0], "nobody asked yet"
    for _ in range(3):
        await made.text()
    assert looks == [3, 1]


def test_disk_use_is_told_by_what_is_kept(tmp_path: Path) -> None:
    def put(path: str, size: int) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(os.urandom(size))

    put("executions/e1/stdout.0", 8192)
    put("executions/e1/stderr.4096", 4096)
    put("executions/e1/work/stdout.0", 16384)  # a task's own file, whatever it is called
    put("results/abc", 4096)
    put("volumes/v1/deep/er/file", 12288)
    (tmp_path / "executions/e1/work/link").symlink_to("/")
    sizes, _, free = disk_readings(tmp_path)
    by = {labels[0][1]: value for labels, value in sizes.values.items()}
    assert by["logs"] == 12288 and by["results"] == 4096 and by["volumes"] == 12288
    assert 16384 <= by["tasks"] < 16384 + 8192 and by["archives"] == by["compiled"] == 0
    assert free.values[()] > 0


def test_what_is_closed_to_the_agent_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the directories of running tasks are, where a spawner starts them."""
    for name in ("e1/work", "e1/tmp", "e2/work"):
        (tmp_path / "executions" / name).mkdir(parents=True)
    scandir = os.scandir

    def refusing(path: str) -> object:
        if os.fspath(path).endswith("e1/work"):
            raise PermissionError(13, "Permission denied", path)
        if os.fspath(path).endswith("e2/work"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    _, unread, _ = disk_readings(tmp_path)
    assert (unread.name, unread.values) == ("data_unread", {(): 1})


def test_the_punched_out_head_of_a_log_takes_no_space(tmp_path: Path) -> None:
    (tmp_path / "executions/e1").mkdir(parents=True)
    with (tmp_path / "executions/e1/stdout.0").open("wb") as file:
        file.truncate(10_000_000)
    sizes, *_ = disk_readings(tmp_path)
    assert sizes.values[(("kind", "logs"),)] < 100_000


async def test_a_disk_that_hangs_keeps_one_thread_and_no_scrape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, began, looks = threading.Event(), threading.Event(), []

    def hang(data_dir: Path) -> list[Reading]:
        looks.append(1)
        began.set()
        released.wait(60)
        return []

    monkeypatch.setattr(metrics, "disk_readings", hang)
    made = Metrics(lambda: [PEERS], tmp_path, Outputs())
    monkeypatch.setattr(metrics, "SCRAPE_S", 0.1)
    for _ in range(5):
        with pytest.raises(trio.TooSlowError):
            await made.text()
    assert began.wait(60) and looks == [1]
    monkeypatch.undo()
    released.set()
    while made._rendering:
        await trio.to_thread.run_sync(lambda: None)
    assert b"shoal_peers" in await made.text()


async def test_many_at_once_take_turns(tmp_path: Path) -> None:
    running = [0, 0]

    class Counted(Metrics):
        def _text(self, readings: object) -> bytes:
            running[0] += 1
            running[1] = max(running)
            text = super()._text(readings)  # type: ignore[arg-type]
            running[0] -= 1
            return text

    made, texts = Counted(lambda: [PEERS], tmp_path, Outputs()), []

    async def scrape() -> None:
        texts.append(await made.text())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(scrape)
    assert len(texts) == 20 and all(b"shoal_peers" in text for text in texts)
    assert running[1] == 1


async def test_a_scrape_that_is_given_up_as_it_begins_hinders_no_later_one(tmp_path: Path) -> None:
    made = Metrics(lambda: [PEERS], tmp_path, Outputs())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.text)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert b"shoal_peers" in await made.text()
