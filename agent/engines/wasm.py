"""WebAssembly: its tasks are processes of the process engine that run wasmtime on a module.

The agent imports no wasmtime: it would cost every device 30 MB, and what goes wrong in it would be
the agent's end. A child tells once at the start whether it is here and works.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from agent.engines.beside import Place, run_beside, user_word
from agent.engines.compiled import Compiled, open_module, target_of
from agent.engines.process import TASK_PATH
from agent.engines.spawner import Spawner
from agent.engines.task import TaskLaunch, TaskLimits, TaskUser
from agent.engines.wasm_end import CHILD
from agent.threads import in_thread
from protocol.effects import StartTask
from protocol.inputs import InputSource
from protocol.sources import DirectorySource
from protocol.task import TaskSpec
from protocol.wasm import module_path

# Isolated from the task's directory and variables; text is UTF-8 whatever the device's locale.
PYTHON: Final = (sys.executable, "-I", "-X", "utf8")
# Of probe and compiler: no task's directory, and the agent's user, until they become another.
PLACE: Final = Place(Path("/"), {"PATH": TASK_PATH, "LANG": "C.UTF-8"}, None)
ABSENT: Final = (
    "it is not installed (sudo scripts/install --wasm where it is a service, else pip install "
    "'shoal[wasm]')"
)
PROBE_S: Final = 30.0  # the agent's start waits for it; 0.1 s here, and a cold card is slow
VARIABLE_PREFIX: Final = "MODULE_"  # see wasm_child.py
CANNOT_RUN: Final = 126  # likewise, of a module that does not even compile
# Python, wasmtime and its library's pages beside the module's memory, which a store holds to its
# own limit: 32 MB measured, and a large module has as much again of machine code.
RUNTIME_BYTES: Final = 96 << 20
_log = logging.getLogger("shoal.wasm")


class Wasm:
    """Whether wasmtime is on this device, and how a task is run with it."""

    def __init__(self, root: Path, user: TaskUser | None, spawner: Spawner | None = None) -> None:
        """`root` is for compiled modules; tasks run as `user`, None is the agent's own. A child
        that a `spawner` starts is the task's user from the beginning."""
        self.compiled = Compiled(root, readable=spawner is not None)
        self.user = user if spawner is None else None
        self._place = replace(PLACE, spawner=spawner)
        self.version = ""  # of wasmtime; empty where it is not, or does not work
        self.trouble = ""  # why it does not work, where it is installed
        self.looked = trio.Event()

    @property
    def present(self) -> bool:
        return bool(self.version)

    async def look(self) -> None:
        """Find out whether it is here, and works for the task's user. Once: it comes and goes with
        what is installed."""
        if importlib.util.find_spec("wasmtime") is not None:
            self.version, self.trouble = await self._probe()
            if self.trouble:
                _log.warning("no WebAssembly tasks here: %s", self.trouble)
        self.looked.set()

    async def _probe(self) -> tuple[str, str]:
        try:
            await in_thread(self.compiled.open)
            with trio.fail_after(PROBE_S):
                code, said = await run_beside(self._place, [*self._child(), "probe"])
        except trio.TooSlowError:
            return "", f"wasmtime did not start within {PROBE_S:.0f} s"
        except OSError as error:
            return "", str(error)
        return (said, "") if code == 0 else ("", said or f"wasmtime ends with exit code {code}")

    def _child(self) -> tuple[str, ...]:
        """Its command line, up to what it is to do."""
        return (*PYTHON, str(CHILD), user_word(self.user))

    # ---- one task ----------------------------------------------------------------------------

    async def prepare(
        self, task: StartTask, work: Path, given: Mapping[str, str] | None = None
    ) -> tuple[str, ...]:
        """Compile its modules, where they were not before; the command line that runs it.

        Raises UnfitModule, OSError.
        """
        if not self.present:
            raise OSError(f"wasmtime is not here: {self.trouble or ABSENT}")
        spec = task.spec.task
        params = spec.engine.wasm
        target = target_of(self.version, fuelled=params.fuel > 0)
        sources = spec.input_sources
        imports = []
        for name, names in linked_as(params.import_modules, sources).items():
            code = await self._code(work, module_path(name, sources), target)
            imports.append((names, code))
        entry = module_path(params.entry_module, sources)
        order = {
            "module": await self._code(work, entry, target),
            "imports": imports,
            "entry": params.entry_point,
            "memory_bytes": spec.resources.memory_bytes,
            "fuel": params.fuel,
            "directories": _directories(sources, given or {}),
        }
        program = entry.rpartition("/")[2]
        return (*self._child(), "run", json.dumps(order), program, *params.parameters)

    async def _code(self, work: Path, path: str, target: str) -> str:
        with _opened(await in_thread(open_module, work, path)) as module:
            return str(await self.compiled.of(module, self._place, self._child(), target))


def wasm_launch(
    task: StartTask, environment: dict[str, str], argv: tuple[str, ...], log_bytes_max: int
) -> TaskLaunch:
    """Its variables, the engine's over the job's as of a container, go below a prefix: among the
    child's own they could lead out of the sandbox."""
    spec = task.spec.task
    given = (text.partition("=") for text in spec.engine.wasm.environment)
    env = environment | {name: value for name, _, value in given}
    memory_bytes = spec.resources.memory_bytes + RUNTIME_BYTES
    return TaskLaunch(
        execution_id=task.execution,
        argv=argv,
        env={f"{VARIABLE_PREFIX}{name}": value for name, value in env.items()},
        stdin=spec.stdin.lstrip("/") or None,
        timeout_s=task.timeout_s,
        log_bytes_max=log_bytes_max,
        limits=TaskLimits(memory_bytes=memory_bytes, cpu_m=spec.resources.cpu_m),
        becomes_user=True,
    )


def make_results(spec: TaskSpec, work: Path) -> None:
    """The directories that it may count on, as in a container: absolute ResultPaths."""
    for result in spec.result_paths:
        if result.path.startswith("/"):
            (work / result.path.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _directories(
    sources: tuple[InputSource, ...], paths: Mapping[str, str]
) -> list[tuple[str, str, bool]]:
    """Of the device, as it is asked for: path, name, and whether it may be written to."""
    found = []
    for each in sources:
        if isinstance(given := each.source, DirectorySource):
            if not os.path.isdir(paths[given.path]):
                raise OSError(f"{given.path} is a file; a module is given directories")
            found.append((paths[given.path], each.target, given.writable))
    return found


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def linked_as(modules: tuple[str, ...], sources: tuple[InputSource, ...]) -> dict[str, list[str]]:
    """By which names others import from each of them: its source's alias, else its file's name;
    and by its path, as Bacalhau has it, where no other module has that for a name."""
    own = {name: _own_name(name, sources) for name in modules}
    found = {}
    for name in modules:
        path = module_path(name, sources).lstrip("/")
        paths = [each for each in (path, f"/{path}") if each not in own.values()]
        found[name] = [own[name], *paths]
    return found


def _own_name(name: str, sources: tuple[InputSource, ...]) -> str:
    path = module_path(name, sources)
    alias = next((source.alias for source in sources if path == source.target), "")
    return alias or path.rpartition("/")[2].removesuffix(".wasm")
