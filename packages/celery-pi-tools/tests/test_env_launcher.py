"""`with-env-file`: a service reads `.env` by itself, and has what systemd would give it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from celery_pi.sources import ROOT
from celery_pi_tools import env_launcher
from celery_pi_tools.env_launcher import variables

pytestmark = pytest.mark.fast

PROGRAM = ("/usr/bin/python3", "-IS", env_launcher.__file__)


def launched(env: Path, *command: str) -> subprocess.CompletedProcess[str]:
    words = command or ("/usr/bin/env",)
    return subprocess.run(
        [*PROGRAM, env, *words], capture_output=True, text=True, timeout=10, check=False
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1", {"A": "1"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("  A = 1  \n", {"A": "1"}),
        ("# A=1\n; B=2\nC=3\n", {"C": "3"}),
        ("A=1 # kept", {"A": "1 # kept"}),
        ('A=\'b  c\' "d\\"e"f\n', {"A": 'b  cd"ef'}),
        ('A="two\nlines"\nB=1', {"A": "two\nlines", "B": "1"}),
        ("A=a\\\nb\nB=1", {"A": "ab", "B": "1"}),
        ('A="a\\$b\\c"', {"A": "a$b\\c"}),
        ("A=it's", {"A": "it's"}),
        ("A=\nB=1", {"A": "", "B": "1"}),
        ("export A=1\nno assignment\n1A=1\nB=1", {"B": "1"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("", {}),
    ],
)
def test_text_means_what_it_means_to_systemd(text: str, expected: dict[str, str]) -> None:
    assert variables(text) == expected


def test_program_is_given_them_beside_its_own_environment(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("FROM_FILE='a b'\nHOME=/elsewhere\n")
    told = launched(env).stdout.splitlines()
    assert {"FROM_FILE=a b", "HOME=/elsewhere", f"PATH={os.environ['PATH']}"} <= set(told)


def test_status_is_the_programs(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.touch()
    assert launched(env, "/bin/sh", "-c", "exit 7").returncode == 7


def fifo(path: Path) -> None:
    os.mkfifo(path)


def nothing(_: Path) -> None:
    pass


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 * 2**30)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (fifo, "is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
        (lambda path: path.mkdir(), "is no regular file"),
        (sparse, "is larger than 1048576 bytes"),
        (nothing, "cannot be read: No such file or directory"),
        (lambda path: path.write_bytes(b"A=1\nB=\xe9\n"), "is not UTF-8 in line 2"),
        (lambda path: path.write_bytes(b"A=\0\n"), "has a zero byte in line 1"),
    ],
)
def test_what_is_no_such_file_is_refused_in_a_sentence(
    tmp_path: Path, make: object, reason: str
) -> None:
    env = tmp_path / ".env"
    make(env)  # type: ignore[operator]
    done = launched(env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"celery-pi: {env} {reason}\n"


def test_services_start_it_by_the_path_that_they_had_before(tmp_path: Path) -> None:
    """Owners' drop-ins may name it."""
    program, source = tmp_path / "with-env-file", ROOT / "packages/celery-pi-tools/src"
    text = (ROOT / "files/usr/local/lib/celery-pi/with-env-file").read_text()
    program.write_text(text.replace("/usr/local/lib/celery-pi/tools", str(source)))
    program.chmod(0o755)
    (tmp_path / "env").write_text("A=from the file\n")
    command = [str(program), str(tmp_path / "env"), "/usr/bin/env"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "A=from the file" in done.stdout.splitlines()
