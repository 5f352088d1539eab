"""The command `celery-pi`: what is imported, which words it knows, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from celery_pi.render import ROOT
from celery_pi_tools import cli, config, smoke_test

pytestmark = pytest.mark.fast

SOURCE = ROOT / "packages/celery-pi-tools/src"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The command with the package in a place of the test's own."""
    program = tmp_path / "bin/celery-pi"
    program.parent.mkdir()
    text = (ROOT / "files/usr/local/bin/celery-pi").read_text()
    program.write_text(text.replace("/usr/local/lib/celery-pi/tools", str(SOURCE)))
    program.chmod(0o755)
    return program


def run(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """With a module for each one that it imports, wherever Python looks for those of a user."""
    place = program.parent
    for name in ("argparse", "json", "celery_pi_tools", "sitecustomize"):
        (place / f"{name}.py").write_text("raise SystemExit('a module of others')\n")
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [program, *words], cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def test_root_imports_nothing_of_others(installed: Path) -> None:
    done = run(installed, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "smoke-test" in done.stdout


@pytest.mark.parametrize("words", [("status", "--fix"), ("restore",), ("nothing",), ()])
def test_words_that_it_does_not_know_are_refused(installed: Path, words: tuple[str, ...]) -> None:
    done = run(installed, *words)
    assert (done.returncode, "usage: celery-pi" in done.stderr) == (2, True)


@pytest.mark.parametrize(("old", "new"), [("prove", "smoke-test"), ("set-aside", "dead-letters")])
def test_old_name_of_a_command_is_accepted_with_a_sentence(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.with_new_name(cli.build_parser().parse_args([old])).command == new
    assert capsys.readouterr() == ("", f"celery-pi: {old} is called {new} now\n")
    assert cli.with_new_name(cli.build_parser().parse_args([new])).command == new
    assert capsys.readouterr() == ("", "")


def test_old_name_of_a_command_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"made": "7"}))
    monkeypatch.setattr(config, "SETTINGS", tmp_path / "settings.json")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(smoke_test, "main", lambda settings: int(settings["made"]))
    assert cli.main(["prove"]) == 7


def test_who_is_not_root_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["status"]) == 2
    assert capsys.readouterr().err == "celery-pi: must run as root: sudo celery-pi\n"


@pytest.mark.parametrize("command", ["status", "audit", "doctor", "smoke-test"])
def test_manifest_that_cannot_be_read_is_told_in_a_sentence(tmp_path: Path, command: str) -> None:
    file = tmp_path / "manifest.json"
    file.write_text('{"components": {"Redis"')  # as a card that is worn out leaves it
    (tmp_path / "settings.json").write_text("{}")
    code = (
        "import os, pathlib, sys; from celery_pi_tools import cli, config, manifest\n"
        "os.geteuid = lambda: 0\n"
        f"config.SETTINGS = pathlib.Path({str(tmp_path / 'settings.json')!r})\n"
        f"manifest.FILE = pathlib.Path({str(file)!r})\n"
        f"sys.exit(cli.main([{command!r}]))"
    )
    environment = {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"celery-pi: {file} cannot be read: ")
    assert done.stderr.endswith("; deploy again\n")
    assert done.stderr.count("\n") == 1


def test_command_that_lists_deploys_imports_no_checks() -> None:
    code = (
        "import os, sys; from celery_pi_tools import cli; os.geteuid = lambda: 0\n"
        "cli.main(['deploys'])\n"
        "print(*(name for name in sys.modules if name.startswith('celery_pi_tools')))"
    )
    environment = {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.splitlines()[-1].split()) == {
        "celery_pi_tools",
        *(f"celery_pi_tools.{name}" for name in ("cli", "config", "deploys", "privileges", "text")),
    }
