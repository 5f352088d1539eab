"""No test here needs Docker: `make test-fast` runs them all, and those of `packages/`."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Called for the tests of this directory alone."""
    item.add_marker(pytest.mark.fast)
