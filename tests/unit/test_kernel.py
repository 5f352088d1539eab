"""Settings of the kernel: what is good, what is set, and what is left to a container's host."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_pi.operations import kernel
from celery_pi.operations.kernel import KernelSettings, kernel_settings, unfit
from tests.helpers.fake import Programs, run

Files = dict[str, Path]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A kernel of one's own, in which nothing is as it should be."""
    files = {name: tmp_path / name for name in ("overcommit", "backlog", "pages", "ptrace")}
    good = dict(zip(map(str, files.values()), kernel.GOOD.values(), strict=True))
    monkeypatch.setattr(kernel, "GOOD", good)
    hosts = tuple(str(files[name]) for name in ("overcommit", "pages", "ptrace"))
    monkeypatch.setattr(kernel, "OF_THE_HOST", hosts)
    monkeypatch.setattr(kernel, "SYSCTL", "set-kernel")
    files["overcommit"].write_text("0\n")
    files["backlog"].write_text("128\n")
    files["pages"].write_text("[always] madvise never\n")
    files["ptrace"].write_text("0\n")
    programs = Programs(tmp_path, monkeypatch)
    programs.add(
        "set-kernel",
        f"echo 4096 >{files['backlog']}; [ $1 = host ] || "
        f"echo 1 | tee {files['overcommit']} >{files['ptrace']}",
    )
    programs.add("systemd-tmpfiles", f"echo 'always [madvise] never' >{files['pages']}")
    return files


def apply(sysctl: str = "all", *, in_container: bool = False) -> tuple[bool, bool, str]:
    """What a run planned, did and failed with."""
    done = run(lambda: kernel_settings(sysctl=sysctl, tmpfiles="pages", in_container=in_container))
    return done.planned[0], bool(done.changed and done.changed[0]), done.error


def test_each_setting_is_put_right_and_then_left_alone(files: Files) -> None:
    assert apply() == (True, True, "")
    assert files["overcommit"].read_text() == "1\n"
    assert files["pages"].read_text() == "always [madvise] never\n"
    assert apply() == (False, False, "")


def test_what_is_the_hosts_is_left_to_it(files: Files) -> None:
    assert apply("host", in_container=True) == (True, True, "")
    assert files["overcommit"].read_text() == "0\n"
    assert files["pages"].read_text() == "[always] madvise never\n"
    assert apply("host", in_container=True) == (False, False, "")


def test_kernel_that_does_not_take_a_setting_fails_the_run(files: Files) -> None:
    planned, changed, error = apply("host")
    assert (planned, changed) == (True, False)
    assert error
    assert files["overcommit"].read_text() == "0\n"


@pytest.mark.parametrize("name", ["overcommit", "backlog", "pages", "ptrace"])
def test_one_wrong_setting_is_enough(files: Files, name: str) -> None:
    before = files[name].read_text()
    apply()
    files[name].write_text(before)
    assert apply()[0]


@pytest.mark.parametrize(
    ("pages", "good"),
    [
        ("always [madvise] never", True),
        ("always madvise [never]", True),
        ("[always] madvise never", False),
        ("", True),
    ],
)
def test_huge_pages_are_for_those_that_ask(pages: str, good: bool) -> None:
    shown = KernelSettings().process([f"{kernel.HUGE_PAGES} {pages}".strip()])
    assert (unfit(shown) == {}) is good
