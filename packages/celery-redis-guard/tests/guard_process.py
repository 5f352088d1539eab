"""Where a process of its own finds the package."""

from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
