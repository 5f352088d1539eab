"""Asks web servers for files that nobody may see. Runs on the machine too, by its own Python.

Standard library only. Arguments: JSON with `addresses`, `names`, `wanted` (path below the project,
and the words by which its content is known). Writes what was served to standard output, as JSON.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection

PROJECT = "Observations_Nids"
# Where the project may be seen to lie: below what a server serves, beside it, or above it.
PLACES = (
    "/{path}",
    f"/{PROJECT}/{{path}}",
    f"/html/{PROJECT}/{{path}}",
    "/../{path}",
    "/static/../{path}",
    "/media/../{path}",
    "/static../{path}",
    "/media../{path}",
    "/%2e%2e/{path}",
    "/static/%2e%2e/{path}",
    "/media/.%2e/{path}",
    "/static/..%2f{path}",
    "/static/%252e%252e/{path}",
    "/flower/../{path}",
    "/flower/static/../../{path}",
    "//{path}",
    "/./{path}",
    f"/../../../../var/www/html/{PROJECT}/{{path}}",
    f"/media/%2e%2e/%2e%2e/{PROJECT}/{{path}}",
    "/{dotted}",
    f"/{PROJECT}/{{dotted}}",
)
SECONDS = 10
PORTS = {"http": 80, "https": 443}


def hunt(
    addresses: list[str], names: list[str], wanted: dict[str, str], ports: dict[str, int] = PORTS
) -> tuple[list[str], dict[str, int]]:
    """Where a file was served, a line each; and how many answers there were of each address."""
    served, answers = [], {}
    for scheme, port in ports.items():
        for address in addresses:
            count = 0
            if listens(address, port):
                for name in [*names, bracketed(address), ""]:
                    for path, status, body in asked(scheme, address, port, name, paths(wanted)):
                        count += 1
                        found = [file for file, words in wanted.items() if words in body]
                        served += [
                            f"{scheme}://{bracketed(address)}{path} as {name or 'nobody'}: "
                            f"{status}, {file}"
                            for file in found
                        ]
            answers[f"{scheme} {address}"] = count
    return served, answers


def paths(wanted: dict[str, str]) -> list[str]:
    """What is asked for, and a page that must not hold it either."""
    found = ["/"]
    for path in wanted:
        dotted = path.replace(".", "%2e", 1)
        found += [place.format(path=path, dotted=dotted) for place in PLACES]
    return found


def asked(
    scheme: str, address: str, port: int, name: str, wanted: list[str]
) -> Iterator[tuple[str, int, str]]:
    """Path, status and text of each answer, over one connection as long as it lasts."""
    connection = connected(scheme, address, port, name)
    for path in wanted:
        try:
            answer = got(connection, path, name)
        except (HTTPException, OSError):
            connection.close()
            connection = connected(scheme, address, port, name)
            try:
                answer = got(connection, path, name)
            except (HTTPException, OSError):
                connection.close()
                continue  # it says nothing at all to this
        yield path, answer.status, answer.read(2**20).decode(errors="replace")
        answer.read()
    connection.close()


def got(connection: HTTPConnection, path: str, name: str) -> HTTPResponse:
    connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
    # HTTP wants a name; an empty one is the bare address' own server.
    connection.putheader("Host", name)
    connection.endheaders()
    return connection.getresponse()


def connected(scheme: str, address: str, port: int, name: str) -> HTTPConnection:
    if scheme == "http":
        return HTTPConnection(address, port, timeout=SECONDS)
    return Named(address, port, name)


class Named(HTTPSConnection):
    """TLS with the server of that name at an address, or with the one that is there for none."""

    def __init__(self, address: str, port: int, name: str) -> None:
        super().__init__(address, port, timeout=SECONDS)
        self._name = None if not name or ":" in name or name == address else name

    def connect(self) -> None:
        HTTPConnection.connect(self)
        context = ssl._create_unverified_context()
        self.sock = context.wrap_socket(self.sock, server_hostname=self._name)


def listens(address: str, port: int) -> bool:
    """Whether anybody answers there. Raises OSError when the address itself cannot be reached."""
    try:
        socket.create_connection((address, port), timeout=SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


def bracketed(address: str) -> str:
    return f"[{address.partition('%')[0]}]" if ":" in address else address


if __name__ == "__main__":
    json.dump(hunt(**json.loads(sys.argv[1])), sys.stdout)
