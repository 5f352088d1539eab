"""A real browser: Debian's Chromium without a screen, driven by the W3C WebDriver protocol."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

# Without the network flags it asks Google's hosts for this and that at every start.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-proxy-server", "--window-size=1280,900"),
)


def ensure_browser() -> None:
    """Install Chromium and its driver from Debian where they are missing."""
    if not shutil.which("chromedriver"):
        for words in (["update"], ["install", "-y", "chromium", "chromium-driver"]):
            subprocess.run(["apt-get", "-q", *words], check=True, capture_output=True)


class Browser:
    """One window, for which the host name is that address and any certificate will do."""

    def __init__(self, name: str, address: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._profile = tempfile.mkdtemp()
        self._base = f"http://127.0.0.1:{port}"
        self._wait_for_driver()
        flags = [*FLAGS, f"--user-data-dir={self._profile}"]
        flags += [f"--host-resolver-rules=MAP {name} {address}"]
        wanted = {
            "acceptInsecureCerts": True,
            "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        opened = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/session/{opened['sessionId']}"

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(URLError):
            self._call("DELETE", "")
        self._driver.terminate()
        self._driver.wait(30)
        shutil.rmtree(self._profile, ignore_errors=True)

    def go(self, url: str) -> None:
        """Open the page and wait until its scripts have asked for all they want."""
        self._call("POST", "/url", {"url": url})
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is being loaded."""
        idle = "return document.readyState == 'complete' && !(window.jQuery && jQuery.active)"
        deadline = time.monotonic() + 30
        while not self.script(idle):
            assert time.monotonic() < deadline, "the page still loads"
            time.sleep(0.1)

    def click(self, css: str) -> None:
        found = self._call("POST", "/element", {"using": "css selector", "value": css})
        (element,) = found.values()
        self._call("POST", f"/element/{element}/click", {})
        self.settle()

    def script(self, text: str) -> Any:
        """What JavaScript gives back in the page."""
        return self._call("POST", "/execute/sync", {"script": text, "args": []})

    def text(self) -> str:
        """What a reader sees of the page."""
        return str(self.script("return document.body.innerText"))

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def complaints(self) -> list[str]:
        """What the console has shown as an error or a warning since it was last asked."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def responses(self) -> dict[str, int]:
        """Status of everything loaded by https since it was last asked, by URL."""
        entries = self._call("POST", "/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        answers = [
            event["params"]["response"]
            for event in events
            if event["method"] == "Network.responseReceived"
        ]
        return {
            answer["url"]: answer["status"]
            for answer in answers
            if answer["url"].startswith("https:")  # and not its own empty page
        }

    def _wait_for_driver(self) -> None:
        for _ in range(600):
            with suppress(URLError):
                self._call("GET", "/status")
                return
            time.sleep(0.1)
        raise AssertionError("chromedriver does not answer")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._base + path, data, method=method)
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
