"""The helpers of Redis, run for real against stand-ins for its programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_pi.render import from_file, from_template
from celery_pi.secrets import DIRECTORY
from celery_pi.settings import Settings
from celery_pi_tools.redis_client import SOCKET
from tests.helpers.fake import Programs, as_root

LIBRARY = "/usr/local/lib/celery-pi"

# redis-cli of a server that knows one password, and tells which one it was asked with. It may
# take its whole input, as the real one does without a command.
CLI = r"""
printf '%s\n' "$REDISCLI_AUTH" >>"$state/tried"
[ ! -e "$state/down" ] || { echo "Could not connect to Redis at x" >&2; exit 1; }
if [ "$REDISCLI_AUTH" != "$(cat "$state/known")" ]; then
  [ -z "$REDISCLI_AUTH" ] || echo "AUTH failed: WRONGPASS invalid username-password pair" >&2
  if [ -e "$state/open" ]; then echo PONG; else printf 'NOAUTH Authentication required.\n\n'; fi
elif [ "$5" = ping ]; then echo PONG
elif [ $# -gt 4 ]; then shift 4; for word; do echo "<$word>"; done
else cat
fi
"""


class Helper:
    """redis-cli of ours, with a directory of secrets of its own."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = directory
        self.secrets = directory / "secrets"
        self.secrets.mkdir()
        self.script = directory / "helper"
        text = from_file(f"{LIBRARY}/redis-cli").content
        assert DIRECTORY in text
        self.script.write_text(text.replace(DIRECTORY, str(self.secrets)))
        self.programs = Programs(directory, monkeypatch)
        self.programs.add("redis-cli", f"state={directory}{CLI}")

    def store(self, password: str, old: str | None = None, known: str | None = None) -> None:
        """The files, and what the server knows: the password, if nothing else."""
        (self.secrets / "redis_admin_password").write_text(password)
        if old is not None:
            (self.secrets / "redis_admin_password.old").write_text(old)
        (self.state / "known").write_text(password if known is None else known)

    def run(self, *command: str, sent: str = "") -> tuple[int, str]:
        done = subprocess.run(
            ["sh", str(self.script), "admin", *command],
            input=sent,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def tried(self) -> list[str]:
        path = self.state / "tried"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helper:
    return Helper(tmp_path, monkeypatch)


def test_command_goes_by_the_socket_as_the_user_and_with_his_password(helper: Helper) -> None:
    helper.store("  s3 'cret\" ")
    assert helper.run("set", "a b", "$c") == (0, "<set>\n<a b>\n<$c>\n")
    assert helper.programs.calls() == [f"redis-cli -s {SOCKET} --user admin set a b $c"]
    assert helper.tried() == ["  s3 'cret\" "]


def test_password_stands_in_no_command_line(helper: Helper) -> None:
    helper.store("s3cret-new", "s3cret-old", known="s3cret-old")
    helper.run("ping")
    assert not [call for call in helper.programs.calls() if "s3cret" in call]


ENDLESS = "exec python3 -c 'print(len(bytearray(1 << 30)))'"


def test_answer_without_end_takes_no_memory_without_end(helper: Helper) -> None:
    helper.store("s3cret")
    helper.programs.add("redis-cli", ENDLESS)
    assert subprocess.run(["sh", "-c", ENDLESS], check=False).returncode == 0
    assert helper.run("info") == (1, "")


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize(
    ("known", "tried"),
    [
        ("new", ["new", "new"]),
        ("one", ["new", "one", "one"]),
        ("t w o", ["new", "one", "t w o", "t w o"]),
        ("three ", ["new", "one", "t w o", "three "]),
    ],
)
def test_while_passwords_change_the_server_is_asked_with_the_one_it_knows(
    helper: Helper, known: str, tried: list[str], ending: str
) -> None:
    helper.store("new", f"one\nt w o\nthree {ending}", known)
    assert helper.run("get", "x") == (0, "<get>\n<x>\n")
    assert helper.tried() == tried


@pytest.mark.parametrize("known", ["new", "one", "two"])
def test_commands_on_standard_input_reach_the_server_whole(helper: Helper, known: str) -> None:
    helper.store("new", "one\ntwo\n", known)
    assert helper.run(sent="acl setuser a\nacl setuser b\n") == (
        0,
        "acl setuser a\nacl setuser b\n",
    )


def test_server_that_lets_in_everybody_is_asked_as_the_user_all_the_same(helper: Helper) -> None:
    helper.store("new", "one\ntwo\n", known="one")
    (helper.state / "open").touch()  # its default user has no password
    assert helper.run("get", "x") == (0, "<get>\n<x>\n")


def test_empty_password_gives_way_to_an_old_one(helper: Helper) -> None:
    helper.store("", "one\ntwo\n", known="two")
    assert helper.run("get", "x") == (0, "<get>\n<x>\n")


def test_server_that_knows_no_password_of_ours_says_so(helper: Helper) -> None:
    helper.store("new", "one\ntwo\n", known="other")
    assert "NOAUTH" in helper.run("get", "x")[1]


def test_server_that_is_down_is_asked_no_more_than_needed(helper: Helper) -> None:
    helper.store("new", "one\ntwo\n")
    (helper.state / "down").touch()
    assert helper.run("get", "x") == (1, "")
    assert helper.tried() == ["new", "new"]


def test_user_without_a_password_is_a_failure_and_the_server_is_not_asked(helper: Helper) -> None:
    assert helper.run("get", "x")[0] != 0
    assert helper.tried() == []


# -- check-redis-config

SERVER = r"""
echo "$@" >>"$state/started"
trap 'echo stopped >>"$state/started"; exit 0' TERM
[ ! -e "$state/refusing" ] || { echo "bad directive"; exit 1; }
echo "Ready to accept connections"
while :; do sleep 0.05; done
"""


class Checker:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = directory
        Programs(directory, monkeypatch).add("redis-server", f"state={directory}{SERVER}")
        monkeypatch.setenv("TMPDIR", str(directory))
        self.before = set(os.listdir(directory))  # noqa: PTH208

    def check(self, candidate: str) -> tuple[int, str]:
        script = from_file(f"{LIBRARY}/check-redis-config").content
        done = subprocess.run(
            ["sh", "-c", script, "check", candidate], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    def started(self) -> list[str]:
        return (self.state / "started").read_text().splitlines()


@pytest.fixture
def checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checker:
    return Checker(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("candidate", "arguments"),
    [
        ("/etc/x.new/celery-pi.conf", "/etc/x.new/celery-pi.conf --port 0 "),
        ("/etc/x.new/celery-pi.acl", "--aclfile /etc/x.new/celery-pi.acl --port 0 "),
        ("/etc/x.acl/celery-pi.conf", "/etc/x.acl/celery-pi.conf --port 0 "),
    ],
)
def test_server_starts_from_the_candidate_as_what_it_is_and_touches_nothing(
    checker: Checker, candidate: str, arguments: str
) -> None:
    assert checker.check(candidate) == (0, "")
    started, stopped = checker.started()
    assert started.startswith(arguments)
    assert f"--dir {checker.state}/" in started
    assert "--appendonly no" in started
    assert stopped == "stopped"
    assert set(os.listdir(checker.state)) - checker.before == {"calls", "started"}  # noqa: PTH208


@pytest.mark.parametrize("candidate", ["/etc/x/celery-pi.conf", "/etc/x/celery-pi.acl"])
def test_candidate_that_the_server_refuses_is_refused_with_its_words(
    checker: Checker, candidate: str
) -> None:
    (checker.state / "refusing").touch()
    assert checker.check(candidate) == (
        1,
        f"redis-server refuses {candidate}:\nbad directive\n",
    )


# -- redis-before-start

USER = "nobody"
NAME = "appendonly.aof"
MANIFEST = f"file {NAME}.1.base.rdb seq 1 type b\nfile {NAME}.1.incr.aof seq 1 type i\n"
HEALS = '[ "$1" = --fix ] && { truncate -s 3 $(dirname $2)/*.incr.aof; exit 0; }; exit 1'


class BeforeStart:
    """The script as that user, with data of its own, which belong to him."""

    def __init__(self, root: Path) -> None:
        root.chmod(0o755)
        self.bin, self.data, self.roots = root / "bin", root / "data", root / "roots"
        for directory in (self.bin, self.data, self.roots):
            directory.mkdir(mode=0o755)
        self.aof = self.data / "appendonlydir"
        self.script = root / "before"
        text = from_file(f"{LIBRARY}/redis-before-start").content
        assert text.count("data=/var/lib/redis\n") == text.count("patience=120") == 1
        text = text.replace("data=/var/lib/redis\n", f"data={self.data}\n")
        self.script.write_text(text.replace("patience=120", "patience=1"))
        self.checker("exit 0")

    def checker(self, script: str) -> None:
        """What redis-check-aof does."""
        (self.bin / "redis-check-aof").write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / "redis-check-aof").chmod(0o755)

    def append_only(self, manifest: str = MANIFEST) -> None:
        self.aof.mkdir()
        (self.aof / f"{NAME}.manifest").write_text(manifest)
        (self.aof / f"{NAME}.1.incr.aof").write_text("123456")

    def run(self) -> tuple[int, str]:
        subprocess.run(["chown", "-R", "-h", USER, self.data], check=True)
        done = subprocess.run(
            ["sh", self.script],
            env={"PATH": f"{self.bin}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            user=USER,
        )
        assert list(self.roots.iterdir()) == []
        return done.returncode, done.stdout


@pytest.fixture
def before() -> Iterator[BeforeStart]:
    root = Path(tempfile.mkdtemp())  # below /tmp itself, because others than root must reach it
    yield BeforeStart(root)
    shutil.rmtree(root)


@as_root
def test_damaged_end_is_cut_off_though_links_lead_into_roots_directory(before: BeforeStart) -> None:
    before.append_only()
    before.checker(HEALS)
    for name in ("damaged.aof", "damaged.log"):
        (before.data / name).symlink_to(before.roots / name)
    status, said = before.run()
    assert (status, "cut 3 bytes of 6 off the damaged end" in said) == (0, True)
    assert (before.data / "damaged.aof").read_text() == "123456"
    assert not (before.data / "damaged.log").is_symlink()


@as_root
@pytest.mark.parametrize("kind", ["fifo", "zero", "directory"])
@pytest.mark.parametrize("name", ["dump.rdb", f"appendonlydir/{NAME}.manifest"])
def test_what_is_no_file_of_redis_holds_up_no_start(
    before: BeforeStart, name: str, kind: str
) -> None:
    path = before.data / name
    path.parent.mkdir(exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    status, said = before.run()
    if name == "dump.rdb":
        assert (status, said) == (0, "")
    else:
        assert (status, "is no regular file that Redis can read" in said) == (1, True)


@as_root
@pytest.mark.parametrize("damage", ["missing", "endless", "unreadable", "a link to root's"])
def test_redis_does_not_begin_anew_beside_data_that_it_would_not_know(
    before: BeforeStart, damage: str
) -> None:
    """It would write its own manifest over theirs, and all that was accepted would be lost."""
    before.append_only()
    manifest = before.aof / f"{NAME}.manifest"
    if damage == "endless":
        os.truncate(manifest, 8 * 2**30)
    elif damage == "unreadable":
        manifest.chmod(0)
    else:
        manifest.unlink()
        if damage != "missing":
            manifest.symlink_to(before.roots / NAME)
    status, said = before.run()
    assert (status, "Redis is not started, so that nothing is lost" in said) == (1, True)
    assert (before.aof / f"{NAME}.1.incr.aof").read_text() == "123456"


@as_root
def test_look_that_does_not_end_holds_up_no_start(before: BeforeStart) -> None:
    before.append_only()
    before.checker("sleep 600")
    status, said = before.run()
    assert (status, "took more than 1 s" in said) == (0, True)
    assert (before.aof / f"{NAME}.1.incr.aof").read_text() == "123456"


@as_root
def test_names_in_the_manifest_move_no_cursor(before: BeforeStart) -> None:
    name = "\x1b[2Jx"
    before.append_only(f"file {name} seq 1 type i\n")
    (before.aof / name).write_text("123")
    before.checker('[ "$1" = --fix ]')
    status, said = before.run()
    assert (status, "\x1b" in said, "?[2Jx" in said) == (0, False, True)


@as_root
def test_snapshot_that_redis_cannot_read_keeps_it_from_starting_empty(before: BeforeStart) -> None:
    (before.data / "dump.rdb").write_text("REDIS0011")
    (before.data / "dump.rdb").chmod(0)
    status, said = before.run()
    assert (status, "Redis cannot read" in said, before.aof.exists()) == (1, True, False)


def test_it_works_as_redis_and_not_as_root() -> None:
    unit = from_template(
        "/etc/systemd/system/redis-server.service.d/celery-pi.conf", settings=Settings()
    )
    (line,) = re.findall(r"ExecStartPre=(.*(?:\\\n.*)*redis-before-start)", unit.content)
    words = line.replace("\\\n", " ").split()
    assert words[0] == "+/usr/bin/setpriv"
    assert {"--reuid=redis", "--regid=redis", "--no-new-privs", "--reset-env"} <= set(words)
    assert {"--inh-caps=-all", "--bounding-set=-all", "/usr/bin/timeout"} <= set(words)
    assert "EnvironmentFile" not in unit.content
