"""The hunt for the app's files over HTTP: what it asks, of whom, and what it makes of answers."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from celery_pi.settings import Settings
from celery_pi_tools.checks import backups, http_probe, served
from celery_pi_tools.system import System
from tests.helpers.fake import ME, Programs, as_root
from tests.helpers.harness import wait_for

pytestmark = pytest.mark.fast

ENV = "SECRET_KEY=abcdefghijklmnop\nDATABASE_PASSWORD=qrstuvwxyz\n"


class Quiet(SimpleHTTPRequestHandler):
    """A server of a directory, as `python3 -m http.server` is one."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


class Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextmanager
def serving(
    handler: Callable[..., BaseHTTPRequestHandler],
    *,
    address: str = "127.0.0.1",
    context: ssl.SSLContext | None = None,
) -> Iterator[tuple[str, int]]:
    kind = Server6 if ":" in address else ThreadingHTTPServer
    with kind((address, 0), handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield (address, server.server_address[1])
        server.shutdown()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The owner's project, below a directory that a web server may have as its root."""
    app = tmp_path / "www/html/nids"
    (app / "nids").mkdir(parents=True)
    (app / ".git").mkdir()
    (app / ".env").write_text(ENV)
    (app / ".git/config").write_text("[core]\n\tbare = false\n")
    (app / "nids/settings.py").write_text("DEBUG = False\n" * 9000)
    (app / "db.sqlite3").write_bytes(b"SQLite format 3\0" + bytes(9000))
    return app


@pytest.fixture
def asked(site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The questions about that project, of the servers that a test names."""
    kept = tmp_path / "backups"
    kept.mkdir()
    (kept / "2026-11-28T020000Z.tar.gz").write_bytes(b"old" * 999)
    (kept / "2026-11-29T020000Z.tar.gz").write_bytes(os.urandom(2**17))
    monkeypatch.setattr(backups, "PLACE", kept)
    monkeypatch.setattr(served, "read", lambda _, path: Path(path).read_bytes())
    settings = Settings(app_dir=str(site), app_module="nids", app_user=ME)
    system = System(settings.model_dump(mode="json"))
    files = list(served.files(system))
    return lambda *servers: {
        "servers": servers,
        "names": ["nids.example", "localhost"],
        "files": files,
        "seconds": 20,
    }


def hunt(asked: dict[str, Any]) -> Any:
    found = http_probe.Probe(asked)
    found.work()
    return found


def what(found: Any) -> set[str]:
    return {each["what"] for each in found.found}


ALL = {"the app's .env", ".git/config", "nids/settings.py", "the database"}


@pytest.mark.parametrize("above", ["", "..", "../..", "../../.."])
def test_each_file_is_found_wherever_above_it_the_server_has_its_root(
    asked: Any, site: Path, above: str
) -> None:
    root = (site / above).resolve()
    with serving(partial(Quiet, directory=str(root))) as server:
        found = hunt(asked(server))
    backup = {"a backup"} if root == site.parents[2] else set()
    assert what(found) == ALL | backup
    port = server[1]
    wanted = f"http://nids.example:{port}/{site.relative_to(root)}/.env".replace("/./", "/")
    assert wanted in {each["url"] for each in found.found}
    assert (found.unanswered, found.answered) == (0, 3 * found.questions)


def test_server_of_something_else_is_found_to_serve_nothing(asked: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / ".env").write_text("NOTHING=of the app's\n" * 9)
    with serving(partial(Quiet, directory=str(other))) as server:
        found = hunt(asked(server))
    assert (found.found, found.unanswered, len(found.servers)) == ([], 0, 1)


def test_file_is_known_by_its_content_and_not_by_the_status(asked: Any) -> None:
    class Odd(BaseHTTPRequestHandler):
        """It sends everybody elsewhere, and says that it is not found; but shows it."""

        def do_GET(self) -> None:
            body = ENV.encode() if self.path == "/.env" else b"login first, please"
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with serving(Odd) as server:
        found = hunt(asked(server))
    assert what(found) == {"the app's .env"}


def test_only_one_name_may_show_it(asked: Any, site: Path) -> None:
    class Named(Quiet):
        def send_head(self) -> Any:
            if not self.headers["Host"].startswith("nids.example"):
                return self.send_error(404)
            return super().send_head()

    with serving(partial(Named, directory=str(site))) as server:
        found = hunt(asked(server))
    assert what(found) == ALL
    assert all(each["url"].startswith("http://nids.example:") for each in found.found)


def test_ipv6_and_tls_are_asked_too(asked: Any, site: Path, tmp_path: Path) -> None:
    pair = tmp_path / "pair.pem"
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    more = ("-noenc", "-subj", "/CN=x", "-keyout", pair, "-out", tmp_path / "crt")
    subprocess.run([*made, *more], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", pair)
    with serving(partial(Quiet, directory=str(site)), address="::1", context=context) as server:
        found = hunt(asked(server))
    assert what(found) == ALL
    assert {each["url"].split("/")[2] for each in found.found} == {
        *(f"[::1]:{server[1]}", f"nids.example:{server[1]}", f"localhost:{server[1]}")
    }
    assert all(each["url"].startswith("https://") for each in found.found)


@contextmanager
def raw(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A TCP server that does with each connection what the test says."""
    with socket.create_server(("127.0.0.1", 0)) as there:

        def serve() -> None:
            while True:
                try:
                    connection, _ = there.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield ("127.0.0.1", there.getsockname()[1])
        there.shutdown(socket.SHUT_RDWR)


def test_server_that_speaks_first_is_asked_nothing(asked: Any) -> None:
    said: list[bytes] = []

    def ssh(connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"SSH-2.0-x\r\n")
            try:
                said.append(connection.recv(100))
            except ConnectionResetError:
                said.append(b"")

    with raw(ssh) as server:
        found = hunt(asked(server))
        assert (found.servers, found.found) == ([], [])
        wait_for("it is left", lambda: said)
    assert said == [b""]


def test_server_that_hangs_up_has_answered(asked: Any) -> None:
    """As nginx does at `return 444`."""

    def hang_up(connection: socket.socket) -> None:
        with connection:
            if connection.recv(999).startswith(b"HEAD"):
                connection.sendall(b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n")

    with raw(hang_up) as server:
        found = hunt(asked(server))
    assert (len(found.servers), found.found, found.unanswered) == (1, [], 0)


def test_server_that_is_silent_is_given_up_and_told(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_probe, "PATIENCE", 0.1)

    def silent(connection: socket.socket) -> None:
        with connection:
            while (line := connection.recv(999)) and not line.startswith(b"HEAD"):
                pass
            if line:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with raw(silent) as server:
        start = time.monotonic()
        found = hunt(asked(server))
    assert time.monotonic() - start < 5
    assert (found.answered, found.unanswered) == (0, 3 * found.questions)


def test_endless_answer_is_cut(asked: Any) -> None:
    sent = []

    def endless(connection: socket.socket) -> None:
        with connection:
            if connection.recv(999).startswith(b"HEAD"):
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                return
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for _ in range(1000):
                    connection.sendall(bytes(2**16))
                    sent.append(1)
            except OSError:
                pass

    with raw(endless) as server:
        questions = asked(server)
        questions["names"] = []
        found = hunt(questions)
    assert (found.found, found.unanswered) == ([], 0)
    assert len(sent) < 200 * found.questions


def test_time_that_has_run_out_is_told(asked: Any, site: Path) -> None:
    with serving(partial(Quiet, directory=str(site))) as server:
        found = hunt(asked(server) | {"seconds": -1})
    assert (found.answered, found.unanswered, found.found) == (0, 3 * found.questions, [])


def test_alias_without_its_slash_is_tried() -> None:
    ways = http_probe.paths("/srv/a b/.env", "/srv/a b")
    whole = ["/.env", "/a%20b/.env", "/srv/a%20b/.env"]
    assert ways == [*whole, "/static../.env", "/media../.env"]
    assert http_probe.paths("/var/x", "/srv") == ["/x", "/var/x"]


SS = """\
LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=2,fd=6),("nginx",pid=1,fd=6))
LISTEN 0 511 [::]:443 [::]:* users:(("nginx",pid=1,fd=7))
LISTEN 0 128 *:8080 *:* users:(("java",pid=9,fd=7))
LISTEN 0 128 127.0.0.1:6379 0.0.0.0:* users:(("redis-server",pid=3,fd=7))
LISTEN 0 128 [fe80::1]%eth0:8000 [::]:* users:(("python3",pid=3,fd=7))
LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("systemd",pid=1,fd=7))
LISTEN 0 4096 127.0.0.53%lo:53 0.0.0.0:* users:(("systemd-resolve",pid=5,fd=9))
LISTEN 0 128 0.0.0.0:81 0.0.0.0:*
"""


def test_each_server_is_asked_at_each_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Programs(tmp_path, monkeypatch).add("hostname", "echo 192.0.2.7 2001:db8::7")
    listening = served.sockets(SS)
    assert {process for _, _, process in listening} == {"nginx", "java", "python3", ""}
    assert list(served.servers(listening)) == [
        *(("127.0.0.1", 80), ("192.0.2.7", 80), ("::1", 443), ("2001:db8::7", 443)),
        *(("127.0.0.1", 8080), ("192.0.2.7", 8080), ("::1", 8080), ("2001:db8::7", 8080)),
        *(("fe80::1%eth0", 8000), ("127.0.0.1", 81), ("192.0.2.7", 81)),
    ]
    assert served.process(443, listening) == "nginx"
    assert served.process(81, listening) == "port 81"


def test_names_are_those_that_the_servers_know() -> None:
    nginx = 'server {\n  server_name nids.example\n www.nids.example;\n}\nserver_name _ "" ~^x$;'
    nginx += "\n# server_name no.example;\n server_name *.a.example .b.example;\n"
    assert served.nginx_names(nginx) == [
        *("nids.example", "www.nids.example", "_", '""', "~^x$", "www.a.example", "b.example")
    ]
    apache = """*:443                  is a NameVirtualHost
         default server nids.example (/etc/apache2/sites-enabled/a.conf:1)
         port 443 namevhost nids.example (/etc/apache2/sites-enabled/a.conf:1)
                 alias www.nids.example
                 wild alias *.c.example
*:80                   one.example (/etc/apache2/sites-enabled/b.conf:1)
"""
    assert served.apache_names(apache) == [
        *("nids.example", "www.nids.example", "www.c.example", "one.example")
    ]


@pytest.fixture
def judged(site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What the check says of these answers."""

    def judge(**answer: Any) -> Any:
        monkeypatch.setattr(served, "output", lambda *_: SS.splitlines()[0])
        monkeypatch.setattr(served, "files", lambda _: iter([{"what": "x"}]))
        monkeypatch.setattr(served, "names", lambda *_: [])
        monkeypatch.setattr(served, "servers", lambda _: [])
        empty = {"found": [], "servers": [1], "asked": 9, "unanswered": 0}
        monkeypatch.setattr(served, "probe", lambda _: empty | answer)
        return served.served(System({"app_dir": str(site)}))

    return judge


def test_what_is_served_is_wrong_with_server_url_and_remedy(
    judged: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "DEFAULT", tmp_path / "default")
    found = [
        {"what": "the app's .env", "url": f"http://{name}/nids/.env", "address": "::1", "port": 80}
        for name in ("raspberrypi", "localhost")
    ]
    told = judged(found=found)
    assert told.level == "wrong"
    said = "nginx serves the app's .env at http://raspberrypi/nids/.env; and at 1 more"
    assert told.evidence == said
    assert "location ~ /\\. { return 404; }" in told.remedy
    assert told.remedy.endswith("make rotate, and new values for all else that was to be read")
    assert not told.remedy.startswith("rm ")
    (tmp_path / "default").symlink_to("nowhere")
    assert judged(found=found).remedy.startswith(f"rm {tmp_path}/default, if that is Debian's")


def test_nothing_served_is_well_and_nothing_answered_is_told(judged: Callable[..., Any]) -> None:
    assert judged().level == "ok"
    assert judged(servers=[]).evidence == "no server answers HTTP"
    assert (judged(unanswered=3).level, judged(unanswered=3).evidence[:7]) == ("warn", "3 of 12")


@as_root
def test_questions_are_asked_by_nobody_and_find_what_is_served(
    asked: Any, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way, by a copy of the program that nobody may read."""
    text = Path(http_probe.__file__).read_text()
    text = text.replace('"servers": self.servers', '"servers": [os.getuid()]')
    program = Path("/tmp") / f"{tmp_path.name}-{os.getpid()}.py"  # noqa: S108
    program.write_text(text)
    program.chmod(0o644)
    monkeypatch.setattr(served.http_probe, "__file__", str(program))
    try:
        with serving(partial(Quiet, directory=str(site))) as server:
            answer = served.probe(asked(server))
    finally:
        program.unlink()
    assert {each["what"] for each in answer["found"]} == ALL
    assert answer["servers"] == [65534]


def test_database_is_known_by_how_all_of_its_kind_begin() -> None:
    file = {"start": base64.b64encode(served.SQLITE).decode()}
    assert http_probe.is_it(file, b"SQLite format 3\0 and more")
    assert not http_probe.is_it(file, b"<html>SQLite format 3\0")
