"""What keeps a machine from running the newest of its packages."""

from __future__ import annotations

from pyinfra.api import FactBase, StringCommand

# Wanted, state and flaw of each package that is not simply installed.
SHOW = r"""
dpkg-query -W -f '${db:Status-Want} ${db:Status-Status} ${db:Status-Eflag} ${Package}\n' |
  grep -vE '^[a-z]+ (not-installed|config-files) |^install installed ok '
[ ! -e /run/reboot-required ] || echo restart
"""


class PackageHealth(FactBase[list[str]]):
    """A sentence for each kind of trouble, read in one command."""

    default = list

    def command(self) -> StringCommand:
        return StringCommand(SHOW)

    def process(self, output: list[str]) -> list[str]:
        packages = [line.split() for line in output if line != "restart"]
        held = [name for want, _, _, name in packages if want == "hold"]
        broken = [name for _, state, flaw, name in packages if (state, flaw) != ("installed", "ok")]
        return [
            *_sentence(held, "held back, from security updates too (apt-mark unhold)"),
            *_sentence(broken, "not fully installed (dpkg --configure -a)"),
            *(["an update waits for a restart of the machine"] if "restart" in output else []),
        ]


def _sentence(names: list[str], what: str) -> list[str]:
    return [f"{', '.join(names)}: {what}"] if names else []
