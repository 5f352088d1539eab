"""What a Pi prints is no command to the terminal of who deploys to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from celery_pi.deploys.lock import refusal
from celery_pi.render import ROOT
from celery_pi.terminal import printable, shown

TITLE, RETURN, BACKWARDS, CSI = "\x1b]0;x\x07", "a\rb", "\u202ea", "\x9b31m"
EVIL = {
    TITLE: r"\x1b]0;x\x07",
    RETURN: r"a\rb",
    BACKWARDS: r"\u202ea",
    CSI: r"\x9b31m",
    "\x1b[2J\x1b[8mx": r"\x1b[2J\x1b[8mx",
    "\udc9b": r"\udc9b",
}


@pytest.mark.parametrize(("text", "safe"), EVIL.items(), ids=map(ascii, EVIL))
def test_what_does_not_print_becomes_its_escape(text: str, safe: str) -> None:
    assert printable(text) == safe
    assert shown(text) == safe


def test_text_and_lines_and_pyinfras_own_colours_stay() -> None:
    text = "größer\n\tü → " + click.style("name", "red", bold=True) + click.style("x", "bright_red")
    assert shown(text) == text
    assert "\x1b" not in printable(text)


def test_escape_that_a_colour_cuts_in_two_is_none() -> None:
    assert "\x1b]" not in shown("\x1b\x1b[0m]0;x")


@pytest.mark.parametrize("told", ["{}", "[1]", "x", "[" * 10**5, json.dumps({"who": TITLE})])
def test_holder_of_the_lock_may_be_anything(told: str) -> None:
    assert "somebody deploys to it since an unknown time" in refusal(f"held {told}", "pi")


DEPLOY = """
import celery_pi
from pyinfra import host, logger
from pyinfra.facts.server import Command
from pyinfra.operations import files, server

text = {text!r}
host.get_fact(Command, command="printf %s " + {quoted!r})
server.shell(name="Say", commands=["printf '%s\\\\n' {escaped}; printf '%s\\\\n' {escaped} >&2"])
files.put(name="Put", src={new!r}, dest={old!r})
host.log("Log " + text, logger.warning)
server.shell(name="Fail", commands=["printf '%s\\\\n' {escaped} >&2; exit 1"])
"""


def test_nothing_of_it_reaches_the_terminal_by_pyinfra(tmp_path: Path) -> None:
    """Lines of commands and facts, the old content in a diff, logs, and what a failure said."""
    text = "".join((TITLE, RETURN, BACKWARDS, CSI))
    quoted = "'" + text + "'"
    (tmp_path / "old").write_text(f"{text}\n", newline="")
    (tmp_path / "new").write_text("new\n")
    deploy = DEPLOY.replace("{text!r}", repr(text)).replace("{quoted!r}", repr(quoted))
    deploy = deploy.replace("{escaped}", repr(quoted)[1:-1])
    deploy = deploy.replace("{new!r}", repr(str(tmp_path / "new")))
    (tmp_path / "deploy.py").write_text(deploy.replace("{old!r}", repr(str(tmp_path / "old"))))
    pyinfra = Path(sys.executable).with_name("pyinfra")
    done = subprocess.run(
        [pyinfra, "-y", "-vvv", "--diff", "@local", "deploy.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    said = done.stdout.decode() + done.stderr.decode()
    for evil in ("\x1b]", "\x07", "\r", "\u202e", "\x9b"):
        assert evil not in said, said
    assert said.count(printable(text)) >= 5, said
    for line in ("Log ", "Success", "Error"):
        assert line in said
