"""The installer, as far as it goes without changing anything, and the units it installs.

What it does under a real systemd is tried by scripts/test-install, and on arm64 by
scripts/test-arm64, each on a machine of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "scripts/install"
UNITS = ROOT / "scripts/systemd"
EXPOSURE_MAX = 4.0
TOUCHED = (Path("/opt/shoal"), Path("/etc/shoal"), Path("/etc/systemd/system/shoal.service"))


def program(place: Path, name: str, script: str) -> None:
    path = place / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def tried(
    *words: str, path: Path | None = None, script: Path = INSTALL
) -> subprocess.CompletedProcess[str]:
    """A run, with programs of the test's own before the device's."""
    before = [path.exists() for path in TOUCHED]
    environment = {"PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
    done = subprocess.run(
        [script, *words],
        check=False, capture_output=True, text=True, env=environment, timeout=60, umask=0o077,
    )  # fmt: skip
    assert [path.exists() for path in TOUCHED] == before
    return done


def test_a_dry_run_prints_every_step_and_does_nothing(tmp_path: Path) -> None:
    users = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
    done = tried("--dry-run", "--user", "nobody")
    assert done.returncode == 0, done.stderr
    for step in (
        "useradd --system --user-group --home-dir /var/lib/shoal",
        "usermod -aG shoal nobody",
        "install -d -m 711 -o shoal -g shoal /var/lib/shoal",
        "python3 -m venv /opt/shoal/versions/",
        "/etc/systemd/system/shoal.service",
        "/opt/shoal/current/bin/shoal /usr/local/bin/shoal",
    ):
        assert step in done.stdout, step
    assert "usermod -aG docker" not in done.stdout
    assert (Path("/etc/passwd").read_text(), Path("/etc/group").read_text()) == users


def test_the_same_source_is_the_same_version() -> None:
    versions = {re.findall(r"done: Shoal (\S+)", tried("--dry-run").stdout)[0] for _ in range(2)}
    assert len(versions) == 1


def test_docker_is_asked_for_and_warned_of(tmp_path: Path) -> None:
    getent = shutil.which("getent")
    program(tmp_path, "getent", f'[ "$2" = docker ] || exec {getent} "$@"')
    done = tried("--dry-run", "--docker", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usermod -aG docker shoal" in done.stdout and "is root on this device" in done.stdout
    program(tmp_path, "getent", f'[ "$2" != docker ] || exit 2; exec {getent} "$@"')
    done = tried("--dry-run", "--docker", path=tmp_path)
    assert done.returncode == 1 and "apt-get install docker.io" in done.stderr


@pytest.mark.parametrize("architecture", ["armhf", "armel", "i386"])
def test_a_32_bit_system_is_refused_in_a_sentence(tmp_path: Path, architecture: str) -> None:
    program(tmp_path, "dpkg", f"echo {architecture}")
    done = tried("--dry-run", path=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"this is a 32-bit system ({architecture})" in done.stderr
    assert "Raspberry Pi OS (64-bit)" in done.stderr and done.stderr.count("\n") == 1


def test_another_processor_or_python_is_refused(tmp_path: Path) -> None:
    program(tmp_path, "dpkg", "echo riscv64")
    assert "no Shoal for riscv64" in tried("--dry-run", path=tmp_path).stderr
    program(tmp_path, "dpkg", "echo amd64")
    program(tmp_path, "python3", "echo cp39")
    done = tried("--dry-run", path=tmp_path)
    assert done.returncode == 1 and "this is cp39" in done.stderr


def test_without_root_it_changes_nothing_and_says_how(tmp_path: Path) -> None:
    program(tmp_path, "id", "echo 1000")
    done = tried(path=tmp_path)
    assert done.returncode == 1 and "sudo" in done.stderr and "--dry-run" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--purge", "--dry-run"), "--purge goes with --uninstall"),
        (("--upgrade",), "unknown argument --upgrade"),
        (("--bundle", "/no/such/file", "--dry-run"), "no such file"),
        (("--rollback", "--dry-run"), "no version before this one"),
    ],
)
def test_wrong_words_are_told_of(words: tuple[str, ...], text: str) -> None:
    done = tried(*words)
    assert done.returncode != 0 and text in done.stderr


def bundle(place: Path, **keys: str) -> Path:
    """As scripts/bundle makes them, without what is in them."""
    inner = place / "shoal-1"
    (inner / "wheels").mkdir(parents=True)
    told = {"version": "1", "arch": "amd64", "python": "cp311", "digest": "abc"} | keys
    (inner / "BUNDLE").write_text("".join(f"{key}={value}\n" for key, value in told.items()))
    shutil.copytree(UNITS, inner / "scripts/systemd")
    with tarfile.open(place / "bundle.tar.gz", "w:gz") as archive:
        archive.add(inner, "shoal-1")
    return place / "bundle.tar.gz"


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """What it looks at of the device, as an amd64 Debian 12 has it."""
    place = tmp_path / "bin"
    place.mkdir()
    program(place, "dpkg", "echo amd64")
    program(place, "python3", "echo cp311")
    return place


def test_a_bundle_needs_neither_network_nor_compiler(tmp_path: Path, device: Path) -> None:
    done = tried("--dry-run", "--bundle", str(bundle(tmp_path)), path=device)
    assert done.returncode == 0, done.stderr
    assert "apt-get" not in done.stdout and "--no-index" in done.stdout
    assert "/opt/shoal/versions/1-abc" in done.stdout


@pytest.mark.parametrize(("key", "value"), [("arch", "arm64"), ("python", "cp313")])
def test_a_bundle_for_another_machine_is_refused(
    tmp_path: Path, device: Path, key: str, value: str
) -> None:
    made = bundle(tmp_path, **{key: value})
    done = tried("--dry-run", "--bundle", str(made), path=device)
    assert done.returncode == 1 and "this bundle is for" in done.stderr and value in done.stderr


def test_what_is_no_bundle_is_refused(tmp_path: Path, device: Path) -> None:
    other = tmp_path / "other.tar.gz"
    other.write_bytes(b"what is this")
    done = tried("--dry-run", "--bundle", str(other), path=device)
    assert done.returncode == 1 and "no bundle, or is damaged" in done.stderr


def test_uninstalling_keeps_what_it_knows_unless_told_otherwise() -> None:
    kept = tried("--uninstall", "--dry-run")
    assert kept.returncode == 0 and "rm -rf /var/lib/shoal" not in kept.stdout
    assert "is kept" in kept.stdout
    gone = tried("--uninstall", "--purge", "--dry-run")
    assert "rm -rf /var/lib/shoal /etc/shoal" in gone.stdout and "gone for good" in gone.stdout


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The script with places of the test's own, none of which is made."""
    text = INSTALL.read_text()
    places = {"OPT=/opt/shoal": "opt", "CONFIG=/etc/shoal": "etc", "STATE=/var/lib/shoal": "state"}
    for setting, name in {**places, "UNITS=/etc/systemd/system": "units"}.items():
        assert text.count(setting) == 1
        text = text.replace(setting, f"{setting.partition('=')[0]}={tmp_path / name}")
    script = tmp_path / "elsewhere"
    script.write_text(text)
    script.chmod(0o755)
    return script


