"""Commands beside a task: where and as whom they run, what they say, and what they leave."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from agent.engines.beside import Place, run_beside
from agent.engines.cgroups import Cgroups
from agent.engines.spawner import Spawner
from agent.engines.supervisor import encode_spec
from agent.engines.task import TaskLaunch, TaskLimits, TaskUser

ENV = {"PATH": os.environ["PATH"], "WHO": "me"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, ENV, None)


def test_it_is_that_of_the_task(tmp_path: Path) -> None:
    launch = TaskLaunch("e1", ("true",), cwd="inner")
    user = TaskUser(1, 2)
    groups = ("/one/tasks", "/two/tasks")
    found = Place.of(encode_spec(launch, user, {"A": "b=c", "B": ""}, groups), tmp_path, user)
    assert found == Place(tmp_path / "inner", {"A": "b=c", "B": ""}, user, groups=groups)
    assert Place.of(encode_spec(TaskLaunch("e1", ("true",)), None, {}), tmp_path, None) == Place(
        tmp_path, {}, None
    )


async def test_its_code_and_last_words_are_told(place: Place) -> None:
    script = "pwd; echo $WHO; echo it is ill >&2; exit 3"
    assert await run_beside(place, ["sh", "-c", script]) == (3, "it is ill")
    assert await run_beside(place, ["true"]) == (0, "")
    assert await run_beside(place, ["sh", "-c", "kill -9 $$"]) == (137, "")
    assert await run_beside(place, ["pwd"]) == (0, str(place.directory))


async def test_much_output_is_read_and_not_kept(place: Place) -> None:
    code, said = await run_beside(place, ["sh", "-c", "yes | head -c 300000; echo; echo end"])
    assert (code, said) == (0, "end")


async def test_a_command_that_is_not_there_says_so(place: Place) -> None:
    code, said = await run_beside(place, ["./no-such-command"])
    assert (code, said) == (127, "./no-such-command: No such file or directory")


async def test_it_gains_no_privileges_and_dies_before_the_agent(place: Place) -> None:
    script = "grep NoNewPrivs /proc/self/status; cat /proc/self/oom_score_adj; ulimit -c"
    code, said = await run_beside(place, ["sh", "-c", f"({script}) | tr -s '\\t\\n' ' '"])
    words = said.split()
    assert (code, words[:2], words[3]) == (0, ["NoNewPrivs:", "1"], "0")
    assert int(words[2]) > 0


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not holds():  # noqa: ASYNC110 -- other processes have no event
            await trio.sleep(0.01)


def gone(pid: str) -> bool:
    """A zombie counts: whose turn it is to reap it is not ours to say."""
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


LEAVES = "setsid sh -c 'echo $$ >pid; exec sleep 1000' {} & while ! test -s pid; do :; done"


async def test_what_it_leaves_in_a_session_of_its_own_ends_with_it(place: Place) -> None:
    """Also where that holds its output: no check waits for it."""
    for to in (">/dev/null 2>&1", ""):
        with trio.fail_after(60):
            code, _ = await run_beside(place, ["sh", "-c", LEAVES.format(to)])
        pid = (place.directory / "pid").read_text().strip()
        assert code == 0 and gone(pid)
        (place.directory / "pid").unlink()


async def test_it_ends_with_the_agent(place: Place) -> None:
    """Whoever started it is killed, so that nobody asks it to end."""
    script = (
        "import pathlib, sys, trio; from agent.engines.beside import Place, run_beside;"
        f"place = Place(pathlib.Path(sys.argv[1]), {ENV!r}, None);"
        f"trio.run(run_beside, place, ['sh', '-c', {LEAVES.format('')!r} + '; sleep 1000'])"
    )
    file = place.directory / "pid"
    command = [sys.executable, "-c", script, str(place.directory)]
    process = await trio.lowlevel.open_process(command)
    await until(lambda: file.exists() and file.read_text().strip())
    process.kill()
    await process.wait()
    await until(lambda: gone(file.read_text().strip()))


async def test_it_is_held_to_what_the_task_may_have(place: Place) -> None:
    cgroups = Cgroups.find(f"beside{os.getpid()}")
    assert os.geteuid() != 0 or cgroups is not None, "root may make them on any machine of ours"
    if cgroups is None:
        return
    groups = cgroups.create("e1", TaskLimits())
    held = replace(place, groups=groups)
    code, _ = await run_beside(held, ["sh", "-c", "cat /proc/self/cgroup >group"])
    cgroups.sweep([])
    told = (place.directory / "group").read_text()
    assert code == 0 and told.count(f"/shoal/beside{os.getpid()}-e1") == len(groups), told
    code, said = await run_beside(held, ["true"])
    assert code == 127 and said.startswith(groups[0]), "its task has ended, and its groups are gone"


async def test_a_spawner_that_refuses_leaves_no_descriptor_to_be_closed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    pipe2 = os.pipe2

    def noting(flags: int) -> tuple[int, int]:
        made.extend(pipe2(flags))
        return made[0], made[1]

    monkeypatch.setattr(os, "pipe2", noting)
    absent = Place(tmp_path, ENV, None, Spawner(tmp_path / "absent"))
    try:
        await run_beside(absent, ["true"])
    except OSError as error:
        assert "nothing starts tasks here" in str(error)
        others = [os.dup2(1, number) for number in made]  # as another thread opens files there
    gc.collect()
    for other in others:
        os.close(other)  # raises where somebody has closed it


async def test_cancelled_it_ends_with_all_that_it_started(place: Place) -> None:
    marks = place.directory / "pids"
    script = f"sleep 1000 & echo $! > {marks}; wait"

    def child() -> str:
        return marks.read_text().strip() if marks.exists() else ""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_beside, place, ["sh", "-c", script])
        await until(child)
        nursery.cancel_scope.cancel()
    await until(lambda: gone(child()))
