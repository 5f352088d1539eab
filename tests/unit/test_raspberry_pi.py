"""The Pi itself: its kernel command line above all, which must boot whatever happens to an edit."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyinfra.api import StringCommand

from celery_pi.facts import raspberry_pi
from celery_pi.facts.raspberry_pi import CMDLINE, COUNTED, Pi, RaspberryPi
from celery_pi.operations import runtime_watchdog as watchdog
from celery_pi.operations import zram_swap as zram
from celery_pi.operations.kernel_cmdline import WRITE, kernel_cmdline, refusal, with_words
from celery_pi.operations.runtime_watchdog import runtime_watchdog
from celery_pi.operations.zram_swap import on_disk, zram_swap
from celery_pi.shell import assign
from tasks import raspberry_pi as task
from tests.helpers.fake import Programs, Run, inode, run, sh

LINE = b"console=serial0,115200 console=tty1 root=PARTUUID=4d8097e2-02 rootfstype=ext4 rootwait"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
@pytest.mark.parametrize("blanks", [b"", b" "])
def test_missing_word_is_added_to_the_one_line_and_every_byte_is_kept(
    blanks: bytes, end: bytes
) -> None:
    assert with_words(LINE + blanks + end, [COUNTED]) == LINE + b" " + COUNTED.encode() + end
    assert refusal(LINE + blanks + end, [COUNTED]) == ""


@pytest.mark.parametrize("before", [b"%s " + LINE, LINE + b" %s", LINE + b"\t%s\n"])
def test_word_that_is_there_is_not_added_again(before: bytes) -> None:
    line = before % COUNTED.encode()
    assert with_words(line, [COUNTED]) == line


@pytest.mark.parametrize("near", [b"cgroup_enable=cpuset", b"xcgroup_enable=memory"])
def test_word_that_only_looks_like_it_does_not_count(near: bytes) -> None:
    assert with_words(LINE + b" " + near, [COUNTED]).endswith(b" " + COUNTED.encode())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "there is no line in it"),
        (b" \n", "there is no line in it"),
        (LINE + b"\n" + LINE, "it is not one line of text"),
        (LINE + b"\rquiet", "it is not one line of text"),
        (LINE + b"\0", "it is not one line of text"),
        (b"console=tty1 quiet\n", "it names no root="),
        (b"console=tty1 xroot=/dev/sda1\n", "it names no root="),
        (LINE + b" cgroup_disable=memory\n", "it says cgroup_disable=memory"),
    ],
)
def test_line_that_looks_like_none_is_refused(line: bytes, reason: str) -> None:
    assert refusal(line, [COUNTED]) == reason


def edit(path: Path, *words: str, dry: bool = False) -> Run:
    return run(lambda: kernel_cmdline(name="Boot", path=str(path), words=words), dry=dry)


def test_file_is_edited_once_and_what_it_was_at_first_is_kept(tmp_path: Path) -> None:
    path, kept = tmp_path / "cmdline.txt", tmp_path / "cmdline.txt.before-celery-pi"
    path.write_bytes(LINE + b"\n")
    assert edit(path, COUNTED, dry=True).planned == [True]
    assert path.read_bytes() == LINE + b"\n"
    assert edit(path, COUNTED).changed == [True]
    assert path.read_bytes() == LINE + b" cgroup_enable=memory\n"
    before = inode(path)
    again = edit(path, COUNTED)
    assert (again.planned, again.changed, inode(path)) == ([False], [False], before)
    assert edit(path, COUNTED, "quiet").changed == [True]
    assert path.read_bytes() == LINE + b" cgroup_enable=memory quiet\n"
    assert kept.read_bytes() == LINE + b"\n"
    assert set(tmp_path.iterdir()) == {path, kept}


@pytest.mark.parametrize("line", [None, b"", b"quiet\n", LINE + b"\n" + LINE])
def test_file_that_is_refused_is_not_touched(tmp_path: Path, line: bytes | None) -> None:
    path = tmp_path / "cmdline.txt"
    if line is not None:
        path.write_bytes(line)
    done = edit(path, COUNTED)
    assert (done.planned, done.error) == ([False], "")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if line is None else [line])


@pytest.mark.parametrize("sent", [b"", b"Y29u", b"\xff no base64"])
def test_line_that_arrives_in_part_leaves_the_old_one(tmp_path: Path, sent: bytes) -> None:
    path = tmp_path / "cmdline.txt"
    path.write_bytes(LINE)
    digest = hashlib.sha256(LINE + b" quiet").hexdigest()
    command = StringCommand(assign(path=str(path), digest=digest), WRITE).get_raw_value()
    done = subprocess.run(["sh", "-c", command], input=sent, capture_output=True, check=False)
    assert done.returncode != 0
    assert path.read_bytes() == LINE


class Machine:
    """A Raspberry Pi, as far as it is asked."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        show = raspberry_pi.SHOW
        for tree in ("/sys/", "/proc/", "/etc/", "/dev/watchdog0"):
            show = show.replace(tree, f"{root}{tree}")
        # No device can be made without root: this machine's own stands in.
        show = show.replace(f"[ -c {root}/dev/watchdog0 ]", f"[ -e {root}/dev/watchdog0 ]")
        monkeypatch.setattr(raspberry_pi, "SHOW", show)
        for name in ("SWAP", "WATCHDOG"):
            path = getattr(raspberry_pi, name)
            monkeypatch.setattr(raspberry_pi, name, f"{root}{path}")
        programs = Programs(root, monkeypatch)
        programs.add("systemctl", "echo 0")
        programs.add("modprobe", "exit 1")
        programs.add("uname", "echo 6.12.34+rpt-rpi-2712")
        self.has("sys/firmware/devicetree/base/model", "Raspberry Pi 5 Model B Rev 1.0\0")
        self.has("proc/swaps", "Filename Type Size Used Priority\n")
        self.has("proc/cmdline", "console=tty1 root=/dev/mmcblk0p2\n")
        self.has("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")

    def has(self, path: str, content: str = "") -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    @property
    def fact(self) -> Pi | None:
        fact = RaspberryPi()
        lines = sh(fact.command())
        return fact.process(lines) if lines else fact.default()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize("model", ["", "Radxa ROCK 5B\0", "Not a Raspberry Pi\0"])