def test_what_it_makes_is_open_whatever_umask_root_has(tmp_path: Path) -> None:
    program(tmp_path, "dpkg", f"umask >{tmp_path}/umask; echo amd64")
    assert tried("--dry-run", path=tmp_path).returncode == 0
    assert (tmp_path / "umask").read_text() == "0022\n"


def test_an_upgrade_keeps_what_was_asked_for_once(
    tmp_path: Path, device: Path, elsewhere: Path
) -> None:
    words = ("--dry-run", "--bundle", str(bundle(tmp_path)))
    done = tried(*words, path=device, script=elsewhere)
    assert "/wheels shoal\n" in done.stdout and "extras" not in done.stdout, done
    done = tried(*words, "--s3", path=device, script=elsewhere)
    assert "/wheels shoal[s3]\n" in done.stdout and "versions/1-abc-s3\n" in done.stdout, done
    assert f"write {tmp_path}/etc/extras" in done.stdout
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/extras").write_text("wasm\ns3\n")
    done = tried(*words, path=device, script=elsewhere)
    assert "/wheels shoal[wasm,s3]\n" in done.stdout and "1-abc-wasm-s3\n" in done.stdout, done
    (tmp_path / "etc/extras").unlink()
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/current").symlink_to("/opt/shoal/versions/0.1.0-abc-wasm")
    done = tried(*words, path=device, script=elsewhere)
    assert "/wheels shoal[wasm]\n" in done.stdout, "as versions of before there was such a file"


def test_a_version_that_another_python_left_is_made_anew(
    tmp_path: Path, device: Path, elsewhere: Path
) -> None:
    words = ("--dry-run", "--bundle", str(bundle(tmp_path)))
    there = tmp_path / "opt/versions/1-abc"
    (there / "bin").mkdir(parents=True)
    (there / "complete").touch()
    program(there / "bin", "python", "exit 1")
    done = tried(*words, path=device, script=elsewhere)
    assert f"rm -rf {there}" in done.stdout and "is here already" not in done.stdout, done
    program(there / "bin", "python", "exit 0")
    assert "is here already" in tried(*words, path=device, script=elsewhere).stdout


