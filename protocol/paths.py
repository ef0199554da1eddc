"""Paths in a job file, read as text alone: no file system is asked, and `..` is never allowed."""

from __future__ import annotations

from typing import Final

from protocol.tree import Node, shown

PATH_BYTES_MAX: Final = 1024
PATH_ALLOWED: Final = "allowed: a path such as out/result.json or /data, without '..'"


def read_path(node: Node) -> str:
    """Read a path and write it in one way: no `.`, no empty part, no slash at the end.

    A relative one starts in the task's own directory. What an absolute one means is the engine's:
    inside its file system for a container, below the task's directory for a process.
    """
    text = node.text(PATH_BYTES_MAX).strip()
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts or not parts or not text.isprintable():
        node.fail(f"{shown(text)} is not a path here; {PATH_ALLOWED}")
    return ("/" if text.startswith("/") else "") + "/".join(parts)