def test_other_machine_is_no_pi(machine: Machine, model: str) -> None:
    machine.has("sys/firmware/devicetree/base/model", model)
    assert machine.fact is None


def test_machine_without_a_device_tree_is_no_pi(machine: Machine) -> None:
    (machine.root / "sys/firmware/devicetree/base/model").unlink()
    assert machine.fact is None


FILES = {
    "counted": ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory pids\n"),
    "requested": ("proc/cmdline", "cgroup_disable=memory cgroup_enable=memory root=/dev/x\n"),
    "zram": ("proc/swaps", "Filename\n/dev/zram0 partition 1 0 100\n"),
    "able": ("sys/class/zram-control/hot_add", ""),
    "rpi-swap": ("etc/rpi/swap.conf", ""),
    "our-swap": ("etc/systemd/zram-generator.conf.d/celery-pi.conf", ""),
    "watchdog": ("dev/watchdog0", ""),
    "our-watchdog": ("etc/systemd/system.conf.d/celery-pi.conf", ""),
}


@pytest.mark.parametrize("word", FILES)
def test_each_thing_is_seen_by_itself(machine: Machine, word: str) -> None:
    assert machine.fact is not None
    assert not machine.fact.true & set(FILES)
    machine.has(*FILES[word])
    assert machine.fact.true & set(FILES) == {word}


def test_kernel_and_watchdog_are_told(machine: Machine) -> None:
    pi = machine.fact
    assert pi is not None
    assert (pi.kernel, pi.watched) == ("6.12.34+rpt-rpi-2712", "0")


def pi(*true: str, kernel: str = "6.12.34+rpt-rpi-2712", watched: str = "0") -> Pi:
    return Pi(kernel, watched, frozenset(true))


@pytest.mark.parametrize(
    ("kernel", "timeout"),
    [
        *(("6.1.0-28-arm64", "15s"), ("6.7.12", "15s"), ("6.8.0", "1min"), ("6.12.34+rpt", "1min")),
        *(("7.1-rc1", "1min"), ("6.7-rc3-v8+", "15s"), ("7.0+", "1min"), ("next-20261101", "15s")),
    ],
)
def test_watchdog_is_set_to_what_the_kernel_takes(kernel: str, timeout: str) -> None:
    assert pi(kernel=kernel).timeout == timeout


@pytest.mark.parametrize(
    ("true", "others"),
    [(["rpi-swap"], True), (["zram"], True), (["zram", "our-swap"], False), ([], False)],
)
def test_zram_of_others_is_told_from_ours(true: list[str], others: bool) -> None:
    assert pi(*true).has_zram_of_others is others


def told(part: Callable[[Pi], None], known: Pi, line: bytes = LINE) -> tuple[str, bool]:
    """What one part of the component says of a Pi, and whether it means to do anything."""
    answers = {"base64 -w0": base64.b64encode(line).decode()}
    done = run(lambda: part(known), answers=answers, dry=True)
    return done.shown.replace("[@fake] Connected", "").strip(), any(done.planned)


