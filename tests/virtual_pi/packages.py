"""Debian packages for the host: installed without questions and without starting daemons."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from tests.virtual_pi.console import VirtualPiError, call, step

_RELEASES = ("12", "13")
_BACKPORTS = "trixie-backports"
_SOURCE = Path("/etc/apt/sources.list.d/celery-pi-backports.sources")
_PIN = Path("/etc/apt/preferences.d/celery-pi-backports")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_APT = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300")


def systemd_is_running() -> bool:
    """Whether the host's own services are run by systemd."""
    return Path("/run/systemd/system").is_dir()


def debian_release() -> str:
    """The host's Debian release (`12`), or an empty string if this is another system."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    return release.get("VERSION_ID", "") if release["ID"] == "debian" else ""


def can_install() -> bool:
    """Whether the host is a Debian 12 or 13 on which we are root."""
    return debian_release() in _RELEASES and os.geteuid() == 0


def install(packages: Sequence[str], from_backports: Sequence[str] = ()) -> None:
    """Install packages of the host's own release, and others from Debian 13's backports."""
    if from_backports:
        _add_backports()
    with step(f"Installing {', '.join([*packages, *from_backports])}", "about 1 minute"):
        _update()
        if packages:
            _apt_install(packages)
        if from_backports:
            _apt_install(("-t", _BACKPORTS, *from_backports))


def _apt_install(arguments: Sequence[str]) -> None:
    command = (*_APT, "install", "--no-install-recommends", *arguments)
    call(command, "The host's packages could not be installed", env=_environment())


def _update() -> None:
    """Fetch the package lists; a third-party source that fails must not keep us from Debian's."""
    try:
        call((*_APT, "update"), "The package lists could not be fetched", env=_environment())
    except VirtualPiError:
        # The installation that follows fails with a clearer reason if Debian's lists are missing.
        return


def _add_backports() -> None:
    """Make them known to apt, pinned below everything installed: used only when asked for."""
    _SOURCE.write_text(
        "# celery-pi: the virtual Pi needs a qemu-user newer than Debian 12's and 13's own\n"
        f"Types: deb\nURIs: http://deb.debian.org/debian\nSuites: {_BACKPORTS}\n"
        f"Components: main\nSigned-By: {_KEYRING}\n"
    )
    _PIN.write_text(f"Package: *\nPin: release n={_BACKPORTS}\nPin-Priority: 50\n")


def _environment() -> dict[str, str]:
    """No questions; and without systemd no daemon starts on install (invoke-rc.d in runlevel 1)."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    return quiet if systemd_is_running() else {**quiet, "RUNLEVEL": "1"}
