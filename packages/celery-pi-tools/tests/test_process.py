"""Processes that make themselves large: what looks at them stays small."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from celery_pi_tools import smoke_test
from celery_pi_tools.checks import processes, secrets, worker
from fake_system import fake_system
from tests.helpers.fake import Programs, as_root

pytestmark = pytest.mark.fast

MIB = 2**20
HUGE = 64 * MIB


@contextmanager
def memory(limit: int) -> Iterator[None]:
    """Fails if the body uses more at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.fixture
def huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], None]:
    """Has process 7 show a file that begins so and does not end soon; no other process is there."""
    for module in (smoke_test, processes, worker, secrets):
        monkeypatch.setattr(module, "PROC", tmp_path / "proc", raising=False)
    (tmp_path / "proc/7").mkdir(parents=True)

    def make(name: str, start: bytes) -> None:
        file = tmp_path / "proc/7" / name
        file.write_bytes(start)
        os.truncate(file, HUGE)

    return make


def test_command_line_of_any_size_takes_little_memory(
    huge: Callable[[str, bytes], None],
) -> None:
    huge("cmdline", b"celery\0-A\0observations_nids\0worker\0")
    system = fake_system()
    system.units, system.pids = {}, lambda _: []
    with memory(2 * MIB):
        found = worker.second(system)
    assert found is not None
    assert "celery worker (7)" in found.evidence


def test_password_is_looked_for_in_as_much_as_a_process_may_be_started_with(
    huge: Callable[[str, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "STORE", tmp_path / "store")
    (tmp_path / "store").mkdir()
    (tmp_path / "store/redis_admin_password").write_text("s3cret")
    huge("cmdline", b"program\0" + b"-" * 5 * MIB + b"s3cret\0")
    (tmp_path / "proc/7/comm").write_text("program\n")
    with memory(16 * MIB):
        result = secrets.command_lines(fake_system())
    assert result is not None
    assert result.evidence.endswith("in ps: program 7")


@as_root
def test_environment_that_no_program_can_have_is_refused(
    huge: Callable[[str, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Programs(tmp_path, monkeypatch).add("systemctl", "echo /system.slice/site.service")
    monkeypatch.setattr(smoke_test, "CGROUPS", tmp_path / "cgroups", raising=False)
    group = tmp_path / "cgroups/system.slice/site.service"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("7\n")
    os.chown(tmp_path / "proc/7", 33, 33)
    huge("environ", b"A=1\0")
    with memory(16 * MIB):
        assert smoke_test.send_as_site({}, "site.service") == (
            False,
            f"FAILED: the environment of process 7 is larger than {6 * MIB} bytes",
        )
    (tmp_path / "proc/7/environ").write_bytes(b"A=1\0")
    found = smoke_test.site_process("site.service")
    assert found is not None
    assert (found[0], found[2]) == (7, b"A=1\0")
