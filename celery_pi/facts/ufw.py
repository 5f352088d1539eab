"""What ufw is set to, what of it the kernel holds, and where ssh comes in."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyinfra.api import FactBase, StringCommand

from celery_pi import before
from celery_pi.firewall_rules import Rule
from celery_pi.shell import assign, script

UNIT = "ufw.service"
BEFORE = f"{before.DIRECTORY}/ufw"  # what is shown here, as it was at our first change
CONF = "/etc/ufw"
DEFAULT = "/etc/default/ufw"
IPV6 = "/proc/sys/net/ipv6"  # what ufw goes by too

IN_FORCE = script("ufw_in_force")
SSH = script("ufw_ssh")
SHOW = script("ufw_state")


@dataclass(frozen=True)
class Firewall:
    """What ufw is set to, whether that is in force, and where ssh comes in.

    `session` is the address and the port of the ssh session of this run, if there is one. `before`
    is what was there at our first change; nothing before that, and on a machine where a deploy that
    kept no such record has made it.
    """

    settings: dict[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    loaded: bool = False
    at_boot: bool = False
    ipv6: bool = True
    ssh: tuple[int, ...] = ()
    session: tuple[str, int] | None = None
    before: Firewall | None = None

    @property
    def is_new(self) -> bool:
        """Whether nothing of ours has ever been here."""
        return self.before is None and not any(rule.is_ours for rule in self.rules)

    @property
    def owners_rules(self) -> frozenset[str]:
        """Texts of the rules that were there before us."""
        origin = self if self.is_new else self.before
        return frozenset(rule.text for rule in origin.rules) if origin else frozenset()

    @property
    def record(self) -> str:
        """What is to be kept of it, as it is shown."""
        settings = [f"setting {key} {value}" for key, value in self.settings.items()]
        rules = [f"rule {rule.text} comment={rule.comment}" for rule in self.rules]
        return "".join(f"{line}\n" for line in (*settings, *rules))


class FirewallState(FactBase[Firewall]):
    """State of ufw, read in one command."""

    default = Firewall

    def command(self) -> StringCommand:
        return StringCommand(variables(), IN_FORCE, SSH, SHOW)

    def process(self, output: list[str]) -> Firewall:
        recorded = [line.removeprefix("before ") for line in output if line.startswith("before ")]
        lines = [line.partition(" ") for line in output]

        def values(word: str) -> list[str]:
            return [rest for first, _, rest in lines if first == word]

        sessions = [(peer, int(port)) for peer, port in map(str.split, values("session"))]
        ports = {*map(int, values("ssh")), *(port for _, port in sessions)}
        texts = [text.partition(" comment=") for text in values("rule")]
        return Firewall(
            settings=dict(pair.split() for pair in values("setting")),
            rules=tuple(Rule(text, comment.strip()) for text, _, comment in texts),
            loaded="loaded" in output,
            at_boot="boot" in output,
            ipv6="ipv6" in output,
            ssh=tuple(sorted(ports)),
            session=sessions[0] if sessions else None,
            before=self.process(recorded) if recorded else None,
        )


def variables() -> StringCommand:
    """What the shell text above goes by."""
    return assign(unit=UNIT, conf=CONF, default=DEFAULT, ipv6=IPV6, before=BEFORE)
