"""Flower in a real browser, by https and with the login, from outside the Pi."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.browser import Browser, ensure_browser
from tests.helpers.harness import ROOT, in_app, wait_for
from tests.helpers.site import api, login
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

SHOTS = ROOT / "artefacts/flower"
SITE = "raspberrypi"


@pytest.fixture(scope="module")
def browser(pi: VirtualPi) -> Iterator[Browser]:
    """A browser that has logged in, and from then on asks as if the name had been typed."""
    ensure_browser()
    with Browser(SITE, pi.address) as opened:
        opened.go(f"https://{login(pi)}@{SITE}/flower/broker")
        opened.responses()
        yield opened


@pytest.fixture(scope="module")
def task(pi: VirtualPi) -> str:
    """ID of a task that is done and that Flower has heard of."""
    code = "from observations_nids.tasks import add; r = add.delay(2, 40); r.get(timeout=60)"
    done = in_app(pi, f"{code}; print(r.id)")
    wait_for("Flower knows it", lambda: done in (api(pi, "tasks") or {}))
    return done


@pytest.fixture(autouse=True)
def _nothing_is_amiss(browser: Browser, request: pytest.FixtureRequest) -> Iterator[None]:
    """Every file was found, and the console is empty; a picture is kept."""
    yield
    shot = SHOTS / f"{request.node.name.removeprefix('test_')}.png"
    browser.screenshot(shot)
    print(f"screenshot: {shot}")
    loaded = browser.responses()
    assert not {url: status for url, status in loaded.items() if status >= 400}
    assert browser.complaints() == []


def links_of(browser: Browser) -> list[str]:
    """Where the page leads to on this site."""
    found = browser.script("return Array.from(document.links, link => link.href)")
    return [link for link in found if f"//{SITE}" in link]


def test_dashboard_shows_the_worker(browser: Browser, task: str) -> None:
    browser.go(f"https://{SITE}/flower/")
    assert task
    rows = "return document.querySelector('#workers-table tbody').textContent"
    wait_for("the worker", lambda: "celery@raspberrypi" in browser.script(rows))
    wait_for("its heartbeat", lambda: "Online" in browser.script(rows))
    totals = f"https://{SITE}/flower/tasks?state=SUCCESS"
    wait_for("the totals, which it asks for", lambda: totals in links_of(browser))
    links = links_of(browser)
    assert not [link for link in links if not link.startswith(f"https://{SITE}/flower/")]


def test_styles_and_scripts_are_loaded(browser: Browser) -> None:
    browser.responses()
    browser.go(f"https://{SITE}/flower/tasks")
    used = browser.script("return Array.from(document.styleSheets, sheet => sheet.cssRules.length)")
    assert len(used) == 3
    assert all(used)
    assert browser.script("return document.querySelector('.navbar-brand img').naturalWidth") > 0
    assert browser.script("return typeof jQuery.fn.DataTable") == "function"


def test_workers_page_is_a_click_away(pi: VirtualPi, browser: Browser) -> None:
    wait_for("the worker has told of itself", lambda: "stats" in known(pi))
    browser.go(f"https://{SITE}/flower/")
    browser.click("a[href$='celery%40raspberrypi']")
    wait_for("the page", lambda: "Max concurrency" in browser.text())
    assert browser.script("return location.pathname").startswith("/flower/worker/")


def known(pi: VirtualPi) -> dict[str, Any]:
    """What the worker has told Flower, which asks it when it starts, and now."""
    worker: dict[str, Any] = (api(pi, "workers?refresh=1") or {}).get("celery@raspberrypi", {})
    return worker


def test_finished_tasks_page_is_a_click_away(browser: Browser, task: str) -> None:
    browser.go(f"https://{SITE}/flower/tasks")
    wait_for("the task", lambda: task in browser.text())
    browser.click(f"a[href$='{task}']")
    wait_for("the page", lambda: "SUCCESS" in browser.text())
    assert "observations_nids.tasks.add" in browser.text()
    assert "42" in browser.text()


def test_broker_page_shows_the_queue(browser: Browser) -> None:
    browser.go(f"https://{SITE}/flower/broker")
    row = browser.script("return document.querySelector('#queue-table tbody tr').innerText")
    assert row.split()[0] == "celery"
    assert row.split()[1].isdigit()


def test_what_is_amiss_is_seen(browser: Browser) -> None:
    """The browser tells of a page that is not there; else these tests would prove nothing."""
    browser.go(f"https://{SITE}/flower/none")
    assert 404 in browser.responses().values()
    assert any("404" in said for said in browser.complaints())


def test_browser_without_the_login_sees_nothing(pi: VirtualPi, browser: Browser) -> None:
    assert browser  # is not the one that asks
    with Browser(SITE, pi.address) as stranger:
        stranger.go(f"https://nobody:wrong@{SITE}/flower/")
        assert set(stranger.responses().values()) == {401}
        assert "celery" not in stranger.text()
