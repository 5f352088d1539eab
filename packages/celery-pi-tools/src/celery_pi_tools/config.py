"""Managed by celery-pi. The settings that were deployed, and where the tools find things."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

LIBRARY = "/usr/local/lib/celery-pi"
SETTINGS = Path("/etc/celery-pi/settings.json")
STATE = Path("/var/lib/celery-pi")
MAINTENANCE_PAGE = STATE / "maintenance/page.html"  # exists while maintenance is on

Settings = dict[str, Any]
SIZE = re.compile(r"([0-9]+)(k|m|g)b", re.IGNORECASE)
FACTORS = {"k": 2**10, "m": 2**20, "g": 2**30}


class CannotLoad(Exception):
    """Why a file that deploys write cannot be read, in one sentence."""


def load() -> Settings:
    """The deployed settings. Raises CannotLoad."""
    try:
        settings: Settings = json.loads(SETTINGS.read_text())
    except (OSError, ValueError) as error:
        raise CannotLoad(f"{SETTINGS} cannot be read: {error}") from error
    return settings


def size_in_bytes(text: str) -> int:
    """Bytes in a size written as redis.conf writes it, such as 64mb. Raises ValueError."""
    match = SIZE.fullmatch(text)
    if not match:
        raise ValueError("must be a number with kb, mb or gb, such as 256mb")
    return int(match[1]) * FACTORS[match[2].lower()]
