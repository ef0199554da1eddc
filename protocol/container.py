"""A container: the image a task runs from, what is run in it, and what it wants of the device.

`Image`, `Entrypoint`, `Parameters`, `EnvironmentVariables` and `WorkingDirectory` are Bacalhau's.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from protocol.tree import Node, Plain, shown

IMAGE_BYTES_MAX: Final = 255  # and within bounds.Reason, as which it is announced
ARGUMENTS_MAX: Final = 256
ARGUMENT_BYTES_MAX: Final = 16 * 1024  # room for a script after `sh -c`
VARIABLES_MAX: Final = 64
VARIABLE_BYTES_MAX: Final = 4096
DEVICES_MAX: Final = 16
CAPABILITIES_MAX: Final = 16
DIRECTORY_BYTES_MAX: Final = 1024

PULLS: Final = ("missing", "always", "never")  # docker's own words for `docker run --pull`

FIELDS: Final = (
    "Image",
    "Entrypoint",
    "Parameters",
    "EnvironmentVariables",
    "WorkingDirectory",
    "User",
    "Pull",
    "Devices",
    "Capabilities",
)
HINTS: Final = {
    "Command": "is for processes; write Entrypoint: [program] and Parameters: [argument]",
    "Env": "is not a key here; write it into the task's Env",
    "PullPolicy": "is not a key here; write Pull: missing, always or never",
    "Privileged": "is nothing that a job may ask for; name the Devices and Capabilities it needs",
    "Volumes": "is not a key here; write Volumes into the task, beside its Engine",
    "Mounts": "is not a key here; write InputSources",
}

# As the reference grammar of OCI's distribution has it, but for its lengths: an optional host, a
# path in lower case, a tag, a digest.
_PART: Final = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::[0-9]{1,5})?/)?"
    rf"{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)
_IMAGE_ALLOWED: Final = "allowed: e.g. busybox:1.37.0 or ghcr.io/owner/name@sha256:..."
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}=.*", re.DOTALL)
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?")
_DEVICE: Final = re.compile(r"/dev/[A-Za-z0-9._/-]{1,100}")
_CAPABILITY: Final = re.compile(r"[A-Z][A-Z_]{1,40}")
_RESERVED: Final = ("SHOAL_", "BACALHAU_")


class ContainerParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the `docker` engine."""

    image: str
    entrypoint: tuple[str, ...] = ()  # empty: the image's own
    parameters: tuple[str, ...] = ()  # empty: the image's own
    environment: tuple[str, ...] = ()  # NAME=value
    working_directory: str = ""  # empty: the image's own; absolute, in the container
    user: str = ""  # empty: the image's own
    pull: str = "missing"
    devices: tuple[str, ...] = ()  # device files, under the same name within
    capabilities: tuple[str, ...] = ()  # of capabilities(7), without CAP_; all others are dropped

    @classmethod
    def read(cls, node: Node) -> ContainerParams:
        fields = node.fields(*FIELDS, later=HINTS)
        return cls(
            image=_read_image(fields.need("Image")),
            entrypoint=fields.read("Entrypoint", read_arguments, ()),
            parameters=fields.read("Parameters", read_arguments, ()),
            environment=fields.read("EnvironmentVariables", read_variables, ()),
            working_directory=fields.optional("WorkingDirectory", _read_directory, ""),
            user=fields.read("User", _read_user, ""),
            pull=fields.read("Pull", lambda at: at.choice(PULLS, "a pull policy"), "missing"),
            devices=fields.read("Devices", _read_devices, ()),
            capabilities=fields.read("Capabilities", _read_capabilities, ()),
        )

    def to_plain(self) -> dict[str, Plain]:
        """Canonical form: what is empty is left out."""
        tree: dict[str, Plain] = {
            "Image": self.image,
            "Entrypoint": [*self.entrypoint],
            "Parameters": [*self.parameters],
            "EnvironmentVariables": [*self.environment],
            "WorkingDirectory": self.working_directory,
            "User": self.user,
            "Pull": self.pull,
            "Devices": [*self.devices],
            "Capabilities": [*self.capabilities],
        }
        return {key: value for key, value in tree.items() if value}


def full_name(image: str) -> str:
    """One name for what docker takes for the same image: `busybox` is
    `docker.io/library/busybox:latest`, as docker's clients complete it."""
    name, at, digest = image.partition("@")
    host, slash, rest = name.partition("/")
    if not slash:
        host, rest = "docker.io", f"library/{name}"
    elif "." not in host and ":" not in host and host != "localhost":
        host, rest = "docker.io", name
    elif host in ("docker.io", "index.docker.io"):
        host, rest = "docker.io", rest if "/" in rest else f"library/{rest}"
    if at:
        return f"{host}/{rest.partition(':')[0]}@{digest}"  # the digest says it all
    return f"{host}/{rest}" if ":" in rest else f"{host}/{rest}:latest"


def _read_image(node: Node) -> str:
    text = node.text(IMAGE_BYTES_MAX).strip()
    if not _IMAGE.fullmatch(text):
        node.fail(f"{shown(text)} is not an image's name; {_IMAGE_ALLOWED}")
    return text


def read_arguments(node: Node) -> tuple[str, ...]:
    return tuple(item.word(ARGUMENT_BYTES_MAX) for item in node.items(ARGUMENTS_MAX))


def read_variables(node: Node) -> tuple[str, ...]:
    found = []
    for item in node.items(VARIABLES_MAX):
        text = item.text(VARIABLE_BYTES_MAX)
        if not _VARIABLE.fullmatch(text):
            item.fail(f"{shown(text)} is not a variable; allowed: NAME=value")
        if text.upper().startswith(_RESERVED):
            item.fail(f"names that start with {' or '.join(_RESERVED)} belong to the agent")
        found.append(text)
    return tuple(found)


def _read_directory(node: Node) -> str:
    text = node.text(DIRECTORY_BYTES_MAX).strip()
    if not text.startswith("/") or ".." in text.split("/") or not text.isprintable():
        node.fail(f"{shown(text)} is not a directory of a container; allowed: e.g. /app")
    return "/" + "/".join(part for part in text.split("/") if part not in ("", "."))


def _read_user(node: Node) -> str:
    text = node.word(128).strip()
    if not _USER.fullmatch(text):
        node.fail(f"{shown(text)} is not a user; allowed: e.g. 1000, 1000:1000 or nobody")
    return text


def _read_devices(node: Node) -> tuple[str, ...]:
    found = set()
    for item in node.items(DEVICES_MAX):
        text = item.text(128).strip()
        if not _DEVICE.fullmatch(text) or ".." in text.split("/"):
            item.fail(f"{shown(text)} is not a device file; allowed: e.g. /dev/i2c-1")
        found.add(text)
    return tuple(sorted(found))


def _read_capabilities(node: Node) -> tuple[str, ...]:
    found = set()
    for item in node.items(CAPABILITIES_MAX):
        text = item.text(64).strip().upper().removeprefix("CAP_")
        if not _CAPABILITY.fullmatch(text) or text == "ALL":
            item.fail(f"{shown(item.value)} is not a capability; allowed: e.g. NET_ADMIN")
        found.add(text)
    return tuple(sorted(found))
