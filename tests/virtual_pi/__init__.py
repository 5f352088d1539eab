"""The virtual Pi: a Debian machine with systemd in a container, standing in for a Raspberry Pi.

From a shell: `python -m tests.virtual_pi up|down|shell|build`. From Python: `VirtualPi`.
"""

from tests.virtual_pi.console import VirtualPiError
from tests.virtual_pi.machine import VirtualPi

__all__ = ["VirtualPi", "VirtualPiError"]
