"""`shoal` as another user, also where the interpreter is in a place that only root can enter.

Usage, as root: python -m tests.integration.as_nobody ARGUMENTS. All that the command may need is
loaded first; then root's rights are given up for good.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import warnings

import inotify_simple  # noqa: F401 -- loaded on demand, when this interpreter is out of reach

NOBODY = 65534
# Loaded on demand by those that we use.
ALSO = ("encodings", "trio", "anyio", "hypercorn", "starlette")


def load_all(name: str) -> None:
    """A package and all its modules; those that are for something that is not installed fail."""
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(package.__path__, f"{name}.", onerror=lambda _: None):
        if "test" not in found.name and "__main__" not in found.name:
            try:
                importlib.import_module(found.name)
            except (Exception, SystemExit):
                continue


def main() -> int:
    warnings.simplefilter("ignore")
    for name in (*ALSO, "agent", "protocol"):
        load_all(name)
    from agent.cli.entry import main as shoal

    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    return shoal(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
