"""The start of a container: made, its files put in, its ports chosen; and why it failed."""

from __future__ import annotations

import errno
import re
from typing import Final

from agent.engines.container import ContainerLaunch, create_options, host_options, with_ports
from agent.engines.container_files import open_volumes, put_files
from agent.engines.docker_client import DockerClient, EngineFailed
from agent.engines.execution_dir import ExecutionDir
from agent.engines.ports import NOTE, Ports, note_of

PORT_TRIES: Final = 8  # ports that others took a moment before
_TAKEN: Final = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)


def start_container(
    client: DockerClient, directory: ExecutionDir, launch: ContainerLaunch, ports: Ports
) -> None:
    """Ports are chosen here: somebody else may take one until docker has it, and then another is
    tried."""
    chosen = launch
    for left in reversed(range(PORT_TRIES if launch.chooses_ports else 1)):
        if launch.ports:
            chosen = with_ports(launch, ports.choose(launch.ports))
            directory.write_note(NOTE, note_of(chosen.ports))
        try:
            _start_once(client, directory, chosen)
        except EngineFailed as error:
            if not left or not _TAKEN.search(str(error)):
                raise
            client.remove(launch.execution_id)
        else:
            return


def _start_once(client: DockerClient, directory: ExecutionDir, launch: ContainerLaunch) -> None:
    host = host_options(launch, directory.work, client.log_driver, client.volume_name)
    for volume, _, _ in launch.volumes:
        client.make_volume(volume, launch.job, launch.standing)
    client.create(launch.execution_id, create_options(launch), host)
    put_files(client, launch, directory.work, directory.tmp)
    open_volumes(client, launch, directory.tmp)
    client.start(launch.execution_id)


def why_not_started(failure: Exception) -> str:
    if isinstance(failure, OSError) and failure.errno == errno.ENOSPC:
        return "it could not be started: the disk is full"
    return f"it could not be started: {failure}"
