"""A version of Shoal: a revision of this repository, exported and set up, to run agents of.

As a program it prints the newest release before HEAD, of which CI runs agents beside those of this
checkout. Where there is none it says why, and fails if there ought to be one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab import ROOT

KEPT: Final = ROOT / ".cache" / "versions"
PROGRAMS: Final = ("supervise", "spawn")
CHANGELOG: Final = "CHANGELOG.md"
# A release's heading; one that was never tagged says so behind its number.
_RELEASE: Final = re.compile(r"^## (\d+\.\d+\.\d+)\b(?!.*never tagged)", re.MULTILINE)


class NoVersion(Exception):
    """A sentence: there is none of that name."""


@dataclass(frozen=True, slots=True)
class Version:
    name: str  # as it was asked for
    commit: str
    root: Path
    python: str

    def has(self, path: str) -> bool:
        """Whether it has this file: something is only tried where both versions know of it."""
        return (self.root / path).exists()


def newest_tag() -> str:
    """The newest one before HEAD, empty where there is none."""
    command = ["git", "describe", "--tags", "--abbrev=0", "HEAD^"]
    told = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    return told.stdout.strip() if told.returncode == 0 else ""


def released() -> str:
    """The tag of the newest release before HEAD, empty before the first, and of files that are no
    repository. Raises NoVersion where CHANGELOG.md names one before this commit, and its tag is not
    here, or nothing is known of what is between."""
    if not _is_there("HEAD"):
        return ""
    before = _named("HEAD^" if _is_there("HEAD^") else "HEAD")  # a shallow clone has no other
    for number in _named("HEAD"):
        if number in before and not _is_before(f"refs/tags/v{number}"):
            raise NoVersion(
                f"{CHANGELOG} names {number}, and there is no tag v{number} in the history that is "
                "here: fetch all of it (git fetch --tags --unshallow), or tag the release"
            )
    return newest_tag()


def _is_there(revision: str) -> bool:
    return bool(_git("rev-parse", "--verify", "--quiet", revision))


def _is_before(tag: str) -> bool:
    command = ["git", "merge-base", "--is-ancestor", tag, "HEAD"]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0


def _named(revision: str) -> list[str]:
    return _RELEASE.findall(_git("show", f"{revision}:{CHANGELOG}"))


def this_checkout() -> Version:
    return Version("this checkout", _git("rev-parse", "HEAD"), ROOT, sys.executable)


def exported(revision: str, shared: bool) -> Version:
    """Its files, and an environment of its own made by its own scripts/setup (unless `shared`),
    kept for the next time. Raises NoVersion."""
    commit = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if not commit:
        raise NoVersion(f"{revision} is no tag or revision here (a shallow clone has few)")
    root = KEPT / commit[:12]
    if not root.exists():
        _export(commit, root)
    if not shared:
        subprocess.run([root / "scripts/setup"], cwd=root, check=True)
        return Version(revision, commit, root, str(root / ".venv/bin/python"))
    for name in PROGRAMS:
        source = root / f"agent/engines/{name}.c"
        made = root / f"agent/engines/shoal-{name}"
        if source.exists() and not made.exists():
            compiled = ["gcc", "-std=c11", "-O2", "-s", "-static", "-o", str(made), str(source)]
            subprocess.run(compiled, check=True)
    return Version(revision, commit, root, sys.executable)


def _export(commit: str, root: Path) -> None:
    """All of its files, or none: what is there is kept for good."""
    fresh = root.with_name(f".{root.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    command = ["git", "archive", commit]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", fresh], stdin=archive.stdout, check=True)
    if archive.returncode != 0:
        raise subprocess.CalledProcessError(archive.returncode, command)
    fresh.rename(root)


def _git(*words: str) -> str:
    told = subprocess.run(["git", *words], cwd=ROOT, check=False, capture_output=True, text=True)
    return told.stdout.strip()


def main() -> int:
    try:
        tag = released()
    except NoVersion as error:
        print(f"scripts/version: {error}", file=sys.stderr)
        return 1
    if tag:
        print(tag)
    else:
        why = "no release before this commit" if _is_there("HEAD") else "git knows no commit here"
        text = f"{why}: nothing is run beside agents of an earlier version"
        print(f"scripts/version: {text}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
