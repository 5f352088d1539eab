"""ufw as state: its rules and defaults, in force in the kernel now and after each boot."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from pyinfra import host, logger, state
from pyinfra.api import OperationError, QuoteString, StringCommand, operation

from celery_pi.facts.admin_addresses import admin_addresses
from celery_pi.facts.ufw import (
    CONF,
    DEFAULT,
    IN_FORCE,
    Firewall,
    FirewallState,
    variables,
)
from celery_pi.firewall_rules import ANYWHERE, MARK, Delta, Opening, Rule, delta
from celery_pi.plan import details, will
from celery_pi.shell import assign, script

SSH = 22
REPORTED = "celery_pi_strange_rules"
EVERYWHERE = ("", *ANYWHERE)
SETTINGS = {
    "IPV6": (DEFAULT, "yes"),
    "DEFAULT_INPUT_POLICY": (DEFAULT, '"DROP"'),
    "DEFAULT_OUTPUT_POLICY": (DEFAULT, '"ACCEPT"'),
    "DEFAULT_FORWARD_POLICY": (DEFAULT, '"DROP"'),
    "LOGLEVEL": (f"{CONF}/ufw.conf", "low"),
}

CHANGE = script("ufw_change")

# While ufw is off, its commands only write its files. It is switched off there first, so that a run
# that is cut off here is completed by the next. The kernel keeps its rules until the last step.
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


KEEP = script("ufw_keep")
FORGET = 'rm -f "$before"\n'


@operation()
def firewall(
    openings: Sequence[Opening], only_ours: bool = False, limits: bool = False
) -> Generator[StringCommand]:
    """Only these ports and those of ssh are open.

    ssh is where its server listens and where the session of this run came in, or at 22; `limits`
    lets in six tries in 30 s of an address, and without a limit the machines that deploy. Rules of
    ours that are not declared any more go; what was there before us is the owner's and stays, as do
    others of his, which are logged, but for `only_ours`. Fails, with nothing changed, when one of
    them would cut ssh off, and after it when the kernel does not hold what was loaded.
    """
    now = host.get_fact(FirewallState)
    owners_rules = frozenset() if only_ours else now.owners_rules
    declared = _with_ssh(openings, now, limits, owners_rules)
    change = _in_order(delta(declared, now.rules, now.ipv6, owners_rules), declared, now)
    stale = {key: kept for key, kept in SETTINGS.items() if not _holds(now, key, kept[1])}
    load = bool(stale) or not now.loaded or not _holds(now, "ENABLED", "yes")
    if not only_ours:
        _refuse_to_cut_ssh(now)
        _report(change.strange)
    removed = [*change.outdated, *(change.strange if only_ours else ())]
    if not (load or removed or change.missing or not now.at_boot):
        host.noop("ufw has these rules, and the kernel holds them")
        return
    _add_to_plan(change, removed, now)
    _show(change, removed, [*stale], load)
    yield StringCommand(
        *(variables(), IN_FORCE, CHANGE),
        *((assign(record=now.record), KEEP) if now.is_new else ()),
        *([OFF] if load else []),
        *(_line("put", path, key, value) for key, (path, value) in stale.items()),
        *map(_deletion, removed),
        *(line for opening in change.missing for line in _addition(opening, now.ipv6)),
        LOAD if load else LOAD_IF_NEEDED,
        *([AT_BOOT] if not now.at_boot else []),
        PROVE,
    )


@operation()
def no_firewall() -> Generator[StringCommand]:
    """ufw has no rule of ours and is what it was before us, on or off, with the policies of then.

    One that never had any rule of ours is left as it is. Where there is no record of before, it is
    off. Fails, with nothing changed, when it would be on and cut ssh off.
    """
    now = host.get_fact(FirewallState)
    ours = [rule for rule in now.rules if rule.is_ours]
    if not ours and now.before is None:
        host.noop("ufw has no rule of ours")
        return
    was = now.before or Firewall()
    stays = _holds(was, "ENABLED", "yes")
    if stays:
        _refuse_to_leave_ssh_out(now, was)
    else:
        will(host, "open", "every port", "ufw is switched off")
    back = {key: was.settings[key] for key in SETTINGS if key in was.settings}
    level = back.pop("LOGLEVEL", "")
    yield StringCommand(
        *(variables(), IN_FORCE, CHANGE),
        # Without our rules, one that is on would cut ssh off.
        OFF if stays else "ufw disable >&2\n",
        *(_line("put", DEFAULT, key, _as_written(key, value)) for key, value in back.items()),
        # By the command, which writes the rules of logging too; they go by the policies.
        *([_line("ufw", "logging", level)] if level else []),
        *map(_deletion, ours),
        *((LOAD, "ufw status >/dev/null\n") if stays else ()),
        FORGET,
    )


def _as_written(key: str, value: str) -> str:
    return f'"{value}"' if SETTINGS[key][1].startswith('"') else value


def _with_ssh(
    openings: Sequence[Opening], now: Firewall, limits: bool, owners_rules: frozenset[str]
) -> list[Opening]:
    """All openings, ssh first; another opening of the same port is dropped.

    Where ssh is limited, by us or by the owner, the machines that deploy are let in before that.
    """
    ports = now.ssh or (SSH,)
    ssh = [Opening(port, "tcp", action=_ssh_action(limits), first=True) for port in ports]
    limited = {text for text in owners_rules if text.startswith("limit")}
    matches = {Rule(text).match for opening in ssh for text in opening.texts()}
    if limits or matches & {Rule(text).match for text in limited}:
        addresses = admin_addresses(host)
        ssh += [Opening(port, "tcp", source=address) for port in ports for address in addresses]
    by_place = {(opening.port, opening.protocol, opening.source): opening for opening in ssh}
    for opening in openings:
        by_place.setdefault((opening.port, opening.protocol, opening.source), opening)
    return list(by_place.values())


def _ssh_action(limits: bool) -> str:
    return "limit" if limits else "allow"


def _in_order(change: Delta, declared: Sequence[Opening], now: Firewall) -> Delta:
    """With what is let in from one place put anew before a limit of the same port that comes now,
    since ufw puts what is new first and leaves what it has where it is."""
    limited = {part.port for part in change.missing if part.action == "limit"}
    near = [each for each in declared if each.port in limited and each.source not in EVERYWHERE]
    texts = {text for each in near for text in each.texts(now.ipv6)}
    moved = [rule for rule in now.rules if rule.is_ours and rule.text in texts]
    again = [each for each in near if each not in change.missing]
    return Delta([*change.missing, *again], [*change.outdated, *moved], change.strange)


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
    for rule in now.rules:
        # One that is the owner's stays; any other of that place is going to be ours.
        if rule.match == ours and (rule.is_ours or rule.text not in now.owners_rules):
            return
        if rule.shuts_out(peer, port):
            raise OperationError(
                f"ufw's rule `{' '.join(rule.words)}` would keep {peer}, from where this deploy "
                "comes, from ssh: remove it, or set firewall_only_ours"
            )
        if rule.match == ours:
            return


def _refuse_to_leave_ssh_out(now: Firewall, was: Firewall) -> None:
    """ufw, which was on before us, goes on with the owner's own rules."""
    if now.session is None or _holds(was, "DEFAULT_INPUT_POLICY", "ACCEPT"):
        return
    peer, port = now.session
    if not any(rule.lets_in(peer, port) for rule in now.rules if not rule.is_ours):
        raise OperationError(
            f"ufw was on before celery-pi, and without our rules it would keep {peer}, from where "
            f"this deploy comes, from ssh: ufw allow {port}/tcp, or ufw disable"
        )


