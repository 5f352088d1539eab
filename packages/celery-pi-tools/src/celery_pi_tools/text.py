"""Managed by celery-pi. Text from outside, made safe for a terminal.

The function is the privileges module's, which is sent to a Pi by itself.
"""

from __future__ import annotations

from celery_pi_tools.privileges import printable

__all__ = ["printable"]
