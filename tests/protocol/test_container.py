"""container: what a job file says of an image, read as Bacalhau's files have it."""

from __future__ import annotations

import pytest

from protocol.container import ContainerParams, full_name
from protocol.errors import JobSpecError
from protocol.tree import Node, Plain

DIGEST = "sha256:" + "ab" * 32


def read(**params: Plain) -> ContainerParams:
    return ContainerParams.read(Node({"Image": "busybox", **params}, "Params"))


def test_an_image_is_all_that_is_needed() -> None:
    assert read() == ContainerParams(image="busybox")
    assert read().to_plain() == {"Image": "busybox", "Pull": "missing"}


def test_the_keys_of_bacalhaus_files_are_read_in_any_letter_case() -> None:
    found = ContainerParams.read(
        Node(
            {
                "image": "ubuntu:22.04",
                "ENTRYPOINT": ["/bin/sh", "-c"],
                "parameters": ["echo $A", 5],
                "environmentvariables": ["A=1=2", "B="],
                "workingDirectory": "/app/./x/",
            }
        )
    )
    assert found == ContainerParams(
        image="ubuntu:22.04",
        entrypoint=("/bin/sh", "-c"),
        parameters=("echo $A", "5"),
        environment=("A=1=2", "B="),
        working_directory="/app/x",
    )


def test_what_it_wants_of_the_device_has_one_form() -> None:
    found = read(
        Devices=["/dev/video0", "/dev/i2c-1", "/dev/video0"],
        Capabilities=["cap_net_admin", "CHOWN"],
        User=1000,
        Pull="Always",
    )
    assert found.devices == ("/dev/i2c-1", "/dev/video0")
    assert found.capabilities == ("CHOWN", "NET_ADMIN")
    assert (found.user, found.pull) == ("1000", "always")
    assert ContainerParams.read(Node(found.to_plain())) == found


@pytest.mark.parametrize(
    "image",
    [
        "busybox",
        "busybox:1.37.0",
        "library/busybox",
        "ghcr.io/owner/some_name-x:v1.2",
        "127.0.0.1:5000/a/b/c",
        f"busybox@{DIGEST}",
        f"registry.local:443/x:1@{DIGEST}",
    ],
)
def test_images_are_named_as_in_docker(image: str) -> None:
    assert read(Image=image).image == image


@pytest.mark.parametrize(
    ("params", "path", "message"),
    [
        ({"Image": None}, "Params.Image", "missing"),
        ({"Image": "Busybox"}, "Params.Image", "is not an image's name; allowed: e.g. busybox"),
        ({"Image": "a b"}, "Params.Image", "is not an image's name"),
        ({"Image": "a@sha256:12"}, "Params.Image", "is not an image's name"),
        ({"Image": "a/" * 200}, "Params.Image", "bytes; allowed: at most 255"),
        ({"Image": 5}, "Params.Image", "is not a string"),
        ({"Entrypoint": "sh"}, "Params.Entrypoint", "is not a list"),
        ({"Parameters": [0.5]}, "Params.Parameters[0]", "put it in quotes"),
        ({"EnvironmentVariables": ["A"]}, "Params.EnvironmentVariables[0]", "NAME=value"),
        ({"EnvironmentVariables": ["SHOAL_X=1"]}, "Params.EnvironmentVariables[0]", "the agent"),
        ({"WorkingDirectory": "app"}, "Params.WorkingDirectory", "allowed: e.g. /app"),
        ({"WorkingDirectory": "/a/../b"}, "Params.WorkingDirectory", "is not a directory"),
        ({"User": "a b"}, "Params.User", "is not a user"),
        ({"Pull": "maybe"}, "Params.Pull", "allowed: missing, always, never"),
        ({"Devices": ["/etc/shadow"]}, "Params.Devices[0]", "is not a device file"),
        ({"Devices": ["/dev/../etc/shadow"]}, "Params.Devices[0]", "is not a device file"),
        ({"Capabilities": ["all"]}, "Params.Capabilities[0]", "is not a capability"),
        ({"Privileged": True}, "Params.Privileged", "name the Devices and Capabilities"),
        ({"Command": ["x"]}, "Params.Command", "write Entrypoint"),
        ({"Imag": "x"}, "Params.Imag", "did you mean 'Image'?"),
    ],
)
def test_errors_name_the_place(params: dict[str, Plain], path: str, message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        read(**params)
    assert (caught.value.path, message in caught.value.message) == (path, True), caught.value


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.37.0", "docker.io/library/busybox:1.37.0"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/library/busybox:latest", "docker.io/library/busybox:latest"),
        ("owner/name", "docker.io/owner/name:latest"),
        ("localhost/name:1", "localhost/name:1"),
        ("127.0.0.1:5000/name", "127.0.0.1:5000/name:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"ghcr.io/a/b:1@{DIGEST}", f"ghcr.io/a/b@{DIGEST}"),
    ],
)
def test_what_is_one_image_has_one_name(image: str, full: str) -> None:
    assert full_name(image) == full
