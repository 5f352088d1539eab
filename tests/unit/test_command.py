"""The tools' package as a deploy installs it, and what it removes of earlier versions."""

from __future__ import annotations

from pathlib import Path

from celery_pi.render import ROOT
from tasks import command


def test_every_module_is_installed_as_roots() -> None:
    source = ROOT / "packages/celery-pi-tools/src"
    assert {file.path for file in command.FILES} == {
        f"{command.TOOLS}/{path.relative_to(source)}" for path in source.rglob("*.py")
    }
    assert {(file.mode, file.user, file.group) for file in command.FILES} == {
        ("0644", "root", "root")
    }


def test_nothing_that_is_installed_is_taken_for_a_former_file() -> None:
    kept = {Path(file.path) for file in command.FILES}
    others = (path for path in (ROOT / "files").rglob("*") if path.is_file())
    kept |= {Path("/") / path.relative_to(ROOT / "files") for path in others}
    for former in map(Path, command.FORMER):
        assert not any(former == path or former in path.parents for path in kept), former
