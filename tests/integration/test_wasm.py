"""WebAssembly modules as a person runs them: three agents and the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import wat
from tests.lab import Lab, LabError
from tests.leftovers import leftovers


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(3)
    lab[2].flags = ["--accept-engines", "wasm"]
    with lab:
        lab.until(lambda: all("wasm" in peer["engines"] for peer in peers(lab)), "wasm is seen")
        yield lab


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    """Whatever became of a module: no process, mount, partial file or directory of it is left."""
    yield
    try:
        lab.until(lambda: not leftovers(lab), "nothing is left", 60)
    except LabError:
        assert leftovers(lab) == []


def peers(lab: Lab) -> list[dict[str, Any]]:
    with lab[0].client() as client:
        found = client.peers()
    assert len(found) == len(lab.devices)
    return found


def test_every_device_says_that_it_has_it(lab: Lab) -> None:
    for peer in peers(lab):
        assert peer["engines"] == ["process", "wasm"]
        assert peer["labels"]["engine.wasm"] == "true"


def test_a_module_runs_somewhere_and_its_output_and_exit_code_come_back(
    lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "hello.wasm").write_bytes(wat.says("hello\n"))
    (tmp_path / "seven.wasm").write_bytes(wat.exits(7))
    done = lab.shoal(lab[0], "wasm", "run", "-q", "hello.wasm", cwd=tmp_path)
    assert (done.code, done.out, done.err) == (0, "hello\n", "")
    assert lab.shoal(lab[1], "wasm", "run", "-q", "seven.wasm", cwd=tmp_path).code == 7


def test_arguments_and_variables_arrive_in_each_slot(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "args.wasm").write_bytes(wat.tells("args"))
    (tmp_path / "environ.wasm").write_bytes(wat.tells("environ"))
    done = lab.shoal(lab[0], "wasm", "run", "-q", "args.wasm", "--n", "5", cwd=tmp_path)
    assert done.out == "args.wasm\0--n\0" + "5\0"
    words = ("-q", "--count", "3", "-e", "A=b", "environ.wasm")
    done = lab.shoal(lab[0], "wasm", "run", *words, cwd=tmp_path)
    assert sorted(re.findall(r"SHOAL_PARTITION_INDEX=(\d)", done.out)) == ["0", "1", "2"]
    assert done.out.count("A=b\0") == 3 and "HOME=" not in done.out


def test_shipped_files_go_in_and_results_come_out(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "shout.wasm").write_bytes(wat.shouts("text", "out/shout"))
    (tmp_path / "text").write_text("quiet")
    words = ("--name", "shout", "-f", "text", "-o", "/out", "shout.wasm")
    done = lab.shoal(lab[1], "wasm", "run", *words, cwd=tmp_path)
    assert (done.code, done.out) == (0, "QUIET"), done
    got = lab.shoal(lab[2], "job", "get", "shout", "-o", str(tmp_path / "got"))
    assert got.code == 0, got
    assert (tmp_path / "got/out/shout").read_text() == "QUIET"


def test_the_example_runs_as_it_is(lab: Lab, tmp_path: Path) -> None:
    example = lab.shoal(lab[0], "job", "example", "wasm")
    (tmp_path / "wasm.yaml").write_text(example.out)
    done = lab.shoal(lab[0], "job", "run", "wasm.yaml", "--follow", "-q", cwd=tmp_path)
    assert (done.code, done.out) == (0, "HELLO FROM A MODULE"), done
    got = lab.shoal(lab[1], "job", "get", "hello-module", "-o", str(tmp_path / "got"))
    assert got.code == 0, got
    assert (tmp_path / "got/outputs/shout").read_text() == "HELLO FROM A MODULE"


def test_bacalhaus_job_file_runs_as_it_is(lab: Lab, tmp_path: Path) -> None:
    file = Path(__file__).parents[1] / "bacalhau/wasm.yaml"
    done = lab.shoal(lab[0], "job", "run", str(file), "--follow", "-q")
    assert done.code == 0, done
    *words, square = done.out.split("\0")
    assert (words[:3], square) == (["report.wasm", "--times", "2"], "@")
    seen = dict(word.split("=", 1) for word in words[3:])
    assert (seen["UNITS"], seen["PLACE"]) == ("metric", "attic")
    view = json.loads(lab.shoal(lab[1], "job", "describe", "Report", "--json").out)
    assert (seen["BACALHAU_JOB_ID"], seen["BACALHAU_JOB_TYPE"]) == (view["id"], "batch")
    assert seen["BACALHAU_EXECUTION_ID"] == view["slots"][0]["execution"]
    got = lab.shoal(lab[2], "job", "get", "Report", "-o", str(tmp_path / "got"))
    assert got.code == 0, got
    assert (tmp_path / "got/outputs/words").read_text() == "tide\n"


@pytest.mark.parametrize(
    ("module", "flags", "code", "said"),
    [
        (wat.TRAPS, [], 134, "the module trapped: wasm `unreachable` instruction executed"),
        (wat.LOOPS, ["--fuel", "100000"], 152, "out of fuel: it may use 100000, see Fuel"),
        (wat.LOOPS, ["--timeout", "1"], 124, "ExecutionTimeout"),
        (wat.LIBRARY, [], 127, "the module has no function _start; it exports: x"),
        (wat.GARBAGE, [], 126, "it does not compile: unexpected end-of-file"),
        (wat.GREEDY, ["--memory", "64Mi"], 126, "it may have 64 MiB, see Resources.Memory"),
    ],
    ids=["trap", "fuel", "timeout", "start", "garbage", "memory"],
)
def test_bad_ends_have_their_reasons_and_are_not_tried_again(
    lab: Lab, tmp_path: Path, module: bytes, flags: list[str], code: int, said: str
) -> None:
    (tmp_path / "m.wasm").write_bytes(module)
    name = re.sub(r"\W+", "-", f"bad-{said}")[:40].strip("-")
    done = lab.shoal(lab[0], "wasm", "run", "--name", name, *flags, "m.wasm", cwd=tmp_path)
    assert (done.code, said in done.err) == (code, True), done
    table = lab.shoal(lab[0], "job", "executions", name, "--json")
    assert len(json.loads(table.out)["executions"]) == 1, table.out


def test_a_modules_memory_grows_as_far_as_its_job_says(lab: Lab, tmp_path: Path) -> None:
    """By 100 MiB or not at all: what it makes of a refusal is its own."""
    (tmp_path / "m.wasm").write_bytes(wat.GROWS)
    for memory, code in (("64Mi", 1), ("128Mi", 0)):
        words = ("wasm", "run", "-q", "--memory", memory, "m.wasm")
        done = lab.shoal(lab[0], *words, cwd=tmp_path)
        assert (done.code, done.out) == (code, ""), (memory, done)


def test_a_device_may_take_modules_and_nothing_else(lab: Lab, tmp_path: Path) -> None:
    """Three slots of a process go to the two others; what it refuses stands in `why`."""
    (tmp_path / "m.wasm").write_bytes(wat.says("here"))
    here = peers(lab)
    name = next(peer["name"] for peer in here if peer["id"] == lab[2].peer)
    words = ("-d", "--count", "3", "--name", "natives")
    assert lab.shoal(lab[0], "run", *words, "--", "true").code == 0
    assert lab.shoal(lab[0], "job", "wait", "natives").code == 0
    why = lab.shoal(lab[0], "why", "natives").out
    assert re.search(rf"{name}.*engine process is not taken", why), why


def test_a_daemon_of_a_module_outlives_its_agent(lab: Lab, tmp_path: Path) -> None:
    spec = {
        "Name": "spin",
        "Type": "daemon",
        "Tasks": [{"Engine": {"Type": "wasm", "Params": {"EntryModule": wat.inline(wat.LOOPS)}}}],
    }
    (tmp_path / "spin.json").write_text(json.dumps(spec))
    assert lab.shoal(lab[0], "job", "run", "spin.json", cwd=tmp_path).code == 0
    lab.until(lambda: states(lab, "spin") == ["running"] * 3, "one on each device")
    before = executions(lab, "spin")
    lab.kill(lab[1])
    lab.start(lab[1])
    lab.until(lambda: states(lab, "spin") == ["running"] * 3, "it is found again")
    assert executions(lab, "spin") == before, "the very same"
    assert lab.shoal(lab[2], "job", "stop", "spin", "-y").code == 0
    lab.until(lambda: "running" not in states(lab, "spin"), "it is stopped")


def parts(lab: Lab, job: str) -> list[dict[str, Any]]:
    with lab[0].client() as client:
        return list(client.job(job)["parts"])


def states(lab: Lab, job: str) -> list[str]:
    return [part["state"] for part in parts(lab, job)]


def executions(lab: Lab, job: str) -> set[str]:
    return {part["execution"] for part in parts(lab, job)}
