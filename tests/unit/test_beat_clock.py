"""Beat's wait for the right time: the program that its unit runs first."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.library import LIBRARY

CLOCK = LIBRARY / "clock-is-set"


@pytest.mark.parametrize(
    ("active", "synchronized", "says"),
    [(True, True, ""), (False, False, ""), (True, False, "no network time within 1 s")],
)
def test_start_waits_for_network_time_but_not_for_ever(
    tmp_path: Path, active: bool, synchronized: bool, says: str
) -> None:
    mark = tmp_path / "synchronized"
    if synchronized:
        mark.touch()
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\nexit {0 if active else 3}\n")
    (tmp_path / "systemctl").chmod(0o755)
    script = CLOCK.read_text().replace("/run/systemd/timesync/synchronized", str(mark))
    assert str(mark) in script
    done = subprocess.run(
        ["sh", "-c", script, "clock-is-set", "1"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert (says in done.stdout) if says else (done.stdout == "")
