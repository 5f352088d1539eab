"""Managed by celery-pi. Asks HTTP servers for files that they must not serve.

A program of its own, since it is run as nobody: what servers answer is anybody's. It takes the
questions on standard input and prints what was found, both as JSON:

    servers   address and port of each TCP socket that listens
    names     that each server is asked by, beside its bare address
    files     what each is, its paths in a URL, and by what it is known: the length and SHA-256 of
              its beginning, or the bytes (base64) with which all of its kind begin
    seconds   after which it prints what it has found until then

It goes by what comes, not by a status; it follows no redirect, reads of each answer no more than
the beginning, and waits for none longer than two seconds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import socket
import ssl
import sys
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import quote

LONGEST = 2**16  # bytes of an answer; the caller knows a file by no more
PATIENCE = 2  # seconds for each answer
FIRST_WORDS = 0.2  # seconds within which a server that speaks first has spoken: it is none of HTTP
GIVE_UP = 3  # answers that do not come
WORKERS = 4
Server = tuple[str, int]


class Probe:
    """What was found; several threads add to it."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.names: list[str] = request["names"]
        self.files: list[dict[str, Any]] = request["files"]
        self.deadline = time.monotonic() + request["seconds"]
        self.found: list[dict[str, Any]] = []
        self.servers: list[dict[str, Any]] = []
        self.answered = self.unanswered = 0
        self.lock = threading.Lock()
        self.todo = [(str(address), int(port)) for address, port in reversed(request["servers"])]

    @property
    def questions(self) -> int:
        return sum(len(file["paths"]) for file in self.files)

    def work(self) -> None:
        """Ask one server after the other while there is one."""
        while True:
            with self.lock:
                if not self.todo:
                    return
                server = self.todo.pop()
            self.ask(server)

    def ask(self, server: Server) -> None:
        tls = speaks(server)
        if tls is None:
            return
        with self.lock:
            self.servers.append({"address": server[0], "port": server[1], "tls": tls})
        for name in (server[0].partition("%")[0], *self.names):
            client = HttpClient(server, name, tls)
            answered = self.all_of(client)
            client.close()
            with self.lock:
                self.answered += answered
                self.unanswered += self.questions - answered

    def all_of(self, client: HttpClient) -> int:
        """How many questions were answered, of a server by one name."""
        answered = silent = 0
        questions = [(file, path) for file in self.files for path in file["paths"]]
        for file, path in questions:
            if silent == GIVE_UP or time.monotonic() > self.deadline:
                break
            try:
                body = client.ask(path)
            except TimeoutError:
                silent += 1
                continue
            except ssl.SSLError:
                return self.questions  # nobody of that name is there
            answered += 1
            if body is not None and is_it(file, body):
                self.note(file["what"], client.server, client.url(path))
        return answered

    def note(self, what: str, server: Server, url: str) -> None:
        with self.lock:
            hit = {"what": what, "url": url, "address": server[0], "port": server[1]}
            self.found.append(hit)

    def report(self) -> str:
        with self.lock:
            # A server that no thread has reached was not asked either.
            left = len(self.todo) * self.questions
            return json.dumps(
                {
                    "found": self.found,
                    "servers": self.servers,
                    "asked": self.answered,
                    "unanswered": self.unanswered + left,
                }
            )


class HttpClient:
    """One connection to a server, by one name."""

    def __init__(self, server: Server, name: str, tls: bool) -> None:
        self.server, self.name, self.tls = server, name, tls
        self.connection: HTTPConnection | None = None

    @property
    def host(self) -> str:
        """As a browser would send it."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        usual = 443 if self.tls else 80
        return name if self.server[1] == usual else f"{name}:{self.server[1]}"

    def url(self, path: str) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}{path}"

    def ask(self, path: str) -> bytes | None:
        """The beginning of what comes; nothing where the server hangs up. Raises TimeoutError."""
        for kept in (self.connection is not None, False):
            try:
                return self.answer(path)
            except (TimeoutError, ssl.SSLError):
                self.close()
                raise
            except (OSError, HTTPException):
                self.close()
                if not kept:  # one that was kept may have been closed meanwhile
                    break
        return None

    def answer(self, path: str) -> bytes:
        if self.connection is None:
            self.connection = HTTPConnection(*self.server, timeout=PATIENCE)
            self.connection.sock = connect(self.server, self.name if self.tls else None)
        self.connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        for key, value in (("Host", self.host), ("User-Agent", "celery-pi audit")):
            self.connection.putheader(key, value)
        self.connection.endheaders()
        response: HTTPResponse = self.connection.getresponse()
        body = response.read(LONGEST)
        if not response.isclosed():
            self.close()  # the rest of it stands in the way of the next
        return body

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def connect(server: Server, name: str | None) -> socket.socket:
    """A connection; with a name by TLS, whoever has signed the certificate."""
    plain = socket.create_connection(server, PATIENCE)
    if name is None:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return context.wrap_socket(plain, server_hostname=name)
    except (OSError, ValueError):
        plain.close()
        raise


def speaks(server: Server) -> bool | None:
    """Whether the server speaks HTTP by TLS, or None when it speaks no HTTP at all."""
    with suppress(OSError), connect(server, None) as there:
        if select.select([there], [], [], FIRST_WORDS)[0]:
            return None
    for tls in (True, False):
        name = server[0].partition("%")[0] if tls else None
        with suppress(OSError, ValueError), connect(server, name) as there:
            there.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if there.recv(5) == b"HTTP/":
                return tls
    return None


def is_it(file: dict[str, Any], body: bytes) -> bool:
    """Whether that is the file."""
    if file.get("start"):
        return body.startswith(base64.b64decode(file["start"]))
    length = int(file["length"])
    return len(body) >= length and digest(body[:length]) == file["digest"]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def paths(path: str, root: str) -> list[str]:
    """Those at which a server would show a file of that absolute path: from each directory above it
    as the root of its documents, the nearest first; and through an alias that lacks its slash."""
    parts = path.strip("/").split("/")
    whole = ["/" + "/".join(parts[at:]) for at in reversed(range(len(parts)))]
    inside = path.removeprefix(root)
    through = [f"/{alias}..{inside}" for alias in ("static", "media")] if inside != path else []
    return [quote(each) for each in (*whole, *through)]


def main() -> None:
    probe = Probe(json.load(sys.stdin))
    threads = [threading.Thread(target=probe.work, daemon=True) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, probe.deadline + PATIENCE - time.monotonic()))
    print(probe.report(), flush=True)
    os._exit(0)  # whatever a server still has a thread wait for


if __name__ == "__main__":
    main()
