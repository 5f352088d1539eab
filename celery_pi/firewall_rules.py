"""Rules of ufw as text: what the owner writes, what `user.rules` holds, what the command takes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

WRITTEN = re.compile(r"([0-9]{1,5})/(tcp|udp)(?: from ([0-9A-Fa-f:.]+(?:/[0-9]{1,3})?))?")
MARK = "celery-pi"  # a comment of ufw's: which rules are ours, also when no longer declared
ANYWHERE = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True)
class Opening:
    """A port that is open, to anybody or to one network, in both versions of IP.

    One that is to be `first` is put above the rules of others when it is added.
    """

    port: int
    protocol: str
    source: str = ""
    action: str = "allow"
    first: bool = False

    def texts(self, ipv6: bool = True) -> list[str]:
        """As `user.rules` and, on a machine with IPv6, `user6.rules` have it."""
        sources = (self.source,) if self.source else ANYWHERE
        return [
            f"{self.action} {self.protocol} {self.port} {ANYWHERE[':' in source]} any {source} in"
            for source in sources
            if ipv6 or ":" not in source
        ]

    def only(self, texts: Collection[str], ipv6: bool = True) -> Iterator[Opening]:
        """The part of it that stands for these of its texts."""
        if len(texts) == len(self.texts(ipv6)):
            yield from [self] if texts else ()
            return
        for text in texts:
            yield replace(self, source=text.split()[-2])

    @property
    def words(self) -> list[str]:
        """As the command takes it."""
        source = self.source or "any"
        to = ["from", source, "to", "any", "port", str(self.port)]
        return [self.action, "proto", self.protocol, *to, "comment", MARK]


@dataclass(frozen=True)
class Rule:
    """A rule that ufw has: what stands behind `### tuple ###`, without the comment."""

    text: str
    comment: str = ""

    @property
    def is_ours(self) -> bool:
        return self.comment == MARK.encode().hex()

    @property
    def match(self) -> str:
        """All but what it does: of two rules with the same, ufw keeps the later one alone."""
        return self.text.partition(" ")[2]

    @property
    def words(self) -> list[str]:
        """As the command takes it, so that it means this rule and no other."""
        fields = self.text.split()
        routed, _, action = fields[0].rpartition(":")
        action, _, log = action.partition("_")
        _, protocol, port, destination, source_port, source, *applications, way = fields
        with_app = [name.replace("%20", " ") for name in applications] or ["-", "-"]
        into, out_of = with_app
        return [
            *([routed] if routed else []),
            *(action, *_way(way, bool(routed))),
            *([log] if log else []),
            *(["proto", protocol] if protocol != "any" and not applications else []),
            *("from", source, *_end(source_port, out_of)),
            *("to", destination, *_end(port, into)),
        ]

    def shuts_out(self, peer: str, port: int) -> bool:
        """Whether it would keep a new connection of that address from that TCP port."""
        return self._decides(("deny", "reject"), peer, port)

    def lets_in(self, peer: str, port: int) -> bool:
        """Whether it would let one in."""
        return self._decides(("allow", "limit"), peer, port)

    def _decides(self, actions: tuple[str, ...], peer: str, port: int) -> bool:
        action, protocol, ports, _, _, source, *_, way = self.text.split()
        return (
            action.partition("_")[0] in actions
            and way.startswith("in")
            and protocol in ("tcp", "any")
            and _covers(ports, port)
            and ip_address(peer.partition("%")[0]) in ip_network(source, strict=False)
        )


@dataclass(frozen=True)
class Delta:
    """What to add, what of ours to take away, and what somebody else has added."""

    missing: list[Opening]
    outdated: list[Rule]
    strange: list[Rule]


def delta(
    openings: Sequence[Opening],
    present: Sequence[Rule],
    ipv6: bool = True,
    before: Collection[str] = (),
) -> Delta:
    """What distinguishes the rules that ufw has from those that it is to have.

    `before` are the texts of those that were there before us. They are the owner's: where
    one of them is for the same port, it holds, and a rule of his that equals ours stays his.
    """
    texts = {rule.text for rule in present}
    owners_matches = {rule.match for rule in present if rule.text in before and not rule.is_ours}
    matches = {Rule(text).match for opening in openings for text in opening.texts()}
    others = [rule for rule in present if rule.match not in matches]

    def lacking(opening: Opening) -> list[str]:
        return [
            text
            for text in opening.texts(ipv6)
            if text not in texts and Rule(text).match not in owners_matches
        ]

    return Delta(
        missing=[part for opening in openings for part in opening.only(lacking(opening), ipv6)],
        outdated=[rule for rule in others if rule.is_ours],
        strange=[rule for rule in others if not rule.is_ours],
    )


def opening(text: str) -> Opening:
    """What `8000/tcp` or `22/tcp from 192.168.1.0/24` stands for. Raises ValueError."""
    parts = WRITTEN.fullmatch(text)
    if not parts or not 1 <= int(parts[1]) <= 65535:
        raise ValueError("must be such as 8000/tcp, or 8000/tcp from 192.168.1.0/24")
    if parts[3] is None:
        return Opening(int(parts[1]), parts[2])
    try:
        network = ip_network(parts[3])
    except ValueError as error:
        raise ValueError(f"must name an address or a network: {error}") from error
    if network.prefixlen == 0:
        raise ValueError("must name no network of all addresses: leave `from` out")
    whole = network.prefixlen == network.max_prefixlen
    return Opening(int(parts[1]), parts[2], str(network.network_address if whole else network))


def _way(way: str, routed: bool) -> list[str]:
    """`in_eth0!out_eth1` in words; only a rule for other machines may go without a direction."""
    words = []
    for part in way.split("!"):
        direction, _, interface = part.partition("_")
        words += [direction, "on", interface] if interface else [] if routed else [direction]
    return words


def _end(port: str, application: str) -> list[str]:
    if application != "-":
        return ["app", application]
    return [] if port == "any" else ["port", port]


def _covers(ports: str, port: int) -> bool:
    ends = [part.split(":") for part in ports.split(",")]
    return ports == "any" or any(int(end[0]) <= port <= int(end[-1]) for end in ends)
