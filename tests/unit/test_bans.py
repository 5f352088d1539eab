"""Bans: who is never banned, and how fail2ban is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_pi.facts import admin_addresses
from celery_pi.facts.admin_addresses import KEPT, with_this
from celery_pi.operations import package_service
from celery_pi.operations.package_service import left_to_its_package
from tests.helpers.fake import Programs, run, sh


def test_deploying_machine_is_added_once_and_the_others_are_kept() -> None:
    assert with_this([], "192.0.2.1") == ["192.0.2.1"]
    assert with_this(["192.0.2.1"], "fe80::1%eth0") == ["192.0.2.1", "fe80::1"]
    assert with_this(["192.0.2.1", "fe80::1"], "192.0.2.1") == ["192.0.2.1", "fe80::1"]
    for none in ("", "UNKNOWN"):
        assert with_this(["192.0.2.1"], none) == ["192.0.2.1"]


def test_machines_that_deployed_long_ago_are_forgotten() -> None:
    known: list[str] = []
    for number in range(KEPT + 3):
        known = with_this(known, f"192.0.2.{number}")
    assert known == [f"192.0.2.{number}" for number in range(3, KEPT + 3)]


def test_machine_is_known_by_its_ssh_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fact, listed = admin_addresses.AdminAddresses(), tmp_path / "deployers"
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.5 50000 192.0.2.1 22")
    assert fact.process(sh(fact.command(str(listed)))) == ["192.0.2.5"]
    listed.write_text("192.0.2.4\n")
    assert fact.process(sh(fact.command(str(listed)))) == ["192.0.2.4", "192.0.2.5"]
    monkeypatch.delenv("SSH_CONNECTION")
    assert fact.process(sh(fact.command(str(listed)))) == ["192.0.2.4"]


@pytest.mark.parametrize(
    ("check", "done"),
    [("true", ["systemctl restart x"]), ("false", ["systemctl disable --quiet --now x"])],
)
def test_service_is_left_as_its_package_has_it_or_stopped_where_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str, done: list[str]
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("systemctl")
    monkeypatch.setattr(package_service, "RECORDS", str(tmp_path))

    def leave() -> None:
        left_to_its_package(name="Leave it", unit="x", check=check)

    assert run(leave).changed == [False]
    assert programs.calls() == []
    (tmp_path / "x").write_text("")
    assert run(leave).changed == [True]
    assert programs.calls() == done
    assert run(leave).changed == [False]
