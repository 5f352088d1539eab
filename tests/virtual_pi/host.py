"""What the host needs to carry a virtual Pi: installed where we may, named where we may not."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.virtual_pi.console import VirtualPiError, call, step, tail
from tests.virtual_pi.emulator import ensure_emulator
from tests.virtual_pi.packages import can_install, debian_release, install, systemd_is_running
from tests.virtual_pi.platforms import is_emulated

_LOG = Path("/var/log/dockerd.log")
_SOCKET = Path("/var/run/docker.sock")
_PID_FILES = {
    "dockerd": Path("/var/run/docker.pid"),
    "containerd": Path("/var/run/docker/containerd/containerd.pid"),
}
_START_SECONDS = 60


def ensure_host(platform: str) -> None:
    """Leave the host with a running Docker and, for a foreign platform, a working emulator.

    Installs what a Debian 12 or 13 lacks when run as root; elsewhere one sentence says what to do.
    Looks before it acts: a host that has everything is left alone.
    """
    _ensure_docker_installed()
    if is_emulated(platform):
        ensure_emulator(platform)
    if not _docker_answers():
        _start_docker()


def _ensure_docker_installed() -> None:
    """The docker command and engine; on a Debian host also what builds the root file system."""
    tools = {"docker": "docker.io"}
    if can_install():
        tools |= {"dockerd": "docker.io", "iptables": "iptables"}
        tools |= {"mmdebstrap": "mmdebstrap", "arch-test": "arch-test"}
    if os.environ.get("DOCKER_HOST"):
        tools.pop("dockerd", None)  # the engine is elsewhere
    lacking = {package for tool, package in tools.items() if not _finds(tool)}
    if "docker.io" in lacking and debian_release() == "13":
        lacking.add("docker-cli")  # split off from docker.io there
    if not lacking:
        return
    if not can_install():
        raise VirtualPiError(
            "The docker command is missing: install and start Docker "
            "(on Debian 12 or 13, run this as root and it is done for you)."
        )
    install(sorted(lacking))


def _finds(tool: str) -> bool:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def _docker_answers() -> bool:
    """Ask the local engine for a sign of life; where it is not local, ask through the command."""
    if os.environ.get("DOCKER_HOST") or not _SOCKET.exists():
        asked = ["docker", "version", "--format", "{{.Server.Version}}"]
        return subprocess.run(asked, capture_output=True).returncode == 0
    with socket.socket(socket.AF_UNIX) as engine:
        engine.settimeout(5)
        try:
            engine.connect(str(_SOCKET))
            engine.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b"200 OK" in engine.recv(1024)
        except PermissionError as error:
            raise VirtualPiError(
                f"You may not use Docker ({_SOCKET}): run this as root or join the group docker."
            ) from error
        except OSError:
            return False


def _start_docker() -> None:
    if os.environ.get("DOCKER_HOST") or not can_install():
        raise VirtualPiError("Docker is installed but does not answer: start it, then try again.")
    with step("Starting Docker", "about 5 seconds"):
        if systemd_is_running():
            call(["systemctl", "start", "docker.service"], "Docker could not be started")
        else:
            _run_dockerd()


def _run_dockerd() -> None:
    """Run the engine detached from us, and wait until it answers."""
    _remove_stale_pid_files()
    with _LOG.open("ab") as log:
        engine = subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + _START_SECONDS
    while not _docker_answers():
        if engine.poll() is not None or time.monotonic() > deadline:
            said = tail(_LOG.read_text(errors="replace"))
            raise VirtualPiError(f"Docker's engine does not start, its log is {_LOG}.", said)
        time.sleep(0.2)


def _remove_stale_pid_files() -> None:
    """Remove the PID files of engines that were killed.

    Where /var/run outlives them, their PID may be another process's by now, and the engine, which
    asks only whether there is such a process, would take itself for running and give up.
    """
    for name, pid_file in _PID_FILES.items():
        if pid_file.exists():
            running = Path("/proc") / pid_file.read_text().strip() / "comm"
            if not running.exists() or running.read_text().strip() != name:
                pid_file.unlink()
