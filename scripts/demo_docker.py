"""The demo of containers: three agents, a docker engine of its own, results fetched back."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.demo import NAMES, Demo, DemoFailed, found_shoal, say
from tests.dockerhost import IMAGE, DockerHost
from tests.namespaces import NamespaceError

CHAPTERS = 9


def main() -> int:
    if os.geteuid() != 0 or shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        print(
            "scripts/demo --docker starts an engine of its own: run it as root, with docker.io "
            "installed (apt-get install docker.io busybox-static)",
            file=sys.stderr,
        )
        return 1
    directory = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    directory.chmod(0o711)
    demo = Demo(directory)
    try:
        with DockerHost() as docker:
            os.environ["SHOAL_DOCKER_SOCKET"] = str(docker.socket)
            try:
                found_shoal(demo)
                count_words(demo)
                bad_ends(demo)
                leave_nothing(demo, docker)
            finally:
                demo.stop_all()
    except (DemoFailed, NamespaceError) as failure:
        print(f"\nThe demo failed: {failure}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    say("Done")
    return 0


def count_words(demo: Demo) -> None:
    say("A job in three containers, wherever there is room; its files come back")
    chapters = demo.directory / "book" / "chapters"
    chapters.mkdir(parents=True)
    expected = 0
    for number in range(CHAPTERS):
        text = "a word " * (100 + number)
        expected += len(text.split())
        (chapters / f"{number}.txt").write_text(text)
    demo.shoal(
        "kitchen", "docker", "run", "--name", "words", "--count", "3", "--network", "none",
        "-C", str(demo.directory / "book"), "-o", "/outputs", IMAGE, "sh", "-c",
        "for file in $(ls chapters | awk 'NR % 3 == ENVIRON[\"SHOAL_PARTITION_INDEX\"]'); do "
        "wc -w chapters/$file; done | tee /outputs/counts",
    )  # fmt: skip
    demo.shoal("attic", "job", "executions", "words")
    got = demo.directory / "got"
    demo.shoal("garage", "job", "get", "words", "-o", str(got))
    counts = sorted(got.rglob("counts"))
    files = [path for path in counts if path.is_file()]
    found = sum(int(line.split()[0]) for path in files for line in path.read_text().splitlines())
    print(f"\n{len(files)} files came back, of {found} words; there are {expected}", flush=True)
    if (len(files), found) != (3, expected):
        raise DemoFailed(f"{len(files)} files of {found} words, not 3 of {expected}")


def bad_ends(demo: Demo) -> None:
    say("What goes wrong says so")
    greedy = "x=aaaa; while true; do x=$x$x; done"
    limits = ("--memory", "16Mi", "--network", "none")
    demo.shoal("attic", "docker", "run", *limits, IMAGE, "sh", "-c", greedy, check=False)
    demo.shoal("attic", "docker", "run", "--queue-timeout", "1", "--network", "host", IMAGE, "true",
               check=False)  # fmt: skip
    said = demo.shoal("attic", "why", "true")
    if "network host is not allowed here" not in said:
        raise DemoFailed("nobody said why the device's network was not given")


def leave_nothing(demo: Demo, docker: DockerHost) -> None:
    demo.until(lambda: not docker.ours(), "no container is left on any device")
    print(f"\nno container is left on {', '.join(NAMES)}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
