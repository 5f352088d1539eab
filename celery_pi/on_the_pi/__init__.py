"""Programs that are sent along with a deploy and run on the Pi, with its Python's own library."""

from pathlib import Path


def program(name: str) -> str:
    """Text of the module of that name."""
    return (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
