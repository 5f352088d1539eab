"""Machines with a site on them, as its owner runs it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sites.build import Site, build
from tests.virtual_pi.image import image_name
from tests.virtual_pi.platforms import native_platform


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Observations Nids, to which nothing of ours has been deployed, for one module.

    A module whose `HOST_IN_FILTER` is False gets the machine on which fail2ban does not start.
    """
    scope = request.config.getoption("--scope")
    process = getattr(request.config, "workerinput", {}).get("workerid", "main")
    name = "-".join([image_name(native_platform()), scope, process, "site"])
    made = build(name, host_in_filter=getattr(request.module, "HOST_IN_FILTER", True))
    yield made
    made.pi.down()
