"""ufw as state: its rules and defaults, in force in the kernel now and after each boot."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import takewhile

from pyinfra import host, logger, state
from pyinfra.api import OperationError, QuoteString, StringCommand, operation

from celery_pi.firewall_rules import MARK, Delta, Opening, Rule, delta
from celery_pi.operations.ufw_state import (
    CONF,
    DEFAULT,
    IN_FORCE,
    Firewall,
    FirewallState,
    variables,
)
from celery_pi.plan import details, will

SSH = 22
TOLD = "celery_pi_strange_rules"
SETTINGS = {
    "IPV6": (DEFAULT, "yes"),
    "DEFAULT_INPUT_POLICY": (DEFAULT, '"DROP"'),
    "DEFAULT_OUTPUT_POLICY": (DEFAULT, '"ACCEPT"'),
    "DEFAULT_FORWARD_POLICY": (DEFAULT, '"DROP"'),
    "LOGLEVEL": (f"{CONF}/ufw.conf", "low"),
}

CHANGE = r"""
set -e
put() {
  if grep -q "^$2=" "$1"; then sed -i "s/^$2=.*/$2=$3/" "$1"; else echo "$2=$3" >>"$1"; fi
}
noted() {
  grep -qxF "### tuple ### $1" "$conf/user.rules" "$conf/user6.rules" \
    || { echo "ufw does not take the rule $1" >&2; exit 1; }
}
# All of ufw's own chains and nothing else, at once; `ufw reload` would not restore the ways to
# them once those are gone.
clear() {
  "$1-save" -t filter | awk '
    BEGIN { print "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]" }
    /^:ufw/ { chains[++n] = substr($1, 2) }
    /^-A (INPUT|FORWARD|OUTPUT) .*-j ufw/ { sub(/^-A/, "-D"); print }
    END {
      for (i = 1; i <= n; i++) print "-F " chains[i]
      for (i = 1; i <= n; i++) print "-X " chains[i]
      print "COMMIT"
    }
  ' | "$1-restore" -n
}
"""

# While ufw is off, what it is told is only written down. It is said to be so first, because a run
# that is cut off here is then completed by the next; what the kernel holds stays until the last.
OFF = 'put "$conf/ufw.conf" ENABLED no\n'
LOAD = """
clear iptables
[ ! -e "$ipv6" ] || clear ip6tables
ufw --force enable >&2
"""
# The commands may have brought to light that files and kernel did not agree before.
LOAD_IF_NEEDED = f"""
if ! in_force; then
{OFF}{LOAD}fi
"""
PROVE = """
in_force || { echo "the kernel does not hold the rules that ufw has written down" >&2; exit 1; }
"""
AT_BOOT = 'systemctl enable --now --quiet "$unit"\n'


@operation()
def firewall(openings: Sequence[Opening], only_ours: bool = False) -> Generator[StringCommand]:
    """Only these ports and those of ssh are open, the latter to six tries in 30 s of an address.

    ssh is where its server listens and where the session of this run came in, or at 22. Rules of
    ours that are not declared any more go; those of somebody else's are told, and go with
    `only_ours`. Fails, with nothing changed, when one of them would cut ssh off, and after it when
    the kernel does not hold what was loaded.
    """
    now = host.get_fact(FirewallState)
    wanted = _with_ssh(openings, now)
    change = delta(wanted, now.rules, now.ipv6)
    stale = {key: kept for key, kept in SETTINGS.items() if not _holds(now, key, kept[1])}
    load = bool(stale) or not now.loaded or not _holds(now, "ENABLED", "yes")
    if not only_ours:
        _refuse_to_cut_ssh(now)
        _report(change.strange)
    gone = [*change.outdated, *(change.strange if only_ours else ())]
    if not (load or gone or change.missing or not now.at_boot):
        host.noop("ufw has these rules, and the kernel holds them")
        return
    _tell(change, gone, now)
    _show(change, gone, [*stale], load)
    yield StringCommand(
        *(variables(), IN_FORCE, CHANGE),
        *([OFF] if load else []),
        *(_line("put", path, key, value) for key, (path, value) in stale.items()),
        *map(_deletion, gone),
        *(line for opening in change.missing for line in _addition(opening, now.ipv6)),
        LOAD if load else LOAD_IF_NEEDED,
        *([AT_BOOT] if not now.at_boot else []),
        PROVE,
    )


@operation()
def no_firewall() -> Generator[StringCommand]:
    """ufw is off and has no rule of ours; one that never had any is left as it is."""
    ours = [rule for rule in host.get_fact(FirewallState).rules if rule.is_ours]
    if not ours:
        host.noop("ufw has no rule of ours")
        return
    will(host, "open", "every port", "ufw is switched off")
    # Without our rules, one that is on would cut ssh off.
    yield StringCommand("set -e\nufw disable >&2\n", *map(_deletion, ours))


def _with_ssh(openings: Sequence[Opening], now: Firewall) -> list[Opening]:
    """All openings, ssh first, where what else is said of the same port counts for nothing."""
    ssh = [Opening(port, "tcp", action="limit") for port in now.ssh or (SSH,)]
    found = {(opening.port, opening.protocol, opening.source): opening for opening in ssh}
    for opening in openings:
        found.setdefault((opening.port, opening.protocol, opening.source), opening)
    return list(found.values())


def _holds(now: Firewall, key: str, value: str) -> bool:
    return now.settings.get(key, "").lower() == value.strip('"').lower()


def _refuse_to_cut_ssh(now: Firewall) -> None:
    """Of the rules that speak of a connection the first decides; ours, when new, is the first."""
    if now.session is None:
        return
    peer, port = now.session
    ours = Rule(Opening(port, "tcp").texts()[":" in peer]).match
    if ours not in {rule.match for rule in now.rules}:
        return
    for rule in takewhile(lambda rule: rule.match != ours, now.rules):
        if rule.shuts_out(peer, port):
            raise OperationError(
                f"ufw's rule `{' '.join(rule.words)}` would keep {peer}, from where this deploy "
                "comes, from ssh: remove it, or set firewall_only_ours"
            )


def _report(strange: Sequence[Rule]) -> None:
    if host.connector_data.setdefault(TOLD, strange) is not strange:
        return  # by the plan of this run
    for rule in strange:
        host.log(
            f"ufw has a rule that is not declared: {' '.join(rule.words)} (firewall_allow declares "
            "one, firewall_only_ours removes all others)",
            logger.warning,
        )


def _tell(change: Delta, gone: Sequence[Rule], now: Firewall) -> None:
    for opening in change.missing:
        port = f"{opening.port}/{opening.protocol}"
        limited = "ssh, six tries in 30 s" if opening.action == "limit" else ""
        will(host, "open", f"{port} from {opening.source}" if opening.source else port, limited)
    for rule in gone:
        will(host, "close", f"`{' '.join(rule.words)}`", "this rule goes", theirs=not rule.is_ours)
    if not _holds(now, "ENABLED", "yes"):
        will(host, "close", "every other port")
    elif not now.loaded or not now.at_boot:
        will(host, "change", "the firewall", "puts its rules in force again")


def _show(change: Delta, gone: Sequence[Rule], stale: Sequence[str], load: bool) -> None:
    """Log the change as pyinfra's own operations do, at `--diff` only."""
    if not state.config.DIFF:
        return
    for opening in change.missing:
        details(host, f"Will add the rule {' '.join(opening.words)}")
    for rule in gone:
        details(host, f"Will remove the rule {' '.join(rule.words)}")
    for key in stale:
        details(host, f"Will set {key} to {SETTINGS[key][1]}")
    if load:
        details(host, "Will load the rules into the kernel")


def _addition(opening: Opening, ipv6: bool) -> Iterator[StringCommand]:
    """The commands that add a rule of ours, or make one of what is there for the same port.

    What is refused after some tries, or let in from one network, stands before what is said of all;
    ufw puts a new rule first, and leaves one that is there where it is.
    """
    if opening.action == "limit" or opening.source:
        yield _line("ufw", "prepend", *opening.words)
    yield _line("ufw", *opening.words)
    for text in opening.texts(ipv6):
        yield _line("noted", f"{text} comment={MARK.encode().hex()}")


def _deletion(rule: Rule) -> StringCommand:
    routed = rule.words[0] == "route"
    return _line("ufw", *rule.words[:routed], "delete", *rule.words[routed:])


def _line(*words: str) -> StringCommand:
    return StringCommand(*map(QuoteString, words), ">&2\n")
