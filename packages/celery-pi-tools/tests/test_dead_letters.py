"""`celery-pi dead-letters` with a Redis that refuses: one sentence and status 2, for any error."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from celery_pi.settings import Settings
from celery_pi_tools import dead_letters, redis_client

pytestmark = pytest.mark.fast

# https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors
ERRORS = [
    "ERR unknown command 'LRANGE'",
    "LOADING Redis is loading the dataset in memory",
    "NOAUTH Authentication required.",
    "NOPERM User admin has no permissions to run the 'lrange' command",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "BUSY Redis is busy running a script.",
    "MISCONF Redis is configured to save RDB snapshots",
    "OOM command not allowed when used memory > 'maxmemory'.",
]


class Server:
    """A Redis that replies with `error` to the command that it names, and to all others with +OK
    or an empty list."""

    def __init__(self, path: Path) -> None:
        self.error = self.to = ""
        self.replies = {"LRANGE": b"*0\r\n", "EVAL": b"*2\r\n:0\r\n:0\r\n"}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with suppress(OSError):  # the test is over
            while True:
                client, _ = self.listener.accept()
                with client:
                    while asked := client.recv(2**16).decode():
                        client.sendall(self.reply(asked.split("\r\n")[2]))

    def reply(self, command: str) -> bytes:
        if command == self.to:
            return f"-{self.error}\r\n".encode()
        return self.replies.get(command, b"+OK\r\n")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(redis_client, "SOCKET", str(tmp_path / "redis.sock"))
    monkeypatch.setattr(redis_client, "SECRETS", str(tmp_path))
    for user in ("admin", "celery"):
        (tmp_path / f"redis_{user}_password").write_text("s3cret\n")
    running = Server(tmp_path / "redis.sock")
    yield running
    running.listener.close()


def run(put_back: bool = False) -> int:
    """The command, in an app with a database of its own."""
    return dead_letters.main(Settings(redis_database=3).model_dump(mode="json"), put_back)


@pytest.mark.usefixtures("server")
def test_nothing_is_set_aside(capsys: pytest.CaptureFixture[str]) -> None:
    assert (run(), *capsys.readouterr()) == (0, "", "")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.split()[0])
@pytest.mark.parametrize("to", ["AUTH", "SELECT", "LRANGE", "EVAL"])
def test_any_error_of_redis_is_a_sentence(
    server: Server, capsys: pytest.CaptureFixture[str], to: str, error: str
) -> None:
    server.to, server.error = to, error
    assert run(put_back=to == "EVAL") == 2
    assert capsys.readouterr().err == f"celery-pi: Redis: {error}\n"


def test_redis_that_is_not_there_is_a_sentence(
    server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.listener.close()
    (tmp_path / "redis.sock").unlink()
    assert run() == 2
    told = capsys.readouterr().err
    assert told.startswith("celery-pi: Redis: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("to", "reply"),
    [
        *((to, reply) for to in ("LRANGE", "EVAL") for reply in (b":5", b"$-1", b"+\x1b[2J")),
        *(("EVAL", reply) for reply in (b"*1\r\n:1", b"*2\r\n+\x1b[2J\r\n:0", b"*0")),
    ],
)
def test_reply_of_another_form_is_a_sentence(
    server: Server, capsys: pytest.CaptureFixture[str], to: str, reply: bytes
) -> None:
    server.replies[to] = reply + b"\r\n"
    assert run(put_back=to == "EVAL") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"celery-pi: Redis: its reply to {to} is n")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ('{"headers": {"task": "site.work", "id": "1"}}', "site.work[1]"),
        ("garbage", "no task: 'garbage'"),
        ("\udcff\x1b", r"no task: '\udcff\x1b'"),
        ('{"headers": null}', """no task: '{"headers": null}'"""),
    ],
    ids=["task", "text", "bytes", "no headers"],
)
def test_entry_says_what_it_is(message: str, shown: str) -> None:
    line = dead_letters.described(json.dumps([message, ["celery"], 1.0]))
    assert line.endswith(f"  {shown}  from celery")
