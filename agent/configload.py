"""Loading the configuration: one file, environment and flags, and where each setting came from.

The file is TOML, `config.toml` in the data directory unless --config names another; the installed
service's is /etc/shoal/config.toml. A later source wins: default, file, environment (SHOAL_ and
the key, `offer.cpu` being SHOAL_OFFER_CPU), flag. Unknown keys in the file are errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from agent.config import (
    BY_KEY,
    SECTIONS,
    SETTINGS,
    SYSTEM_CONFIG,
    SYSTEM_DATA_DIR,
    SYSTEM_SOCKET,
    SYSTEM_UNIT,
    Config,
    Loaded,
)
from agent.settings import ConfigError, Value

FILE_NAME: Final = "config.toml"
FILE_BYTES_MAX: Final = 256 * 1024


def load(
    flags: Mapping[str, Value] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Loaded:
    """Read everything. `flags` by key; `file` from --config. Raises ConfigError."""
    environment = os.environ if environment is None else environment
    given: dict[str, tuple[Value, str]] = {}
    named = file or (Path(environment["SHOAL_CONFIG"]) if environment.get("SHOAL_CONFIG") else None)
    for setting in SETTINGS:
        if text := environment.get(setting.variable):
            given[setting.key] = (text, f"env {setting.variable}")
    for key, value in (flags or {}).items():
        given[key] = (value, f"flag {BY_KEY[key].flag}")
    home = _read("data_dir", *given["data_dir"]) if "data_dir" in given else None
    home = home or default_data_dir(environment)
    path = named or _usual_file(home)
    found = _read_file(path, must=named is not None)
    for key, value in (found or {}).items():
        if key == "data_dir" and not named and _read(key, value, f"file {path}") != home:
            raise ConfigError(f"{path}: data_dir: the file lies in another one; leave it out")
        given.setdefault(key, (value, f"file {path}"))
    values = {key: _read(key, *where) for key, where in given.items()}
    values["data_dir"] = values.get("data_dir") or home
    sources = {s.key: given[s.key][1] if s.key in given else "default" for s in SETTINGS}
    return Loaded(_built(values), sources, None if found is None else path)


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """For root the system's place, for others the user's (XDG base directories)."""
    if os.geteuid() == 0:
        return SYSTEM_DATA_DIR
    home = environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "shoal"


def _usual_file(home: Value) -> Path:
    """In the data directory; that of the installed service lies where people look for it."""
    if home == SYSTEM_DATA_DIR and _exists(SYSTEM_CONFIG):
        return SYSTEM_CONFIG
    return Path(str(home)) / FILE_NAME


def find_socket(loaded: Loaded) -> Path:
    """The socket of an agent to talk to: one's own, else the system's where there is one, also
    while it does not run: nobody is to begin a second one beside it for that."""
    own = loaded.config.socket_path
    chosen = {"data_dir", "socket"} & {k for k, s in loaded.sources.items() if s != "default"}
    system = _exists(SYSTEM_SOCKET.parent) or _exists(SYSTEM_UNIT)
    if not chosen and not _exists(own) and system:
        return SYSTEM_SOCKET
    return own


def _read(key: str, value: Value, source: str) -> Value:
    try:
        return BY_KEY[key].kind.read(value)
    except ValueError as error:
        name = source.partition(" ")[2]
        place = f"{name}: {key}" if source.startswith("file") else name
        raise ConfigError(f"{place}: {value!r} is not possible; {error}") from None


def _built(values: Mapping[str, Value]) -> Config:
    parts: dict[str, dict[str, Value]] = {name: {} for name in ("", *SECTIONS)}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        parts[section][name] = value
    sections = {name: owner(**parts[name]) for name, owner in SECTIONS.items()}
    return Config(**parts[""], **sections)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _read_file(path: Path, must: bool) -> dict[str, Value] | None:
    """The file's settings by dotted key; None where there is no file and none has to be."""
    import tomllib

    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if must:
            raise ConfigError(f"{path}: there is no such file") from None
        return None
    except OSError as error:
        if isinstance(error, PermissionError) and not must:
            return None  # the agent's own file, and the person asking is another
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: {len(data)} bytes; allowed: {FILE_BYTES_MAX}")
    try:
        tree = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    return dict(_flat(path, tree))


def _flat(path: Path, tree: dict[str, Value]) -> Iterator[tuple[str, Value]]:
    for name, value in tree.items():
        if name not in SECTIONS:
            yield _known(path, name), value
        elif not isinstance(value, dict):
            raise ConfigError(f"{path}: {name}: allowed: a section [{name}]")
        else:
            for part, inner in value.items():
                yield _known(path, f"{name}.{part}"), inner


def _known(path: Path, key: str) -> str:
    if key in BY_KEY:
        return key
    import difflib

    same_section = [k for k in BY_KEY if k.rpartition(".")[0] == key.rpartition(".")[0]]
    near = difflib.get_close_matches(key, list(BY_KEY), 1, 0.6)
    hint = f", did you mean '{near[0]}'?" if near else ""
    if (name := key.rpartition(".")[2]) in BY_KEY:  # as where it was added at the file's end
        hint = f", but {name!r} is there: put it above the first [section]"
    listed = ", ".join(same_section or BY_KEY)
    raise ConfigError(f"{path}: {key!r}: unknown key{hint}; allowed: {listed}")


def example_text() -> str:
    """A configuration file in which every setting stands, commented out, at its default."""
    import textwrap

    lines = ["# Configuration of shoal. Every setting stands here with its default; take away the"]
    lines += ["# `# ` before one to change it. Environment and flags come before this file.", ""]
    section = ""
    for setting in SETTINGS:
        head, _, name = setting.key.rpartition(".")
        if head != section:
            section = head
            lines += [f"[{section}]", ""]
        lines += [f"# {line}" for line in textwrap.wrap(setting.why, 96)]
        lines += [f"# {name} = {_toml(setting.default)}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _toml(value: Value) -> str:
    """A value as TOML has it; what is derived at the start is shown as empty."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return '"' + str("" if value is None else value) + '"'
