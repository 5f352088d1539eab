"""One virtual Pi: a container that is treated as a machine."""

import subprocess
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.models.images import Image

from tests.virtual_pi.archive import pack_tree
from tests.virtual_pi.console import VirtualPiError, tail
from tests.virtual_pi.engine import connect, create_container, explained
from tests.virtual_pi.host import ensure_host
from tests.virtual_pi.image import ensure_image, image_name
from tests.virtual_pi.platforms import DEFAULT_PLATFORM, DEFAULT_RELEASE, architecture, suite

_BOOT_SECONDS = 300  # with its services, emulated, on a busy host: 130 were seen
_STOP_SECONDS = 60


class VirtualPi:
    """A Debian machine with systemd, known by its container's name.

    Several may live side by side. `image` starts it from a snapshot instead of the plain image.
    """

    def __init__(
        self,
        name: str = "virtual-pi",
        platform: str = DEFAULT_PLATFORM,
        image: str | None = None,
        release: str = DEFAULT_RELEASE,
    ) -> None:
        architecture(platform)
        suite(release)
        self.name = name
        self.platform = platform
        self.release = release
        self._image = image

    def up(self) -> None:
        """Bring the machine up, from nothing if need be, until systemd is `running`.

        Changes nothing on a machine that is up. Names the failed units of one that is not well.
        """
        ensure_host(self.platform)
        container = self._find() or self._create()
        if container.status != "running":
            with explained(f"{self.name} cannot be started"):
                container.start()
        self._wait_until_running()

    def down(self) -> None:
        """Remove the machine and everything on it; nothing happens if there is none."""
        container = self._find()
        if container is not None:
            with explained(f"{self.name} cannot be removed"):
                container.remove(force=True, v=True)

    def reboot(self) -> None:
        """Shut down in order, start again, and wait until systemd is `running`."""
        with explained(f"{self.name} cannot be restarted"):
            self._existing().restart(timeout=_STOP_SECONDS)
        self._wait_until_running()

    def power_cut(self) -> None:
        """Kill every process at once, start again, and wait until systemd is `running`."""
        with explained(f"{self.name} cannot be killed and started"):
            container = self._existing()
            container.kill("KILL")
            container.wait(timeout=_STOP_SECONDS)
            container.start()
        self._wait_until_running()

    def snapshot(self, tag: str) -> str:
        """Keep the machine's disk as an image and return its name; leaves the machine stopped.

        `VirtualPi(another_name, platform, image)` starts from there, `up` starts this one again.
        """
        repository = image_name(self.platform, self.release)
        name = f"{repository}:{tag}"
        with explained(f"{self.name} cannot be kept as {name}"):
            container = self._existing()
            container.stop(timeout=_STOP_SECONDS)
            previous = _image(name)
            container.commit(repository, tag)
            if previous is not None:
                _remove_unnamed(previous)
        return name

    def run(
        self,
        *argv: str,
        check: bool = True,
        user: str = "root",
        input: bytes | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine; by default a status other than 0 is a VirtualPiError.

        On a time-out the command itself may live on inside the machine.
        """
        interactive = ["--interactive"] if input is not None else []
        command = ["docker", "exec", *interactive, "--user", user, self.name, *argv]
        stdin = subprocess.DEVNULL if input is None else None
        try:
            done = subprocess.run(
                command, stdin=stdin, input=input, capture_output=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            message = f"{argv[0]} on {self.name} did not end within {timeout:g} s."
            raise VirtualPiError(message) from error
        stdout, stderr = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        if check and done.returncode != 0:
            message = f"{argv[0]} on {self.name} ended with {done.returncode}."
            raise VirtualPiError(message, tail(stdout + stderr))
        return subprocess.CompletedProcess(list(argv), done.returncode, stdout, stderr)

    def put(self, local: Path, remote: str, owner: str = "root:root") -> None:
        """Copy a tree onto the machine as `remote`, its files and directories owned by `owner`."""
        self.unpack(pack_tree(local, remote, owner))

    def unpack(self, archive: bytes) -> None:
        """Lay out a tar archive of absolute paths, with the owners and modes it names."""
        self.run("tar", "--extract", "--directory=/", "--file=-", input=archive)

    @property
    def address(self) -> str:
        """The machine's address on Docker's bridge."""
        networks = self._existing().attrs["NetworkSettings"]["Networks"]
        return str(networks["bridge"]["IPAddress"])

    def _find(self) -> Container | None:
        with explained(f"{self.name} cannot be looked up"):
            try:
                return connect().containers.get(self.name)
            except NotFound:
                return None

    def _existing(self) -> Container:
        container = self._find()
        if container is None:
            raise VirtualPiError(f"There is no virtual Pi {self.name}: bring it up first.")
        return container

    def _create(self) -> Container:
        image = self._image or ensure_image(self.platform, self.release)
        with explained(f"{self.name} cannot be made from {image}"):
            return create_container(self.name, image, self.platform)

    def _wait_until_running(self) -> None:
        deadline = time.monotonic() + _BOOT_SECONDS
        while (state := self._state()) not in ("running", "degraded"):
            if time.monotonic() > deadline:
                raise VirtualPiError(f"{self.name} is still {state} after {_BOOT_SECONDS} s.")
            time.sleep(0.2)
        if state == "degraded":
            raise VirtualPiError(f"{self.name} has failed units: {', '.join(self._failed())}.")

    def _state(self) -> str:
        container = self._existing()
        if container.status != "running":
            said = tail(container.logs().decode(errors="replace"))
            raise VirtualPiError(f"{self.name} has stopped by itself ({container.status}).", said)
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() or "starting"

    def _failed(self) -> Sequence[str]:
        listed = self.run("systemctl", "--failed", "--plain", "--no-legend").stdout
        return [line.split()[0] for line in listed.splitlines()]


def _image(name: str) -> Image | None:
    try:
        return connect().images.get(name)
    except ImageNotFound:
        return None


def _remove_unnamed(image: Image) -> None:
    """Remove an image that has lost its name, unless a machine was made from it."""
    image.reload()
    if image.tags:
        return
    try:
        connect().images.remove(str(image.id), noprune=True)
    except APIError as error:
        if error.status_code != HTTPStatus.CONFLICT:
            raise
