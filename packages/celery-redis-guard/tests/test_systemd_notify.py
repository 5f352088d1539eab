"""Notifications to systemd while a worker stops."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from celery_redis_guard import systemd_notify

pytestmark = pytest.mark.fast


def test_watchdog_gets_no_ping_after_stopping(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(systemd_notify, "_sent", set())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for message in ("READY=1", "WATCHDOG=1", "STOPPING=1", "WATCHDOG=1"):
            systemd_notify.notify(message)
        heard = [systemd.recv(100) for _ in range(3)]
        assert heard == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
