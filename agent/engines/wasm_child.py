"""A WebAssembly module, compiled or run: a program of its own, started by the agent.

    wasm_child.py USER probe                          print the version of wasmtime
    wasm_child.py USER compile SHA256 FUELLED         a module from stdin, machine code to stdout
    wasm_child.py USER run ORDER NAME ARGUMENT...     run what was compiled before

It becomes USER itself, once all of it is loaded and before it looks at anything of the job's:
Python and wasmtime may be where the tasks' user cannot read (a virtual environment in /root).

It runs isolated (`python -I`) and imports nothing of the agent. The job's environment comes in
variables that begin with MODULE_: as variables of this process LD_PRELOAD and its like would lead
out of the sandbox.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Final

import wasmtime

VARIABLE_PREFIX: Final = "MODULE_"
PR_SET_PDEATHSIG: Final = 1  # of linux/prctl.h

# Of `compile`. The device's own troubles end with any other: a full disk, too little memory.
UNFIT: Final = 3  # the module's own fault, the same on every device

# Of `run`, beside what the module says itself (WASI's proc_exit).
CANNOT_RUN: Final = 126  # as a shell has it: found, and not executable
NOT_FOUND: Final = 127  # as a shell has it: here, the entry point
TRAPPED: Final = 134  # as wasmtime's own command line: 128 + SIGABRT
OUT_OF_FUEL: Final = 152  # 128 + SIGXCPU, which is what a process gets for the same

COMPILE_SPACE_BYTES: Final = 1 << 30  # address space; a module of 8 MB took 205 MB (measured)
COMPILE_CPU_S: Final = 600
CODE_BYTES_MAX: Final = 512 << 20
# Of each table; a function takes 8 bytes of ours, and the largest programs have 100,000.
TABLE_ELEMENTS_MAX: Final = 1 << 20
TABLES_MAX: Final = 16  # of each module
LINE_CHARS_MAX: Final = 500
_NUMBERED: Final = re.compile(r"^[0-9]+: ")  # where there are several causes


class Ended(Exception):
    """The end of this program: exit code, and a sentence for people."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Order:
    """What to run, as the agent writes it."""

    module: str  # path of the machine code
    imports: list[tuple[list[str], str]]  # the names by which it is imported, path
    entry: str
    memory_bytes: int
    fuel: int  # zero: no bound
    directories: list[tuple[str, str, bool]]  # of the device: path, name, writable

    def opened(self) -> Order:
        """The same by descriptors: the tasks' user may not get to the files by their paths."""
        imports = [(names, _opened(path)) for names, path in self.imports]
        return replace(self, module=_opened(self.module), imports=imports)


def main(argv: Sequence[str]) -> int:
    try:
        match argv:
            case [user, "probe"]:
                return probe(user)
            case [user, "compile", digest, fuelled]:
                become(user)
                return compile_module(digest, fuelled == "1")
            case [user, "run", order, *words]:
                opened = Order(**json.loads(order)).opened()
                parent = os.getppid()
                become(user)
                end_with(parent)
                return run_module(opened, words)
            case _:
                raise Ended(2, "the agent starts this program")
    except Ended as ended:
        print(f"shoal: {ended}", file=sys.stderr)
        return ended.code


def probe(user: str) -> int:
    """All that a task needs, on the smallest module there is."""
    said = version("wasmtime")
    become(user)
    wasmtime.Store(engine(True)).set_wasi(wasmtime.WasiConfig())
    wasmtime.Module(engine(False), b"\0asm\1\0\0\0").serialize()
    print(said)
    return 0


def become(user: str) -> None:
    """`uid:gid:group,...`; `-` to stay who we are. There is no way back: the saved ids go, too."""
    if user == "-":
        return
    uid, gid, groups = user.split(":")
    try:
        os.setgroups([int(group) for group in groups.split(",") if group])
        os.setresgid(int(gid), int(gid), int(gid))
        os.setresuid(int(uid), int(uid), int(uid))
    except (OSError, OverflowError, ValueError) as error:
        raise Ended(1, f"cannot become user {uid}: {error}") from None
    if {*os.getresuid(), *os.getresgid()} != {int(uid), int(gid)}:  # -1 leaves one as it is
        raise Ended(1, f"cannot become user {uid}")


