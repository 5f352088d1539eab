"""`python3 -m celery_pi_tools` is the command `celery-pi`."""

from __future__ import annotations

import sys

from celery_pi_tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
