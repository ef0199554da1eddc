"""Commands beside a task: where and as whom they run, what they say, and what they leave."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from agent.engines.beside import Place, run_beside
from agent.engines.supervisor import encode_spec
from agent.engines.task import TaskLaunch, TaskUser

ENV = {"PATH": os.environ["PATH"], "WHO": "me"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, ENV, None)


def test_it_is_that_of_the_task(tmp_path: Path) -> None:
    launch = TaskLaunch("e1", ("true",), cwd="inner")
    user = TaskUser(1, 2)
    found = Place.of(encode_spec(launch, user, {"A": "b=c", "B": ""}), tmp_path, user)
    assert found == Place(tmp_path / "inner", {"A": "b=c", "B": ""}, user)
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


async def test_cancelled_it_ends_with_all_that_it_started(place: Place) -> None:
    marks = place.directory / "pids"
    script = f"sleep 1000 & echo $! > {marks}; wait"

    def child() -> str:
        return marks.read_text().strip() if marks.exists() else ""

    def gone() -> bool:
        """A zombie counts: whose turn it is to reap it is not ours to say."""
        status = Path(f"/proc/{child()}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_beside, place, ["sh", "-c", script])
        await until(child)
        nursery.cancel_scope.cancel()
    await until(gone)