def end_with(parent: int) -> None:
    """Be killed with the supervisor, as it asked for: changing users forgets that (prctl(2))."""
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) or os.getppid() != parent:
        raise Ended(1, "its supervisor is gone")


def engine(fuelled: bool) -> wasmtime.Engine:
    """Compiled code only fits an engine of the same configuration."""
    config = wasmtime.Config()
    config.consume_fuel = fuelled
    config.parallel_compilation = False  # the other cores have tasks of their own
    # What a store's limits do not hold back: memory that threads share, and a heap of its own.
    config.wasm_threads = False
    config.wasm_gc = False
    config.wasm_multi_memory = False  # so that there are no more memories than modules
    return wasmtime.Engine(config)


# ---- compile -------------------------------------------------------------------------------------


def compile_module(digest: str, fuelled: bool) -> int:
    for limit, value in (
        (resource.RLIMIT_AS, COMPILE_SPACE_BYTES),
        (resource.RLIMIT_CPU, COMPILE_CPU_S),
        (resource.RLIMIT_FSIZE, CODE_BYTES_MAX),
    ):
        resource.setrlimit(limit, (value, value))
    data = sys.stdin.buffer.read()
    # What is kept under this digest is used for every module that has it.
    if hashlib.sha256(data).hexdigest() != digest:
        raise Ended(1, "the module was changed while it was read")
    # By the bytes, since what is no module would be taken for its text form, and that is no format
    # to ship: which tool reads it, and what it makes of it, changes.
    if not data.startswith(b"\0asm"):
        raise Ended(UNFIT, "not a WebAssembly module: it does not start with \\0asm")
    try:
        code = wasmtime.Module(engine(fuelled), data).serialize()
    except wasmtime.WasmtimeError as error:
        raise Ended(UNFIT, f"it does not compile: {_line(error)}") from None
    sys.stdout.buffer.write(code)
    sys.stdout.buffer.flush()
    return 0


# ---- run -----------------------------------------------------------------------------------------


def run_module(order: Order, words: Sequence[str]) -> int:
    store = wasmtime.Store(engine(order.fuel > 0))
    modules = 1 + len(order.imports)
    store.set_limits(
        # Each module may define one memory, and together they may not have more than is set aside.
        memory_size=order.memory_bytes // modules,
        table_elements=TABLE_ELEMENTS_MAX,
        instances=modules,
        tables=TABLES_MAX * modules,
        memories=modules,
    )
    if order.fuel:
        store.set_fuel(order.fuel)
    store.set_wasi(_wasi(words, order.directories))
    linker = wasmtime.Linker(store.engine)
    linker.define_wasi()
    try:
        for names, path in order.imports:
            _link(linker, store, names, path)
        _call(linker, store, order)
    except wasmtime.ExitTrap as ended:
        return ended.code  # 0 to 125; WASI has no others, and wasmtime fails at them
    except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
        if isinstance(error, wasmtime.Trap) and error.trap_code is wasmtime.TrapCode.OUT_OF_FUEL:
            text = f"out of fuel: it may use {order.fuel}, see Fuel"
            raise Ended(OUT_OF_FUEL, text) from None
        raise Ended(TRAPPED, f"the module trapped: {_line(error)}") from None
    return 0


def _wasi(
    words: Sequence[str], directories: Sequence[tuple[str, str, bool]]
) -> wasmtime.WasiConfig:
    """Its own directory is all of the file system that it sees, under both names that libraries
    look for (some take the first one for the current directory), and what it was given of the
    device's; no link leads from one into another."""
    wasi = wasmtime.WasiConfig()
    wasi.argv = list(words)
    wasi.env = [
        (name.removeprefix(VARIABLE_PREFIX), value)
        for name, value in os.environ.items()
        if name.startswith(VARIABLE_PREFIX)
    ]
    wasi.preopen_dir(".", "/")
    wasi.preopen_dir(".", ".")
    for path, name, writable in directories:
        try:
            wasi.preopen_dir(path, "/" + name.lstrip("/"), writable)
        except wasmtime.WasmtimeError:
            raise Ended(CANNOT_RUN, f"{path} cannot be opened by the tasks' user") from None
    wasi.inherit_stdin()  # of the child itself: a file of its inputs, or nothing
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    return wasi


