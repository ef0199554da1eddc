"""WebAssembly modules in their text form, small enough to be read, for tests and the example."""

from __future__ import annotations

import base64
from typing import Any

import wasmtime


def module(wat: str) -> bytes:
    return bytes(wasmtime.wat2wasm(wat))


def data_url(data: bytes) -> str:
    return f"data:application/wasm;base64,{base64.b64encode(data).decode()}"


def inline(data: bytes, target: str = "m.wasm", alias: str = "") -> dict[str, Any]:
    """A module as an input source."""
    source = {"Type": "inline", "Params": {"URL": data_url(data)}}
    return {"Source": source, "Target": target, **({"Alias": alias} if alias else {})}


WASI = "wasi_snapshot_preview1"
_PARAMS = {
    "fd_write": "i32 i32 i32 i32",
    "fd_read": "i32 i32 i32 i32",
    "args_sizes_get": "i32 i32",
    "args_get": "i32 i32",
    "environ_sizes_get": "i32 i32",
    "environ_get": "i32 i32",
    "path_open": "i32 i32 i32 i32 i32 i64 i64 i32 i32",
}


def wasi(body: str, *imports: str, linked: str = "") -> bytes:
    """A module with one page of memory, these functions of WASI, and `body`; `linked` are imports
    from other modules."""
    lines = [
        f'(import "{WASI}" "{name}" (func ${name} (param {_PARAMS[name]}) (result i32)))'
        for name in imports
    ]
    return module(
        f"""(module {" ".join(lines)}
          (import "{WASI}" "proc_exit" (func $exit (param i32)))
          {linked}
          (memory (export "memory") 1)
          {body})"""
    )


def start(body: str) -> str:
    return f'(func (export "_start") {body})'


def echoes() -> bytes:
    """Writes what it reads from standard input, as long as there is anything."""
    body = """
      (loop $again
        (i32.store (i32.const 0) (i32.const 64))
        (i32.store (i32.const 4) (i32.const 4096))
        (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
        (br_if $again (i32.load (i32.const 8))))"""
    return wasi(start(body), "fd_read", "fd_write")


def exits(code: int) -> bytes:
    return wasi(start(f"(call $exit (i32.const {code}))"))


def says(text: str, fd: int = 1, code: int = 0) -> bytes:
    """Writes a short ASCII text and ends with `code`."""
    write = f"(call $fd_write (i32.const {fd}) (i32.const 0) (i32.const 1) (i32.const 8))"
    return wasi(
        f"""(data (i32.const 0) "\\10\\00\\00\\00\\{len(text):02x}\\00\\00\\00")
            (data (i32.const 16) "{text.encode("unicode_escape").decode()}")
            {start(f"(drop {write}) (call $exit (i32.const {code}))")}""",
        "fd_write",
    )


def tells(what: str) -> bytes:
    """Writes its `args` or its `environ` to stdout, as WASI has them: each ended by a NUL."""
    return wasi(
        f"""(func (export "_start")
          (drop (call ${what}_sizes_get (i32.const 0) (i32.const 12)))
          (drop (call ${what}_get (i32.const 1024) (i32.const 16384)))
          (i32.store (i32.const 8) (i32.const 16384))
          (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 4))))""",
        f"{what}_sizes_get",
        f"{what}_get",
        "fd_write",
    )


