"""`celery-pi set-aside`, with a Redis that refuses: one sentence and status 2, whatever it says."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from celery_pi.settings import Settings
from tests.library import LIBRARY

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
        return {"LRANGE": b"*0\r\n", "EVAL": b"*2\r\n:0\r\n:0\r\n"}.get(command, b"+OK\r\n")


@pytest.fixture
def server(checks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(checks.resp, "SOCKET", str(tmp_path / "redis.sock"))
    monkeypatch.setattr(checks.resp, "SECRETS", str(tmp_path))
    for user in ("admin", "celery"):
        (tmp_path / f"redis_{user}_password").write_text("s3cret\n")
    running = Server(tmp_path / "redis.sock")
    yield running
    running.listener.close()


@pytest.fixture
def run(checks: Any, tmp_path: Path) -> Callable[..., int]:
    """The program, in an app with a database of its own."""
    assert checks.resp, "its modules are found"
    loader = SourceFileLoader("set_aside", str(LIBRARY / "set-aside"))
    spec = spec_from_loader("set_aside", loader)
    assert spec
    module: Any = module_from_spec(spec)
    loader.exec_module(module)
    module.SETTINGS = tmp_path / "settings.json"
    module.SETTINGS.write_text(json.dumps(Settings(redis_database=3).model_dump(mode="json")))
    return lambda *words: int(module.main(list(words)))


@pytest.mark.usefixtures("server")
def test_nothing_is_set_aside(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert (run(), *capsys.readouterr()) == (0, "", "")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.split()[0])
@pytest.mark.parametrize("to", ["AUTH", "SELECT", "LRANGE", "EVAL"])
def test_any_error_of_redis_is_a_sentence(
    run: Callable[..., int], server: Server, capsys: pytest.CaptureFixture[str], to: str, error: str
) -> None:
    server.to, server.error = to, error
    assert run(*["--return"] * (to == "EVAL")) == 2
    assert capsys.readouterr().err == f"celery-pi: Redis: {error}\n"


def test_redis_that_is_not_there_is_a_sentence(
    run: Callable[..., int], server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.listener.close()
    (tmp_path / "redis.sock").unlink()
    assert run() == 2
    told = capsys.readouterr().err
    assert told.startswith("celery-pi: Redis: ")
    assert told.count("\n") == 1
