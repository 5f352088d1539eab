"""Hunt the owner's files through every web server of a machine, from beside it and from within."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.sites import hunting
from tests.sites.build import NAMES, SECRETS
from tests.virtual_pi import VirtualPi

_HUNTING = Path(__file__).with_name("hunting.py")
SECONDS = 300


@dataclass(frozen=True)
class Hunted:
    """Where a file was served, a line each; and the number of answers by scheme and address."""

    served: list[str]
    answers: dict[str, int]

    @property
    def files(self) -> set[str]:
        """The files that were served."""
        return {line.rpartition(", ")[2] for line in self.served}


def hunt(pi: VirtualPi, wanted: dict[str, str] = SECRETS) -> Hunted:
    """Ask for each of the files on ports 80 and 443, on every address of the machine, IPv6 too,
    by every name that it may have and by none; and from this host, which is a neighbour of its."""
    names = [*NAMES, "localhost", "other.example"]
    inside = addresses(pi)
    arguments = json.dumps({"addresses": inside, "names": names, "wanted": wanted})
    code = _HUNTING.read_bytes()
    told = pi.run("python3", "-I", "-", arguments, input=code, timeout=SECONDS).stdout
    served, answers = json.loads(told)
    outside_served, outside = hunting.hunt([pi.address], names, wanted)
    return Hunted(
        [*(f"from within: {line}" for line in served), *outside_served],
        answers | {f"{key} from outside": number for key, number in outside.items()},
    )


def addresses(pi: VirtualPi) -> list[str]:
    """All of the machine's, with the interface where an address means nothing without it."""
    told = json.loads(pi.run("ip", "-json", "address").stdout)
    return [
        f"{each['local']}%{link['ifname']}" if each["scope"] == "link" else each["local"]
        for link in told
        for each in link["addr_info"]
    ]
