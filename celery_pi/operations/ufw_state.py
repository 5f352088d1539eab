"""What ufw is set to, what of it the kernel holds, and where ssh comes in."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyinfra.api import FactBase, StringCommand

from celery_pi import before
from celery_pi.firewall_rules import Rule
from celery_pi.shell import assign

UNIT = "ufw.service"
BEFORE = f"{before.DIRECTORY}/ufw"  # what is shown here, as it was at our first change
CONF = "/etc/ufw"
DEFAULT = "/etc/default/ufw"
IPV6 = "/proc/sys/net/ipv6"  # what ufw goes by too

# In force is what each chain of ufw's holds as many rules of as its files, and to which the
# kernel's own chains lead. Beside what the files say, ufw leads from its own to the user's chains.
IN_FORCE = r"""
holds() {
  {
    cat "$conf/before$1.rules" "$conf/user$1.rules" "$conf/after$1.rules"
    echo kernel
    "ip$1tables-save" -t filter
  } 2>/dev/null | awk '
    $0 == "kernel" { kernel = 1 }
    !kernel && /^-[AI] ufw/ { wanted[$2]++ }
    kernel && /^-A ufw/ { held[$2]++ }
    kernel && /^:INPUT DROP|^:FORWARD DROP|^:OUTPUT ACCEPT/ { policies++ }
    kernel && /^-A (INPUT|FORWARD|OUTPUT) -j ufw/ { ways[$2]++ }
    END {
      for (chain in wanted) {
        to_users = chain ~ /-before-(input|output|forward)$/
        if (held[chain] != wanted[chain] + to_users) exit 1
      }
      exit policies != 3 || ways["INPUT"] != 6 || ways["FORWARD"] != 6 || ways["OUTPUT"] != 6
    }
  '
}
in_force() { holds "" && { [ ! -e "$ipv6" ] || holds 6; }; }
"""

# By the sockets that root's processes of that name have open, real user root's too: any process may
# take the name, and `ss` would show it.
SSH = r"""
find_ssh() {
  held=" $(for pid in $(pgrep -u 0 -U 0 -x 'sshd|dropbear'); do
    find "/proc/$pid/fd" -lname 'socket:*' -printf '%l ' 2>/dev/null
  done)"
  listening=$(ss -Hltne) || exit 1
  printf '%s\n' "$listening" | awk -v held="$held" '
    match($0, / ino:[0-9]+ /) {
      socket = " socket:[" substr($0, RSTART + 5, RLENGTH - 6) "] "
      if (index(held, socket)) { sub(/.*:/, "", $4); print "ssh", $4 }
    }'
}
"""

# Before ufw is installed there is nothing to read, which is an answer. The ports of ssh are those
# that its server listens on, by itself or by systemd, and that of the session which asks: sudo
# takes that out of the environment, but not out of its parents'.
SHOW = r"""
sed -n 's/^\([A-Z0-9_]*\)="\{0,1\}\([A-Za-z]\{1,\}\)"\{0,1\}$/setting \1 \2/p' \
  "$default" "$conf/ufw.conf" 2>/dev/null
sed -n 's/^### tuple ### */rule /p' "$conf/user.rules" "$conf/user6.rules" 2>/dev/null
case $(systemctl show -p ActiveState -p UnitFileState "$unit") in
  *ActiveState=active*UnitFileState=enabled*) echo boot ;;
esac
! in_force || echo loaded
[ ! -e "$ipv6" ] || echo ipv6
[ ! -e "$before" ] || sed 's/^/before /' "$before"
find_ssh
if systemctl is-active --quiet ssh.socket; then
  systemctl show -P Listen ssh.socket | sed -n 's/^.*:\([0-9]*\) (Stream)$/ssh \1/p'
fi
pid=$$
while [ "$pid" -gt 1 ]; do
  tr '\0' '\n' <"/proc/$pid/environ" \
    | sed -n 's/^SSH_CONNECTION=\([^ ]*\) [^ ]* [^ ]* \([0-9]*\)$/session \1 \2/p'
  pid=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status")
done
"""


@dataclass(frozen=True)
class Firewall:
    """What ufw is set to, whether that is in force, and where ssh comes in.

    `session` is the address and the port of the ssh session that asks, if there is one. `before` is
    what was there at our first change; nothing before that, and on a machine where a deploy that
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
    def theirs(self) -> frozenset[str]:
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
        kept = [line.removeprefix("before ") for line in output if line.startswith("before ")]
        lines = [line.partition(" ") for line in output]

        def told(word: str) -> list[str]:
            return [rest for first, _, rest in lines if first == word]

        sessions = [(peer, int(port)) for peer, port in map(str.split, told("session"))]
        ports = {*map(int, told("ssh")), *(port for _, port in sessions)}
        texts = [text.partition(" comment=") for text in told("rule")]
        return Firewall(
            settings=dict(pair.split() for pair in told("setting")),
            rules=tuple(Rule(text, comment.strip()) for text, _, comment in texts),
            loaded="loaded" in output,
            at_boot="boot" in output,
            ipv6="ipv6" in output,
            ssh=tuple(sorted(ports)),
            session=sessions[0] if sessions else None,
            before=self.process(kept) if kept else None,
        )


def variables() -> StringCommand:
    """What the shell text above goes by."""
    return assign(unit=UNIT, conf=CONF, default=DEFAULT, ipv6=IPV6, before=BEFORE)
