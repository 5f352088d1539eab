"""Whether a process is the app's: by its directory or its command line."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from celery_pi.shell import script


@contextmanager
def process(directory: Path, *words: str) -> Iterator[int]:
    """One that works there and has these words in its command line."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ("sh", "-c", "read line", "sh", *words)
    with subprocess.Popen(command, cwd=directory, stdin=subprocess.PIPE) as running:
        yield running.pid
        running.kill()


@pytest.mark.parametrize(
    ("directory", "words", "expected"),
    [
        ("app", (), True),
        ("app/site", (), True),
        ("else", ("--chdir", "{app}"), True),
        ("else", ("{app}/venv/bin/celery", "worker"), True),
        ("app-of-another", (), False),
        ("else", ("--chdir", "{app}-of-another"), False),
        ("else", ("{app}-of-another/venv/bin/celery",), False),
        ("else", ("app={app}",), False),  # as in a command of ours that looks for such processes
        ("else", ("app={app} ; pgrep -f celery",), False),
        ("else", (), False),
    ],
)
def test_process_is_of_the_app(
    tmp_path: Path, directory: str, words: tuple[str, ...], expected: bool
) -> None:
    app = tmp_path / "app"
    ask = f'{script("is_of_app")}is_of_app "$pid"'
    with process(tmp_path / directory, *(word.format(app=app) for word in words)) as pid:
        asked = subprocess.run(
            ("sh", "-c", ask), env={"app": str(app), "pid": str(pid), "PATH": "/usr/bin:/bin"}
        )
    assert asked.returncode == (0 if expected else 1)
