"""Bans: what is told of failed logins to Redis, who is never banned, and how it is left."""

from __future__ import annotations

import json
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from celery_pi import deployers
from celery_pi.deployers import KEPT, with_this
from celery_pi.operations import package_service
from celery_pi.operations.package_service import left_to_its_package
from tests.fake import Programs, run, sh
from tests.library import LIBRARY

pytestmark = pytest.mark.fast

ADDRESS = "192.0.2.7"


@pytest.fixture
def logins(tmp_path: Path) -> ModuleType:
    """The script, with its notes and the secrets' directory of the test's own."""
    loader = SourceFileLoader("redis_logins", str(LIBRARY / "redis-logins"))
    spec = spec_from_loader("redis_logins", loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    vars(module).update(SECRETS=tmp_path, TOLD=tmp_path / "told.json")
    (tmp_path / "redis_celery_password").write_text("secret")
    return module


class Server:
    """A Redis that gives its ACL LOG, grown as Redis grows it, with or without numbers."""

    def __init__(self, numbers: bool) -> None:
        self.numbers = numbers
        self.entries: list[dict[str, Any]] = []
        self.made = 0

    def fail(
        self, name: str, address: str = ADDRESS, minute: int = 0, reason: str = "auth"
    ) -> None:
        """One more failed login, in the entry of the same name and minute, if there is one."""
        same = [e for e in self.entries if (e["username"], e["minute"]) == (name, minute)]
        entry: dict[str, Any] = (
            same[0] if same else {"count": 0, "username": name, "minute": minute}
        )
        if same:
            self.entries.remove(entry)
        elif self.numbers:
            entry["entry-id"] = self.made
            self.made += 1
        told = {"reason": reason, "context": "toplevel", "object": "AUTH", "age-seconds": "1.5"}
        client = f"id=7 addr={address}:40000 laddr=127.0.0.1:6379 fd=8 name= user=default"
        entry |= told | {"count": entry["count"] + 1, "client-info": client}
        self.entries.insert(0, entry)

    def ask(self, *words: str) -> list[list[bytes]]:
        assert words[:2] == ("ACL", "LOG")
        return [
            [str(word).encode() for pair in entry.items() if pair[0] != "minute" for word in pair]
            for entry in self.entries
        ]


@pytest.fixture(params=[True, False], ids=["7.2 and later", "7.0"])
def server(request: pytest.FixtureRequest) -> Server:
    return Server(request.param)


class Connection(socketserver.StreamRequestHandler):
    """A client of the socket's: AUTH with the right password, INFO, ACL LOG."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = [self.word() for _ in range(int(line[1:]))]
            if words[0] == "AUTH":
                good = words[1:] == ["monitor", "right"]
                self.wfile.write(b"+OK\r\n" if good else b"-WRONGPASS no\r\n")
            elif words[0] == "INFO":
                self.wfile.write(bulk(b"# Server\r\nrun_id:abc\r\n"))
            else:
                entries: list[list[bytes]] = vars(self.server)["log"].ask(*words)
                told = (b"*%d\r\n" % len(e) + b"".join(map(bulk, e)) for e in entries)
                self.wfile.write(b"*%d\r\n" % len(entries) + b"".join(told))

    def word(self) -> str:
        length = int(self.rfile.readline()[1:])
        return self.rfile.read(length + 2)[:-2].decode()


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


RUN = """
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
loader = SourceFileLoader("redis_logins", sys.argv[1])
module = module_from_spec(spec_from_loader("redis_logins", loader))
loader.exec_module(module)
here = Path(sys.argv[2])
vars(module).update(SOCKET=str(here / "socket"), SECRETS=here, TOLD=here / "told.json")
sys.exit(module.main())
"""


@pytest.fixture
def listening(tmp_path: Path, server: Server) -> Iterator[Server]:
    """The server at a socket; the user's new password is not yet the one that it knows."""
    (tmp_path / "redis_celery_password").write_text("secret")
    (tmp_path / "redis_monitor_password").write_text("new")
    (tmp_path / "redis_monitor_password.old").write_text("older\nright\n")
    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "socket"), Connection) as there:
        vars(there)["log"] = server
        threading.Thread(target=there.serve_forever, daemon=True).start()
        yield server
        there.shutdown()


