"""The same site with the guide's fail2ban filter to the letter, which has no `<HOST>`."""

from __future__ import annotations

import pytest

from tests.sites.build import FILTER, Site
from tests.sites.client import Client

pytestmark = pytest.mark.native
HOST_IN_FILTER = False


def test_fail2ban_does_not_start_though_its_own_test_is_content(site: Site) -> None:
    """So a check before a change must ask fail2ban-regex of each filter."""
    tested = site.pi.run("fail2ban-client", "-t", check=False)
    asked = site.pi.run("fail2ban-regex", "a line", FILTER, check=False)

    assert site.pi.run("systemctl", "is-failed", "fail2ban").stdout.strip() == "failed"
    assert tested.returncode == 0
    assert asked.returncode != 0
    assert "No failure-id group" in asked.stdout + asked.stderr


def test_the_site_does_not_suffer_by_it(site: Site) -> None:
    client = Client(site)
    client.start()
    sent = client.send("row", 2)
    told = client.stop()

    assert told.troubles == {}, told
    assert [site.rows()[task] for task in sent] == [2, 2]
