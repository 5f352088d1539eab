"""The connection to Docker, and its failures as sentences."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import docker
from docker.errors import DockerException
from docker.models.containers import Container

from tests.virtual_pi.console import VirtualPiError

_PATIENCE = 300  # seconds one answer may take: committing a deployed machine is slow


@cache
def connect() -> docker.DockerClient:
    """The one client of this process."""
    with explained("Docker does not answer"):
        return docker.from_env(timeout=_PATIENCE)


@contextmanager
def explained(failure: str) -> Iterator[None]:
    """Turn what the Docker library raises into a VirtualPiError that opens with `failure`."""
    try:
        yield
    except DockerException as error:
        raise VirtualPiError(f"{failure}: {error}") from error


def require_disk_space(gigabytes: int) -> None:
    """Refuse to go on when Docker's store, where it is on this machine, has too little room."""
    store = Path(connect().info()["DockerRootDir"])
    if not store.is_dir():
        return  # the engine runs in a virtual machine or elsewhere
    free = shutil.disk_usage(store).free / 1e9
    if free < gigabytes:
        raise VirtualPiError(
            f"Not enough disk space: the virtual Pi needs {gigabytes} GB free under {store}, "
            f"there are {free:.1f} GB."
        )


def create_container(name: str, image: str, platform: str) -> Container:
    """Create a container that systemd can run in, without `--privileged`, and do not start it."""
    api = connect().api
    # Root on a Pi has every capability. Without SYS_PTRACE it does not see its own parent in a
    # /proc with hidepid, and PrivateUsers= together with ProtectProc= fails; so it does where
    # parts of /proc are masked.
    host = api.create_host_config(
        cap_add=["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        cgroupns="private",
    )
    # The command line's systempaths=unconfined, which the library has no word for.
    host |= {"MaskedPaths": [], "ReadonlyPaths": []}
    made = api.create_container(
        image, name=name, hostname="raspberrypi", host_config=host, platform=platform
    )
    return connect().containers.get(made["Id"])