def _link(linker: wasmtime.Linker, store: wasmtime.Store, names: Sequence[str], path: str) -> None:
    """One instance by all of its names: what it exports by the first is by the others, too."""
    module = _load(store, path)
    name, *others = names
    _check_imports(linker, store, module, f"{name} imports")
    try:
        linker.define_module(store, name, module)
    except wasmtime.WasmtimeError as error:
        if isinstance(error, wasmtime.ExitTrap):
            raise
        raise Ended(CANNOT_RUN, f"{name} cannot be linked: {_line(error)}") from None
    for export in module.exports:
        if (item := _known(linker, store, name, export.name)) is not None:
            for other in others:
                linker.define(store, other, export.name, item)


def _call(linker: wasmtime.Linker, store: wasmtime.Store, order: Order) -> None:
    module = _load(store, order.module)
    _check_imports(linker, store, module, "the module imports")
    _check_entry(module, order.entry)
    try:
        exports = linker.instantiate(store, module).exports(store)
    except wasmtime.WasmtimeError as error:
        if isinstance(error, wasmtime.ExitTrap):
            raise
        text = f"the module cannot be set up: {_line(error)}"
        if "memory" in text:
            text += f"; it may have {order.memory_bytes >> 20} MiB, see Resources.Memory"
        raise Ended(CANNOT_RUN, text) from None
    begin = exports.get("_initialize")
    if order.entry != "_start" and isinstance(begin, wasmtime.Func):
        begin(store)  # a library (a reactor, in WASI's words) wants this first
    entry = exports[order.entry]
    assert isinstance(entry, wasmtime.Func)
    entry(store)


def _opened(path: str) -> str:
    try:
        return f"/proc/self/fd/{os.open(path, os.O_RDONLY)}"
    except OSError as error:
        raise Ended(CANNOT_RUN, f"what was compiled is gone: {error.strerror}") from None


def _load(store: wasmtime.Store, path: str) -> wasmtime.Module:
    try:
        return wasmtime.Module.deserialize_file(store.engine, path)
    except wasmtime.WasmtimeError as error:
        raise Ended(CANNOT_RUN, f"what was compiled is of no use: {_line(error)}") from None


def _check_imports(
    linker: wasmtime.Linker, store: wasmtime.Store, module: wasmtime.Module, who: str
) -> None:
    for wanted in module.imports:
        if _known(linker, store, wanted.module, wanted.name or "") is None:
            name = f"{wanted.module}.{wanted.name}"
            raise Ended(
                CANNOT_RUN, f"{who} {name}, which neither WASI nor one of its ImportModules has"
            )


def _known(linker: wasmtime.Linker, store: wasmtime.Store, module: str, name: str) -> Any:
    """What is exported under these names, of any of wasmtime's kinds; None where nothing is."""
    try:
        return linker.get(store, module, name)
    except wasmtime.WasmtimeError:
        return None


def _check_entry(module: wasmtime.Module, entry: str) -> None:
    functions = {
        export.name: export.type
        for export in module.exports
        if isinstance(export.type, wasmtime.FuncType)
    }
    found = functions.get(entry)
    if found is None:
        names = ", ".join([*functions][:10]) or "none"
        raise Ended(NOT_FOUND, f"the module has no function {entry}; it exports: {names}")
    if found.params:
        raise Ended(NOT_FOUND, f"the function {entry} takes arguments, which nobody gives it")


def _line(error: Exception) -> str:
    """What wasmtime says of it in one line: the last one has the cause, behind the backtrace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = _NUMBERED.sub("", lines[-1]) if lines else type(error).__name__
    return line.removeprefix("wasm trap: ")[:LINE_CHARS_MAX]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