@contextmanager
def watch(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-B", "-c", RUN, LIBRARY / "redis-logins", tmp_path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.terminate()


def told(text: str) -> list[tuple[str, str]]:
    """Name and address of each line."""
    lines = text.splitlines()
    pattern = r"<4>celery-pi: failed login of (\S+) to Redis from (.*) at \d{4}-\S+Z"
    found = [re.fullmatch(pattern, line) for line in lines]
    assert all(found), text
    return [(match[1], match[2]) for match in found if match]


def test_each_try_is_told_once(
    logins: ModuleType, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: dict[str, int] = {}
    for tries in (["celery"], ["celery", "default", "celery"], [], ["default"]):
        for name in tries:
            server.fail(name)
        counts = logins.look(server, "run", counts)
        assert sorted(told(capsys.readouterr().out)) == sorted((name, ADDRESS) for name in tries)


def test_entry_that_has_ceased_to_grow_and_its_successor_are_two(
    logins: ModuleType, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """Redis begins another entry for a name when the last is a minute old."""
    counts: dict[str, int] = {}
    for minute in (0, 0, 2, 2, 2, 4):
        server.fail("celery", minute=minute)
        counts = logins.look(server, "run", counts)
        assert len(told(capsys.readouterr().out)) == 1
    assert sorted(counts.values()) == [1, 2, 3]


def test_tries_after_the_log_was_emptied_are_told(
    logins: ModuleType, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        server.fail("celery")
    counts = logins.look(server, "run", {})
    capsys.readouterr()
    server.entries.clear()
    server.fail("celery")
    logins.look(server, "run", counts)
    assert told(capsys.readouterr().out) == [("celery", ADDRESS)]


def test_what_a_user_was_refused_is_no_login(
    logins: ModuleType, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fail("celery", reason="command")
    logins.look(server, "run", {})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name", ["", "Celery", "x\n<4>celery-pi: failed login", "my-password", "\x1b[2J", "monitor "]
)
def test_name_that_no_user_has_is_not_repeated(
    logins: ModuleType, server: Server, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be a password, or made to look like a line of its own."""
    server.fail(name)
    logins.look(server, "run", {})
    assert told(capsys.readouterr().out) == [("nobody", ADDRESS)]
    assert name == "" or name not in logins.TOLD.read_text()


@pytest.mark.parametrize(
    ("client", "place"),
    [
        ("127.0.0.1:1", "127.0.0.1"),
        ("[::1]:65535", "::1"),
        ("[2001:db8::7]:1", "2001:db8::7"),
        ("/run/redis-celery/redis.sock:0", "the socket"),
    ],
)
def test_address_is_the_clients(logins: ModuleType, client: str, place: str) -> None:
    described = f"id=1 addr={client} laddr=x:1 fd=8 name=addr=192.0.2.9:1 "
    assert logins.origin(described.encode()) == place


def test_flood_of_one_client_does_not_fill_the_journal(
    logins: ModuleType, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(logins.MOST + 5):
        server.fail("celery")
    logins.look(server, "run", {})
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == logins.MOST
    assert last == f"<4>celery-pi: and 5 more of celery to Redis from {ADDRESS}"


def test_notes_name_the_run_of_redis_and_are_written_only_when_there_is_news(
    logins: ModuleType, server: Server
) -> None:
    counts = logins.look(server, "run", {})
    assert not logins.TOLD.exists()
    server.fail("celery")
    counts = logins.look(server, "run", counts)
    assert json.loads(logins.TOLD.read_text()) == ["run", counts]
    logins.TOLD.unlink()
    assert logins.look(server, "run", counts) == counts
    assert not logins.TOLD.exists()


def test_told_to_stop_it_looks_once_more_and_started_again_it_goes_on_from_there(
    tmp_path: Path, listening: Server
) -> None:
    listening.fail("celery")
    with watch(tmp_path) as first:
        assert first.stdout
        assert told(first.stdout.readline()) == [("celery", ADDRESS)]
        listening.fail("default")
        first.terminate()
        assert told(first.stdout.read()) == [("default", ADDRESS)]
    assert first.returncode == 0
    listening.fail("default", "192.0.2.8")
    with watch(tmp_path) as second:
        assert second.stdout
        assert told(second.stdout.readline()) == [("default", "192.0.2.8")]
        second.terminate()
        assert second.stdout.read() == ""


@pytest.mark.usefixtures("listening")
def test_redis_that_lets_it_in_no_more_is_told(tmp_path: Path) -> None:
    (tmp_path / "redis_monitor_password.old").unlink()
    with watch(tmp_path) as refused:
        assert refused.stdout
        said = refused.stdout.read()
    assert refused.returncode == 1
    assert said == "<3>celery-pi: failed logins cannot be seen: WRONGPASS no\n"


def test_deploying_machine_is_added_once_and_the_others_are_kept() -> None:
    assert with_this([], "192.0.2.1") == ["192.0.2.1"]
    assert with_this(["192.0.2.1"], "fe80::1%eth0") == ["192.0.2.1", "fe80::1"]
    assert with_this(["192.0.2.1", "fe80::1"], "192.0.2.1") == ["192.0.2.1", "fe80::1"]
    for none in ("", "UNKNOWN"):
        assert with_this(["192.0.2.1"], none) == ["192.0.2.1"]


def test_machines_that_deployed_long_ago_are_forgotten() -> None:
    known: list[str] = []
    for number in range(KEPT + 3):
        known = with_this(known, f"192.0.2.{number}")
    assert known == [f"192.0.2.{number}" for number in range(3, KEPT + 3)]


def test_machine_is_known_by_its_ssh_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fact, listed = deployers.Deployers(), tmp_path / "deployers"
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.5 50000 192.0.2.1 22")
    assert fact.process(sh(fact.command(str(listed)))) == ["192.0.2.5"]
    listed.write_text("192.0.2.4\n")
    assert fact.process(sh(fact.command(str(listed)))) == ["192.0.2.4", "192.0.2.5"]
    monkeypatch.delenv("SSH_CONNECTION")
    assert fact.process(sh(fact.command(str(listed)))) == ["192.0.2.4"]


@pytest.mark.parametrize(
    ("check", "done"),
    [("true", ["systemctl restart x"]), ("false", ["systemctl disable --quiet --now x"])],
)
def test_service_is_left_as_its_package_has_it_or_stopped_where_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str, done: list[str]
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("systemctl")
    monkeypatch.setattr(package_service, "RECORDS", str(tmp_path))

    def leave() -> None:
        left_to_its_package(name="Leave it", unit="x", check=check)

    assert run(leave).changed == [False]
    assert programs.calls() == []
    (tmp_path / "x").write_text("")
    assert run(leave).changed == [True]
    assert programs.calls() == done
    assert run(leave).changed == [False]
