"""The site on the virtual Pi as the world sees it: over the network, by nginx."""

from __future__ import annotations

import base64
import json
import ssl
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from typing import Any

from tests.virtual_pi import VirtualPi

LOGIN = "/etc/celery-pi/secrets/flower_login"


@dataclass(frozen=True)
class Answer:
    """What a server said, and how many seconds it took for that."""

    status: int
    headers: dict[str, str]
    body: str
    seconds: float


def login(pi: VirtualPi) -> str:
    """Flower's name and password, as `name:password`."""
    return pi.run("cat", LOGIN).stdout


def ask(
    pi: VirtualPi,
    path: str,
    who: str = "",
    *,
    method: str = "GET",
    name: str = "raspberrypi",
    plain: bool = False,
    **headers: str,
) -> Answer:
    """Ask the Pi from this host; `who` logs in as `name:password`, `name` is the site's."""
    if who:
        headers["Authorization"] = "Basic " + base64.b64encode(who.encode()).decode()
    sent = {key.replace("_", "-"): text for key, text in headers.items()} | {"Host": name}
    connection: HTTPConnection = (
        HTTPConnection(pi.address, timeout=30)
        if plain
        else HTTPSConnection(pi.address, timeout=30, context=trusting())
    )
    start = time.monotonic()
    connection.request(method, path, headers=sent)
    answer = connection.getresponse()
    body = answer.read().decode(errors="replace")
    seconds = time.monotonic() - start
    connection.close()
    return Answer(answer.status, dict(answer.getheaders()), body, seconds)


def api(pi: VirtualPi, what: str) -> Any:
    """What Flower's API answers to who has logged in, or None."""
    answer = ask(pi, f"/flower/api/{what}", login(pi))
    return json.loads(answer.body) if answer.status == 200 else None


def trusting() -> ssl.SSLContext:
    """TLS with any certificate: the Pi's signs itself."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def served(pi: VirtualPi) -> str:
    """SHA-256 of the certificate that nginx serves."""
    command = f"openssl s_client -connect {pi.address}:443 </dev/null 2>/dev/null"
    show = "openssl x509 -noout -fingerprint -sha256"
    return pi.run("sh", "-c", f"{command} | {show}").stdout.strip()
