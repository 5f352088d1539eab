"""The Debian root file system the image is made of, kept as a tar archive between builds."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from docker import DockerClient
from docker.errors import DockerException
from docker.models.containers import Container

from tests.virtual_pi.console import VirtualPiError, call, step, tail
from tests.virtual_pi.platforms import architecture, is_emulated, suite

_MIRRORS = (
    "deb http://deb.debian.org/debian {suite} main",
    "deb http://deb.debian.org/debian {suite}-updates main",
    "deb http://deb.debian.org/debian-security {suite}-security main",
)
# What Raspberry Pi OS Lite has that a deployment may lean on.
_PACKAGES = (
    *("systemd-sysv", "dbus", "sudo", "passwd", "adduser", "openssh-server", "ca-certificates"),
    *("python3", "python3-venv", "iproute2", "iputils-ping", "netbase", "procps", "psmisc"),
    *("kmod", "less", "curl", "tzdata"),
)
# qemu-user cannot speak netlink to netfilter: these run on the host's processor instead.
_NETFILTER = ("iptables:amd64", "nftables:amd64")


def recipe(platform: str, release: str) -> str:
    """Everything the root file system depends on: a change of this text makes a new one."""
    parts = (suite(release), *_mirrors(release), *_architectures(platform), *_packages(platform))
    return "\n".join(parts)


def ensure_rootfs(engine: DockerClient, platform: str, release: str, fresh: bool = False) -> Path:
    """Return the archive of that root file system, building it if there is none.

    `fresh` builds it in any case, which brings in Debian's updates.
    """
    digest = hashlib.sha256(recipe(platform, release).encode()).hexdigest()[:12]
    archive = cache_directory() / f"{suite(release)}-{architecture(platform)}-{digest}.tar"
    if archive.exists() and not fresh:
        return archive
    usually = "about 6 minutes" if is_emulated(platform) else "about 1 minute"
    unfinished = archive.with_suffix(f".{os.getpid()}")
    try:
        with step(f"Building the {suite(release)} root file system", usually):
            if shutil.which("mmdebstrap") and os.geteuid() == 0:
                _bootstrap(platform, release, unfinished)
            else:
                _export_from_registry(engine, platform, release, unfinished)
        return unfinished.rename(archive)
    finally:
        unfinished.unlink(missing_ok=True)


def cache_directory() -> Path:
    """Where the archives are kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = home / "celery-pi"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _mirrors(release: str) -> tuple[str, ...]:
    return tuple(line.format(suite=suite(release)) for line in _MIRRORS)


def _architectures(platform: str) -> tuple[str, ...]:
    own = architecture(platform)
    return (own, "amd64") if _needs_host_netfilter(platform) else (own,)


def _packages(platform: str) -> tuple[str, ...]:
    return (*_PACKAGES, *_NETFILTER) if _needs_host_netfilter(platform) else _PACKAGES


def _needs_host_netfilter(platform: str) -> bool:
    return is_emulated(platform) and architecture(platform) == "arm64"


def _bootstrap(platform: str, release: str, archive: Path) -> None:
    """Build it from Debian's packages alone: no image registry is needed."""
    why = "Debian's root file system could not be built"
    options = [
        "--format=tar",
        "--variant=minbase",
        f"--architectures={','.join(_architectures(platform))}",
    ]
    packages = f"--include={','.join(_packages(platform))}"
    call(["mmdebstrap", *options, packages, suite(release), str(archive), *_mirrors(release)], why)


def _export_from_registry(engine: DockerClient, platform: str, release: str, archive: Path) -> None:
    """Without mmdebstrap (a Mac, an unprivileged user): fill up the registry's image of Debian."""
    foreign = _architectures(platform)[1:]
    steps = [f"dpkg --add-architecture {name}" for name in foreign]
    steps += [
        "apt-get update",
        "apt-get install -y --no-install-recommends " + " ".join(_packages(platform)),
    ]
    steps += ["apt-get clean", "rm -rf /var/lib/apt/lists/*", "rm -f /.dockerenv"]
    with _container(engine, platform, release, " && ".join(steps)) as container:
        container.start()
        if container.wait()["StatusCode"] != 0:
            said = tail(container.logs().decode(errors="replace"))
            raise VirtualPiError("The root file system could not be filled with packages.", said)
        with archive.open("wb") as target:
            target.writelines(cast(Iterable[bytes], container.export()))


@contextmanager
def _container(
    engine: DockerClient, platform: str, release: str, script: str
) -> Iterator[Container]:
    """A container of the registry's Debian that is gone afterwards."""
    image = f"debian:{suite(release)}"
    try:
        engine.images.pull(image, platform=platform)
        container = engine.containers.create(
            image,
            ["sh", "-c", script],
            platform=platform,
            environment={"DEBIAN_FRONTEND": "noninteractive"},
        )
    except DockerException as error:
        raise VirtualPiError(
            f"Neither mmdebstrap (run this as root on Debian) nor the image {image} "
            f"is at hand to build the virtual Pi from: {error}"
        ) from error
    try:
        yield container
    finally:
        container.remove(force=True)