def shouts(read: str, write: str, preopen: int = 3) -> bytes:
    """Reads one file, below its preopen, and writes it in upper case to another and to stdout.

    Ends with exit code 1 where the first cannot be opened, and 2 where the second cannot.
    """
    return wasi(
        f"""(data (i32.const 64) "{read}")
        (data (i32.const 320) "{write}")
        (func $open (param $name i32) (param $length i32) (param $flags i32) (param $rights i64)
          (result i32)
          (call $path_open (i32.const {preopen}) (i32.const 0) (local.get $name)
            (local.get $length) (local.get $flags) (local.get $rights) (i64.const 0) (i32.const 0)
            (i32.const 0)))
        (func (export "_start") (local $at i32) (local $end i32) (local $out i32)
          (if (call $open (i32.const 64) (i32.const {len(read)}) (i32.const 0) (i64.const 2))
            (then (call $exit (i32.const 1))))
          (i32.store (i32.const 8) (i32.const 1024))
          (i32.store (i32.const 12) (i32.const 60000))
          (drop (call $fd_read (i32.load (i32.const 0)) (i32.const 8) (i32.const 1) (i32.const 12)))
          (local.set $at (i32.const 1024))
          (local.set $end (i32.add (i32.const 1024) (i32.load (i32.const 12))))
          (block $done (loop $next
            (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
            (if (i32.and (i32.ge_u (i32.load8_u (local.get $at)) (i32.const 97))
                         (i32.le_u (i32.load8_u (local.get $at)) (i32.const 122)))
              (then (i32.store8 (local.get $at)
                (i32.sub (i32.load8_u (local.get $at)) (i32.const 32)))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $next)))
          (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 4)))
          (if (call $open (i32.const 320) (i32.const {len(write)}) (i32.const 9) (i64.const 64))
            (then (call $exit (i32.const 2))))
          (drop (call $fd_write (i32.load (i32.const 0)) (i32.const 8) (i32.const 1)
            (i32.const 4))))""",
        "path_open",
        "fd_read",
        "fd_write",
    )


def reports(module: str, read: str, write: str) -> bytes:
    """`report` writes its arguments, its environment and, as a character, 8 squared by another
    module to stdout, and copies one file to another."""
    return wasi(
        f"""(data (i32.const 64) "{read}")
        (data (i32.const 320) "{write}")
        (func $write (param $fd i32) (param $at i32) (param $length i32)
          (i32.store (i32.const 8) (local.get $at))
          (i32.store (i32.const 12) (local.get $length))
          (drop (call $fd_write (local.get $fd) (i32.const 8) (i32.const 1) (i32.const 4))))
        (func $open (param $name i32) (param $length i32) (param $flags i32) (param $rights i64)
          (result i32)
          (drop (call $path_open (i32.const 3) (i32.const 0) (local.get $name) (local.get $length)
            (local.get $flags) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 0)))
          (i32.load (i32.const 0)))
        (func (export "report") (local $in i32)
          (drop (call $args_sizes_get (i32.const 0) (i32.const 16)))
          (drop (call $args_get (i32.const 1024) (i32.const 16384)))
          (call $write (i32.const 1) (i32.const 16384) (i32.load (i32.const 16)))
          (drop (call $environ_sizes_get (i32.const 0) (i32.const 16)))
          (drop (call $environ_get (i32.const 1024) (i32.const 16384)))
          (call $write (i32.const 1) (i32.const 16384) (i32.load (i32.const 16)))
          (i32.store8 (i32.const 32) (call $square (i32.const 8)))
          (call $write (i32.const 1) (i32.const 32) (i32.const 1))
          (local.set $in (call $open (i32.const 64) (i32.const {len(read)}) (i32.const 0)
            (i64.const 2)))
          (i32.store (i32.const 8) (i32.const 16384))
          (i32.store (i32.const 12) (i32.const 16384))
          (drop (call $fd_read (local.get $in) (i32.const 8) (i32.const 1) (i32.const 16)))
          (call $write (call $open (i32.const 320) (i32.const {len(write)}) (i32.const 9)
            (i64.const 64)) (i32.const 16384) (i32.load (i32.const 16))))""",
        *_PARAMS,
        linked=f'(import "{module}" "square" (func $square (param i32) (result i32)))',
    )


TRAPS = module('(module (func (export "_start") unreachable))')
LOOPS = module('(module (func (export "_start") (loop (br 0))))')
LIBRARY = module('(module (func (export "x")))')
SQUARES = module(
    '(module (func (export "square") (param i32) (result i32)'
    " (i32.mul (local.get 0) (local.get 0))))"
)
# Ends with 0 if a memory of 100 MiB more is given, with 1 if it is refused.
GROWS = wasi(
    """(func (export "_start")
      (if (i32.eq (memory.grow (i32.const 1600)) (i32.const -1))
        (then (call $exit (i32.const 1)))))"""
)
GREEDY = module('(module (memory 2000) (func (export "_start")))')  # wants 125 MiB to begin with
GARBAGE = b"\0asm\1\0\0\0garbage"
EXAMPLE = shouts("input/text", "outputs/shout")  # of `shoal job example wasm`
BACALHAU = reports("lib/math.wasm", "inputs/words", "outputs/words")  # of tests/bacalhau/wasm.yaml
