"""Why a WebAssembly task ended badly: its child says so in the last line that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.engines.execution_dir import ExecutionDir
from agent.engines.supervisor import spec_fields
from agent.engines.task import ExitReason, TaskExit
from agent.engines.task_log import read_tail

CHILD: Final = Path(__file__).with_name("wasm_child.py")
MODULE_CODE_MAX: Final = 125  # WASI has no others: those above are the child's own
BEGINNING: Final = "shoal: "  # of its sentences
LINE_BYTES_MAX: Final = 2048


def why(directory: ExecutionDir, ended: TaskExit) -> str:
    """Its sentence; empty where the module chose its exit code, or it is a process of another kind.
    Blocks for a look at the end of its stderr."""
    if ended.reason is not ExitReason.EXITED or (ended.code or 0) <= MODULE_CODE_MAX:
        return ""
    try:
        words = spec_fields((directory.path / "spec").read_bytes(), "arg")
        if not any(Path(word).name == CHILD.name for word in words):
            return ""
        last = read_tail(directory.path, "stderr", 1, LINE_BYTES_MAX).data
    except OSError:
        return ""
    # What the module wrote itself may have left its line open.
    _, said, text = last.decode("utf-8", "replace").rpartition(BEGINNING)
    return text.strip() if said else ""
