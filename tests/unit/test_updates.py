"""Updates: what is told of the packages, and how needrestart starts the worker again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from celery_pi.facts import package_health
from celery_pi.facts.package_health import PackageHealth
from celery_pi.operations.remove_units import remove_units
from celery_pi.render import from_file
from tests.helpers.fake import Programs, run, sh

HOOK = from_file("/etc/needrestart/restart.d/celery-worker.service")


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ("install installed ok nginx", []),
        ("deinstall config-files ok old", []),
        ("unknown not-installed ok virtual", []),
        ("hold not-installed ok wanted-once", []),
        ("hold installed ok nginx", ["nginx: held back, from security updates too"]),
        ("install half-configured ok a", ["a: not fully installed"]),
        ("install unpacked ok a", ["a: not fully installed"]),
        ("install triggers-pending ok a", ["a: not fully installed"]),
        ("install installed reinstreq a", ["a: not fully installed"]),
        (
            "hold half-installed ok a\\ninstall installed ok b\\nhold installed ok c",
            ["a, c: held back, from security updates too", "a: not fully installed"],
        ),
    ],
)
def test_package_that_is_held_or_half_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, told: list[str]
) -> None:
    Programs(tmp_path, monkeypatch).add("dpkg-query", f"printf '{shown}\\n'")
    monkeypatch.setattr(
        package_health, "SHOW", package_health.SHOW.replace("/run/", f"{tmp_path}/")
    )
    fact = PackageHealth()
    assert [line.partition(" (")[0] for line in fact.process(sh(fact.command()))] == told


def test_restart_that_is_due_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Programs(tmp_path, monkeypatch).add("dpkg-query")
    monkeypatch.setattr(
        package_health, "SHOW", package_health.SHOW.replace("/run/", f"{tmp_path}/")
    )
    (tmp_path / "reboot-required").touch()
    fact = PackageHealth()
    (told,) = fact.process(sh(fact.command()))
    assert "restart of the machine" in told


@pytest.mark.parametrize(
    ("status", "calls"),
    [(0, ["check", "systemctl --no-block restart celery-worker.service"]), (1, ["check"])],
)
def test_worker_is_not_waited_for_and_left_alone_while_it_would_refuse_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, calls: list[str]
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("check", f"exit {status}")
    programs.add("systemctl")
    text = HOOK.content.replace("/usr/local/bin/celery-pi check", "check")
    assert text != HOOK.content
    done = subprocess.run(["sh", "-c", text], check=False)
    assert done.returncode == status
    assert [call.strip() for call in programs.calls()] == calls


def test_files_go_without_a_unit_and_no_units_failure_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("systemctl")
    left = tmp_path / "left"
    left.write_text("# Managed by celery-pi.\n")
    assert run(lambda: remove_units(name="Remove", units=[], files=[str(left)])).changed == [True]
    assert not left.exists()
    assert programs.calls() == ["systemctl daemon-reload"]
    assert run(lambda: remove_units(name="Remove", units=[], files=[str(left)])).changed == [False]
