"""Ports of a machine that are open, as another machine finds them by trying all 65,535."""

from __future__ import annotations

import json

from tests.virtual_pi import VirtualPi

# A firewall answers nothing, so that each port costs the whole patience: many are tried at once.
# What is open answers within milliseconds; the patience is for a busy host.
SCAN = """
import json, resource, selectors, socket, sys, time
address, patience = sys.argv[1], 3
family = socket.AF_INET6 if ":" in address else socket.AF_INET
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
def is_open(probe):
    return probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
def scan(ports):
    waiting, found = selectors.EpollSelector(), []
    def look(seconds):
        for key, _ in waiting.select(seconds):
            waiting.unregister(key.fileobj)
            if is_open(key.fileobj):
                found.append(key.data)
            key.fileobj.close()
    for port in ports:
        probe = socket.socket(family)
        probe.setblocking(False)
        probe.connect_ex((address, port))
        waiting.register(probe, selectors.EVENT_WRITE, port)
        if port % 500 == 0:
            look(0)
    until = time.monotonic() + patience
    while waiting.get_map() and time.monotonic() < until:
        look(0.2)
    for key in list(waiting.get_map().values()):
        key.fileobj.close()
    return found
size = min(22000, most - 100)
print(json.dumps([p for first in range(1, 65536, size)
                  for p in scan(range(first, min(first + size, 65536)))]))
"""

TRY = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
except OSError as error:
    sys.exit(str(error))
"""


def open_ports(scanner: VirtualPi, address: str) -> set[int]:
    """TCP ports on which the address answers the scanner, by IPv4 or IPv6."""
    return set(json.loads(scanner.run("python3", "-c", SCAN, address).stdout))


def reaches(scanner: VirtualPi, address: str, port: int) -> bool:
    """Whether the scanner gets a connection to that TCP port within 5 s."""
    return scanner.run("python3", "-c", TRY, address, str(port), check=False).returncode == 0
