"""Which platform and Debian release the virtual Pi has, and whether this machine emulates it."""

import platform as host_platform

from tests.virtual_pi.console import VirtualPiError

DEFAULT_PLATFORM = "linux/arm64"
PLATFORMS = (DEFAULT_PLATFORM, "linux/amd64")
DEFAULT_RELEASE = "13"
RELEASES = {"12": "bookworm", DEFAULT_RELEASE: "trixie"}
_DOCKER_NAMES = {"aarch64": "arm64", "arm64": "arm64", "x86_64": "amd64", "amd64": "amd64"}


def native_platform() -> str:
    """The host's own platform, as Docker writes it."""
    machine = host_platform.machine().lower()
    return f"linux/{_DOCKER_NAMES.get(machine, machine)}"


def architecture(platform: str) -> str:
    """The Debian (and Docker) name of the platform's architecture: `arm64` of `linux/arm64`.

    Refuses every platform the virtual Pi does not exist for.
    """
    if platform not in PLATFORMS:
        raise VirtualPiError(f"Unknown platform {platform!r}: choose one of {', '.join(PLATFORMS)}")
    return platform.partition("/")[2]


def suite(release: str) -> str:
    """Debian's name of the release: `trixie` of `13`. Refuses every other release than ours."""
    if release not in RELEASES:
        raise VirtualPiError(f"Unknown release {release!r}: choose one of {', '.join(RELEASES)}")
    return RELEASES[release]


def is_emulated(platform: str) -> bool:
    """Whether programs of this platform run through qemu-user on this host."""
    return platform != native_platform()