def _report(strange: Sequence[Rule]) -> None:
    if host.connector_data.setdefault(REPORTED, strange) is not strange:
        return  # by the plan of this run
    for rule in strange:
        host.log(
            f"ufw has a rule that is not declared: {' '.join(rule.words)} (firewall_allow declares "
            "one, firewall_only_ours removes all others)",
            logger.warning,
        )


def _add_to_plan(change: Delta, removed: Sequence[Rule], now: Firewall) -> None:
    for opening in change.missing:
        port = f"{opening.port}/{opening.protocol}"
        limited = "ssh, six tries in 30 s" if opening.action == "limit" else ""
        will(host, "open", f"{port} from {opening.source}" if opening.source else port, limited)
    for rule in removed:
        will(
            host, "close", f"`{' '.join(rule.words)}`", "this rule goes", is_owners=not rule.is_ours
        )
    if not _holds(now, "ENABLED", "yes"):
        will(host, "close", "every other port")
    elif not now.loaded or not now.at_boot:
        will(host, "change", "the firewall", "puts its rules in force again")


def _show(change: Delta, removed: Sequence[Rule], stale: Sequence[str], load: bool) -> None:
    """Log the change as pyinfra's own operations do, at `--diff` only."""
    if not state.config.DIFF:
        return
    for opening in change.missing:
        details(host, f"Will add the rule {' '.join(opening.words)}")
    for rule in removed:
        details(host, f"Will remove the rule {' '.join(rule.words)}")
    for key in stale:
        details(host, f"Will set {key} to {SETTINGS[key][1]}")
    if load:
        details(host, "Will load the rules into the kernel")


def _addition(opening: Opening, ipv6: bool) -> Iterator[StringCommand]:
    """The commands that add a rule of ours, or make one of what is there for the same port.

    ssh, and what is let in from one network, stands above the rules for everybody; ufw puts a
    new rule first, and leaves one that is there where it is.
    """
    if opening.first or opening.source not in EVERYWHERE:
        yield _line("ufw", "prepend", *opening.words)
    yield _line("ufw", *opening.words)
    for text in opening.texts(ipv6):
        yield _line("noted", f"{text} comment={MARK.encode().hex()}")


def _deletion(rule: Rule) -> StringCommand:
    routed = rule.words[0] == "route"
    return _line("ufw", *rule.words[:routed], "delete", *rule.words[routed:])


def _line(*words: str) -> StringCommand:
    return StringCommand(*map(QuoteString, words), ">&2\n")