@pytest.mark.parametrize(
    ("true", "line", "said"),
    [
        ([], LINE, f"must be restarted, for {COUNTED}"),
        ([], LINE + b" " + COUNTED.encode(), f"must be restarted, for {COUNTED}"),
        (["requested"], LINE + b" " + COUNTED.encode(), f"does not go by {COUNTED}: update it"),
        ([], b"quiet", f"{CMDLINE} is left as it is, because it names no root="),
        ([], b"", f"{CMDLINE} is left as it is, because there is no line in it"),
    ],
)
def test_restart_is_asked_for_until_memory_is_counted(
    true: list[str], line: bytes, said: str
) -> None:
    assert said in told(task.count_memory, pi(*true), line)[0]
    assert told(task.count_memory, pi("counted", *true), line) == ("", False)


@pytest.mark.parametrize(
    ("part", "known", "said"),
    [
        (task.swap_to_memory, pi("rpi-swap", "able"), "swaps to zram by other means"),
        (task.swap_to_memory, pi("zram", "able"), "swaps to zram by other means"),
        (task.swap_to_memory, pi(), "has a kernel without zram"),
        (task.watch, pi(), "has no /dev/watchdog0"),
        (task.watch, pi("watchdog", watched="1min"), "has its watchdog at 1min: it is left alone"),
    ],
)
def test_what_is_skipped_is_said_in_one_line(
    part: Callable[[Pi], None], known: Pi, said: str
) -> None:
    shown, planned = told(part, known)
    assert not planned
    assert said in shown
    assert "\n" not in shown


@pytest.fixture
def swaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Programs]]:
    """The kernel's list of swaps, and a systemd that starts and stops them."""
    listed = tmp_path / "swaps"
    for name in ("SHOW", "START"):
        text = getattr(zram, name).replace("/proc/swaps", str(listed))
        monkeypatch.setattr(zram, name, text)
    programs = Programs(tmp_path, monkeypatch)
    programs.add(
        "systemctl",
        f"""case "$*" in
          *is-enabled*) [ -e {tmp_path}/dphys ] ;;
          "start dev-zram0.swap") [ -e {tmp_path}/broken ] || echo "/dev/zram0 p" >>{listed} ;;
          disable*) rm {tmp_path}/dphys; sed -i /var.swap/d {listed} ;;
        esac""",
    )
    return iter([(listed, programs)])


def test_swap_file_is_off_once_zram_is_on_and_not_before(
    tmp_path: Path, swaps: Iterator[tuple[Path, Programs]]
) -> None:
    listed, programs = next(swaps)
    listed.write_text("Filename Type\n/var/swap file\n")
    (tmp_path / "dphys").touch()
    (tmp_path / "broken").touch()
    assert run(lambda: zram_swap(name="Swap")).error
    assert "/var/swap" in listed.read_text()
    (tmp_path / "broken").unlink()
    assert run(lambda: zram_swap(name="Swap")).changed == [True]
    assert listed.read_text() == "Filename Type\n/dev/zram0 p\n"
    programs.calls()
    assert run(lambda: zram_swap(name="Swap")).changed == [False]
    assert {call.split()[1] for call in programs.calls()} == {"-q"}


@pytest.mark.parametrize(
    ("listed", "kept"),
    [
        (["/dev/zram0"], []),
        (["/var/swap", "dphys"], []),
        (["/var/swap"], ["/var/swap"]),
        (["/dev/mmcblk0p3", "/dev/zram0", "dphys"], ["/dev/mmcblk0p3"]),
    ],
)
def test_swap_that_stays_on_a_disk_is_named(listed: list[str], kept: list[str]) -> None:
    assert on_disk(listed) == kept


def test_watchdog_is_taken_over_by_a_reload_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watchdog.SHOW in watchdog.TAKE
    now, new = tmp_path / "now", tmp_path / "new"
    now.write_text("0\n")
    new.write_text("0\n")
    script = f"case $1 in show) cat {now} ;; daemon-reload) cp {new} {now} ;; esac"
    Programs(tmp_path, monkeypatch).add("systemctl", script)
    assert run(lambda: runtime_watchdog(name="Watch", timeout="15s")).error
    new.write_text("15s\n")
    assert run(lambda: runtime_watchdog(name="Watch", timeout="15s")).changed == [True]
    assert run(lambda: runtime_watchdog(name="Watch", timeout="15s")).changed == [False]
