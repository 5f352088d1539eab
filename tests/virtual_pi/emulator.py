"""qemu-user for a foreign platform, registered with the kernel's binfmt_misc."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.virtual_pi.console import VirtualPiError, call
from tests.virtual_pi.packages import can_install, install
from tests.virtual_pi.platforms import architecture

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
# With 7.2 every unit of systemd 257 fails. 10.0 does not report mount ids: since 257.13 every unit
# with a mount namespace (ProtectSystem=, PrivateTmp=, ...) fails with 226/NAMESPACE.
_OLDEST = 11
# F: the emulator stays open, containers need no copy of it. C: setuid programs such as sudo work.
_FLAGS = "FC"
_QEMU_NAMES = {"arm64": "aarch64", "amd64": "x86_64"}


def ensure_emulator(platform: str) -> None:
    """Make programs of a foreign platform run in containers, by a qemu-user that systemd accepts.

    On a Debian host as root, installs and registers it; elsewhere says what is missing.
    """
    if sys.platform != "linux":
        return  # Docker Desktop and its kin bring an emulator inside their virtual machine
    problem = _problem(platform)
    if not problem:
        return
    if not can_install():
        raise VirtualPiError(
            f"{problem}: install qemu-user {_OLDEST} or newer and register it in binfmt_misc with "
            f"the flags {_FLAGS} (on Debian 12 or 13, run this as root and it is done for you)."
        )
    _install_and_register(platform)
    problem = _problem(platform)
    if problem:
        raise VirtualPiError(f"{problem}, although qemu-user has just been registered.")


def _problem(platform: str) -> str:
    """Why programs of the platform would not run in a container; empty if they would."""
    entry = _BINFMT / f"qemu-{_qemu(platform)}"
    if not entry.exists():
        return f"No emulator for {platform} is registered in {_BINFMT}"
    registration = entry.read_text()
    flags = re.search(r"^flags: (\w*)$", registration, re.MULTILINE)
    interpreter = re.search(r"^interpreter (.+)$", registration, re.MULTILINE)
    if not registration.startswith("enabled") or not set(_FLAGS) <= set(flags[1] if flags else ""):
        return f"The emulator for {platform} is disabled or registered without the flags {_FLAGS}"
    version = _version(interpreter[1]) if interpreter else None
    if version is not None and version < _OLDEST:
        return f"The emulator for {platform} is qemu-user {version}, too old for systemd"
    return ""


def _version(interpreter: str) -> int | None:
    """The emulator's major version; None where it cannot be asked (it came in a container)."""
    try:
        # Debian registers a link whose very name changes how qemu reads its arguments
        real = Path(interpreter).resolve()
        answer = subprocess.run([real, "--version"], capture_output=True, text=True)
    except OSError:
        return None
    found = re.search(r"version (\d+)\.", answer.stdout)
    return int(found[1]) if found else None


def _install_and_register(platform: str) -> None:
    rules = Path(f"/usr/share/qemu/binfmt.d/qemu-{_qemu(platform)}.conf")
    if not rules.exists() or (_version(f"/usr/bin/qemu-{_qemu(platform)}") or 0) < _OLDEST:
        install([], from_backports=["qemu-user"])
    if not (_BINFMT / "register").exists():
        why = "The kernel's binfmt_misc could not be mounted"
        call(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)], why)
    entry = _BINFMT / f"qemu-{_qemu(platform)}"
    try:
        if entry.exists():
            entry.write_text("-1")
        _register(rules.read_text().strip())
    except OSError as error:
        message = f"The kernel refused qemu-user for {platform} ({error.strerror})."
        raise VirtualPiError(message) from error


def _register(rule: str) -> None:
    """Hand the kernel Debian's rule, with our flags added to its own."""
    head, _, flags = rule.rpartition(":")
    wanted = "".join(sorted({*flags, *_FLAGS}))
    register = os.open(_BINFMT / "register", os.O_WRONLY)
    try:
        os.write(register, f"{head}:{wanted}".encode())
    finally:
        os.close(register)


def _qemu(platform: str) -> str:
    return _QEMU_NAMES[architecture(platform)]
