"""Managed by celery-pi. The settings that were deployed, and where the tools find things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LIBRARY = "/usr/local/lib/celery-pi"
SETTINGS = Path("/etc/celery-pi/settings.json")
STATE = Path("/var/lib/celery-pi")
MAINTENANCE_PAGE = STATE / "maintenance/page.html"  # exists while maintenance is on

Settings = dict[str, Any]


class CannotLoad(Exception):
    """Why a file that deploys write cannot be read, in one sentence."""


def load() -> Settings:
    """The deployed settings. Raises CannotLoad."""
    try:
        settings: Settings = json.loads(SETTINGS.read_text())
    except (OSError, ValueError) as error:
        raise CannotLoad(f"{SETTINGS} cannot be read: {error}") from error
    return settings
