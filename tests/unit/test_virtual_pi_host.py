"""What is wrong with the host of a virtual Pi is told in a sentence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.virtual_pi import VirtualPiError, emulator, engine, host

ARM64 = "linux/arm64"


@pytest.fixture
def binfmt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's list of interpreters, on a host where we may not install."""
    monkeypatch.setattr(emulator, "_BINFMT", tmp_path)
    monkeypatch.setattr(emulator, "can_install", lambda: False)
    return tmp_path / "qemu-aarch64"


def register(binfmt: Path, version: str, flags: str = "POCF") -> None:
    qemu = binfmt.parent / "qemu"
    qemu.write_text(f"#!/bin/sh\necho 'qemu-aarch64 version {version} (Debian)'\n")
    qemu.chmod(0o755)
    binfmt.write_text(f"enabled\ninterpreter {qemu}\nflags: {flags}\n")


def test_new_emulator_with_all_flags_is_taken(binfmt: Path) -> None:
    register(binfmt, "11.1.3")
    emulator.ensure_emulator(ARM64)


@pytest.mark.parametrize(
    ("version", "flags", "said"),
    [
        ("10.0.13", "POCF", "is qemu-user 10, too old for systemd"),
        ("7.2.17", "POCF", "is qemu-user 7, too old for systemd"),
        ("11.1.3", "POF", "without the flags FC"),
        ("11.1.3", "PO", "without the flags FC"),
        (None, "", "No emulator for linux/arm64 is registered"),
    ],
)
def test_unfit_emulator_is_told_in_a_sentence(
    binfmt: Path, version: str | None, flags: str, said: str
) -> None:
    if version:
        register(binfmt, version, flags)
    with pytest.raises(VirtualPiError, match=said) as error:
        emulator.ensure_emulator(ARM64)
    assert "install qemu-user 11 or newer" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("free", "refused"), [(5.9e9, True), (6.1e9, False)])
def test_too_little_disk_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, refused: bool
) -> None:
    docker = SimpleNamespace(info=lambda: {"DockerRootDir": str(tmp_path)})
    monkeypatch.setattr(engine, "connect", lambda: docker)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    if not refused:
        engine.require_disk_space(6)
        return
    with pytest.raises(VirtualPiError, match=r"needs 6 GB free under .*, there are 5\.9 GB"):
        engine.require_disk_space(6)


def test_pid_file_of_a_killed_engine_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale, gone, live = (tmp_path / name for name in ("stale", "gone", "live"))
    ours = Path("/proc/self/comm").read_text().strip()
    stale.write_text(f"{os.getpid()}\n")
    gone.write_text(f"{2**22 + 1}")
    live.write_text(f"{os.getpid()}\n")
    pid_files = {"dockerd": stale, "containerd": gone, ours: live}
    monkeypatch.setattr(host, "_PID_FILES", pid_files)
    host._remove_stale_pid_files()
    assert [file.exists() for file in (stale, gone, live)] == [False, False, True]
