"""Managed by celery-pi. Programs that checks read from and repairs consist of, run to their end."""

from __future__ import annotations

import subprocess

from celery_pi_tools.privileges import Failed

READ_TIMEOUT = 10  # seconds; an emulated Pi starts a program in 0.1
EXECUTE_TIMEOUT = 120  # seconds; an emulated Pi takes 30 to start the worker


class CannotRead(Exception):
    """What a check needs cannot be read; the reason holds no secret."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def output(*command: str, timeout: float = READ_TIMEOUT) -> str:
    """Standard output of a program.

    Raises CannotRead when it fails or does not end within `timeout` seconds, FileNotFoundError
    when it is not installed.
    """
    try:
        done = _run(command, timeout)
    except subprocess.TimeoutExpired as error:
        reason = f"{command[0]} does not end within {timeout} s"
        raise CannotRead(reason, "restart the machine if it stays so") from error
    if done.returncode:
        reason = f"{command[0]} ended with {done.returncode}"
        raise CannotRead(reason, f"run it by hand: {' '.join(command[:2])}")
    return done.stdout


def inactive(*units: str) -> list[str]:
    """Those of the units that are not active."""
    states = output("systemctl", "show", "-P", "ActiveState", *units).split()
    return [unit for unit, state in zip(units, states, strict=True) if state != "active"]


def execute(*command: str, timeout: float = EXECUTE_TIMEOUT) -> str:
    """Standard output of a program that changes something. Raises Failed, with its last line, when
    it fails or does not end within `timeout` seconds."""
    try:
        done = _run(command, timeout)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} does not end within {timeout} s") from error
    if done.returncode:
        printed = (done.stderr or done.stdout).strip().splitlines()
        raise Failed(printed[-1] if printed else f"{command[0]} ended with {done.returncode}")
    return done.stdout


def _run(command: tuple[str, ...], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
    )
