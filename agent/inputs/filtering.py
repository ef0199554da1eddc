"""Filtering: in which names a job's regular expression is found.

That is looked for in a process of its own: an expression can take for ever, and would hold up the
whole agent meanwhile. Python's `re` lets go of nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from agent.archives import ArchiveError

FILTER_S: Final = 10.0
CHILD: Final = (
    "import json,re,sys\n"
    "pattern,names=json.load(sys.stdin)\n"
    "try:find=re.compile(pattern).search\n"
    "except (re.error,RecursionError,OverflowError) as error:sys.exit(str(error))\n"
    "json.dump([at for at,name in enumerate(names) if find(name)],sys.stdout)\n"
)


def found_in(pattern: str, names: Sequence[str]) -> list[int]:
    """The positions of the names it is found in. Blocks. Raises ArchiveError."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", CHILD],
            input=json.dumps([pattern, list(names)]).encode(),
            capture_output=True,
            timeout=FILTER_S,
            env={"LANG": "C.UTF-8"},
            check=True,
        )
    except subprocess.TimeoutExpired:
        text = f"the filter {pattern!r} took longer than {FILTER_S:.0f} s"
        raise ArchiveError(text) from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip().splitlines()
        why = f": {said[-1]:.200}" if said else ""
        raise ArchiveError(f"the filter {pattern!r} cannot be looked for{why}") from None
    positions: list[int] = json.loads(done.stdout)
    return positions