def test_uninstalling_ends_its_own_containers_and_purging_their_volumes(
    tmp_path: Path, device: Path, elsewhere: Path
) -> None:
    for name in ("opt/current/bin", "state"):
        (tmp_path / name).mkdir(parents=True)
    program(tmp_path / "opt/current/bin", "python", "echo 12D3KooWme")
    (tmp_path / "state/identity.key").touch()
    found = 'case "$1" in ps) echo c1; echo c2 ;; volume) echo v1 ;; esac'
    program(device, "docker", f'echo "$@" >>{tmp_path}/asked; {found}')
    kept = tried("--uninstall", "--dry-run", path=device, script=elsewhere)
    assert "docker rm -f c1 c2\n" in kept.stdout and "volume" not in kept.stdout, kept
    gone = tried("--uninstall", "--purge", "--dry-run", path=device, script=elsewhere)
    assert "docker volume rm v1\n" in gone.stdout, gone
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] == "ps -aq --filter label=shoal.peer=12D3KooWme"
    assert asked[-1] == "volume ls -q --filter label=shoal.peer=12D3KooWme"
    program(tmp_path / "opt/current/bin", "python", "exit 1")
    told = tried("--uninstall", "--dry-run", path=device, script=elsewhere)
    assert "docker rm" not in told.stdout and "cannot be told any more; by hand" in told.stdout


def test_uninstalling_twice_is_no_harm(tmp_path: Path, elsewhere: Path) -> None:
    """systemd fails over units that are not there."""
    assert "disable" not in tried("--uninstall", "--dry-run", script=elsewhere).stdout
    (tmp_path / "units").mkdir()
    (tmp_path / "units/shoal.service").touch()
    done = tried("--uninstall", "--dry-run", script=elsewhere)
    assert "systemctl disable --now shoal.service" in done.stdout, done
    assert "shoal-token" not in done.stdout.partition("disable")[2].partition("\n")[0]


# ---- units -------------------------------------------------------------------------------------


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copies whose programs are here, so that nothing else can be wrong with them."""
    place = tmp_path / "units"
    shutil.copytree(UNITS, place)
    for name in ("shoal", "shoal-spawn"):
        program(place, name, "exit 0")
    for unit in place.glob("*.service"):
        text = unit.read_text().replace("/opt/shoal/current/bin", str(place))
        unit.write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE))
    return place


def test_systemd_finds_nothing_wrong_with_the_units(units: Path) -> None:
    paths = [str(path) for suffix in ("service", "socket") for path in units.glob(f"*.{suffix}")]
    assert len(paths) == 4
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_agent_is_as_closed_as_promised(units: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", units / "shoal.service"],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    (told,) = re.findall(r"exposure level for shoal.service: ([0-9.]+)", done.stdout)
    assert float(told) <= EXPOSURE_MAX, done.stdout


def test_what_the_agent_needs_is_not_forbidden() -> None:
    """Each was seen to break something, or to be asked for by the design."""
    text = (UNITS / "shoal.service").read_text()
    settings = dict(
        line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z]\w+=", line)
    )
    assert settings["Type"] == "notify" and settings["User"] == "shoal"
    assert settings["CapabilityBoundingSet"] == "" and settings["NoNewPrivileges"] == "yes"
    assert "docker" not in settings["After"], "which waits for the network"
    for key in ("ProtectClock", "ProtectControlGroups", "ProtectProc", "PrivateDevices"):
        assert key not in settings, key
    assert "adjtimex" in settings["SystemCallFilter"], "the last of them has to be this one"
    tasks = (UNITS / "shoal-tasks.service").read_text()
    assert "KillMode=process" in tasks and "NoNewPrivileges" not in tasks
    assert not re.search(r"^(Protect|Private|Restrict|SystemCall)", tasks, re.MULTILINE)


def test_the_token_on_the_card_is_removed_once_it_has_served(tmp_path: Path) -> None:
    script = tmp_path / "shoal-boot-token"
    shutil.copy(UNITS / "shoal-boot-token", script)
    program(tmp_path, "shoal", f'echo "$@" >>{tmp_path}/asked; [ ! -e {tmp_path}/refuses ]')
    token = tmp_path / "shoal.token"
    token.write_text("shoal1:abc\n")
    (tmp_path / "refuses").touch()
    command = ["/bin/sh", script, tmp_path / "absent", token]
    assert subprocess.run(command, check=False, timeout=30).returncode != 0
    assert token.exists(), "it is tried again"
    (tmp_path / "refuses").unlink()
    assert subprocess.run(command, check=False, timeout=30).returncode == 0
    assert not token.exists()
    assert (tmp_path / "asked").read_text() == f"join {token}\n" * 2
    assert subprocess.run(command, check=False, timeout=30).returncode == 0, "nothing to do"
