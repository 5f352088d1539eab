"""The firewall's rules as text, the look at the machine, and what a plan says, without a Pi."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE

import pytest
from pyinfra.api import StringCommand
from pyinfra.api.exceptions import PyinfraError

from celery_pi.facts import ufw as ufw_facts
from celery_pi.facts.ufw import IN_FORCE, Firewall, FirewallState, variables
from celery_pi.firewall_rules import ANYWHERE, MARK, Opening, Rule, delta, opening
from celery_pi.operations.ufw import SETTINGS, firewall, no_firewall
from tests.helpers.fake import Programs, Run, as_root, run, sh

OURS = MARK.encode().hex()
DEPLOYERS = "SSH_CONNECTION%% "
WEB = [opening("80/tcp"), opening("443/tcp")]


def test_what_the_owner_writes_is_what_ufw_notes_and_takes() -> None:
    assert opening("8000/tcp").texts() == [
        "allow tcp 8000 0.0.0.0/0 any 0.0.0.0/0 in",
        "allow tcp 8000 ::/0 any ::/0 in",
    ]
    assert opening("8000/tcp").texts(ipv6=False) == ["allow tcp 8000 0.0.0.0/0 any 0.0.0.0/0 in"]
    near = opening("53/udp from 192.168.1.0/24")
    assert near.texts() == ["allow udp 53 0.0.0.0/0 any 192.168.1.0/24 in"]
    command = "allow proto udp from 192.168.1.0/24 to any port 53 comment celery-pi"
    assert " ".join(near.words) == command
    assert opening("1/tcp from 10.0.0.1/32") == opening("1/tcp from 10.0.0.1")
    six = opening("1/tcp from FD00:0::1")
    assert six.texts() == ["allow tcp 1 ::/0 any fd00::1 in"]
    assert six.texts(ipv6=False) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "allow tcp 9999 0.0.0.0/0 any 0.0.0.0/0 in",
            "allow in proto tcp from 0.0.0.0/0 to 0.0.0.0/0 port 9999",
        ),
        ("deny any any ::/0 any fd00::1 in", "deny in from fd00::1 to ::/0"),
        (
            "limit_log udp 60:70 10.0.0.1 53 10.0.0.0/8 in_eth0",
            "limit in on eth0 log proto udp from 10.0.0.0/8 port 53 to 10.0.0.1 port 60:70",
        ),
        (
            "reject_log-all any any 0.0.0.0/0 any 0.0.0.0/0 out_eth1",
            "reject out on eth1 log-all from 0.0.0.0/0 to 0.0.0.0/0",
        ),
        (
            "allow tcp 80,443 0.0.0.0/0 any 0.0.0.0/0 Nginx%20Full - in",
            "allow in from 0.0.0.0/0 to 0.0.0.0/0 app Nginx Full",
        ),
        (
            "route:allow any any 0.0.0.0/0 any 10.0.0.1 in_eth0!out_eth1",
            "route allow in on eth0 out on eth1 from 10.0.0.1 to 0.0.0.0/0",
        ),
        (
            "route:deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in",
            "route deny proto tcp from 0.0.0.0/0 to 0.0.0.0/0 port 22",
        ),
    ],
)
def test_rule_of_somebody_elses_is_told_in_the_commands_words(text: str, words: str) -> None:
    assert " ".join(Rule(text).words) == words


@pytest.mark.parametrize(
    ("text", "shuts"),
    [
        ("deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", True),
        ("reject_log any any 0.0.0.0/0 any 192.168.1.0/24 in_eth0", True),
        ("deny tcp 20:30,80 0.0.0.0/0 any 192.168.1.7 in", True),
        ("allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", False),
        ("deny udp 22 0.0.0.0/0 any 0.0.0.0/0 in", False),
        ("deny tcp 23:30 0.0.0.0/0 any 0.0.0.0/0 in", False),
        ("deny tcp 22 0.0.0.0/0 any 10.0.0.0/8 in", False),
        ("deny tcp 22 ::/0 any ::/0 in", False),
        ("deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 out", False),
        ("route:deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", False),
    ],
)
def test_rule_that_would_cut_ssh_off_is_known(text: str, shuts: bool) -> None:
    assert Rule(text).shuts_out("192.168.1.7", 22) is shuts
    if ":" not in text.split()[3]:
        assert not Rule(text).shuts_out("fe80::1%eth0", 22)


def test_only_what_bears_our_mark_is_ours_to_remove() -> None:
    kept = [Rule(text, OURS) for text in WEB[0].texts()]
    unmarked = [Rule(text.replace("allow", "limit")) for text in WEB[1].texts()]
    former, strange = Rule(opening("1/tcp").texts()[0], OURS), Rule(opening("2/tcp").texts()[0])
    found = delta(WEB, [*kept, *unmarked, former, strange])
    assert (found.missing, found.outdated, found.strange) == ([WEB[1]], [former], [strange])
    (half,) = delta(WEB[:1], kept[:1]).missing
    assert half.texts() == WEB[0].texts()[1:]
    assert half.words == [
        "allow",
        "proto",
        "tcp",
        "from",
        "::/0",
        "to",
        "any",
        "port",
        "80",
        "comment",
        "celery-pi",
    ]
    assert delta(WEB[:1], kept[:1], ipv6=False).missing == []


def test_rule_that_was_there_before_us_stays_the_owners() -> None:
    allowed, denied = WEB[0].texts(), [text.replace("allow", "deny") for text in WEB[1].texts()]
    his = [Rule(text) for text in (*allowed, *denied)]
    found = delta(WEB, his, before=[*allowed, *denied])
    assert (found.missing, found.outdated, found.strange) == ([], [], [])
    assert delta(WEB, his).missing == [WEB[1]], "what he says later of a port of ours is undone"
    (six,) = delta(WEB[:1], his[:1], before=allowed).missing
    assert six.texts() == allowed[1:], "his own is not touched to add the other"


@pytest.mark.parametrize(
    ("text", "lets"),
    [
        ("limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", True),
        ("allow any any 0.0.0.0/0 any 192.168.1.0/24 in", True),
        ("allow tcp 80,443 0.0.0.0/0 any 0.0.0.0/0 in", False),
        ("deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", False),
    ],
)
def test_rule_that_lets_ssh_in_is_known(text: str, lets: bool) -> None:
    assert Rule(text).lets_in("192.168.1.7", 22) is lets


def settled(*more: str, ssh: str = "ssh 22", action: str = "allow") -> list[str]:
    """What the look at a machine prints on which there is nothing to do."""
    openings = [Opening(22, "tcp", action=action), *WEB]
    rules = [f"rule {text} comment={OURS}" for every in openings for text in every.texts()]
    values = {key: value.strip('"') for key, (_, value) in SETTINGS.items()} | {"ENABLED": "yes"}
    settings = [f"setting {key} {value}" for key, value in values.items()]
    return [*more, *settings, *rules, "boot", "loaded", "ipv6", ssh]


def look(shown: list[str], *, only_ours: bool = False) -> Run:
    task = lambda: firewall(openings=WEB, only_ours=only_ours)  # noqa: E731
    return run(task, answers={"ss -Hltne": shown}, dry=True)


def test_machine_that_is_as_declared_is_left_alone() -> None:
    assert look(settled()).planned == [False]
    assert "not declared" not in look(settled()).shown


@pytest.mark.parametrize("line", range(len(settled()) - 2))
def test_each_thing_that_lacks_is_planned(line: int) -> None:
    shown = settled()
    del shown[line]
    assert look(shown).planned == [True]


@pytest.mark.parametrize("value", ["ACCEPT", "REJECT", "no", "off", "medium"])
def test_other_settings_are_planned(value: str) -> None:
    for line in [line for line in settled() if line.startswith("setting")]:
        changed = line.rpartition(" ")[0] + f" {value}"
        expected = changed.lower() != line.lower()
        shown = [changed if other == line else other for other in settled()]
        assert look(shown).planned == [expected], changed


def test_plan_tells_what_is_added_removed_and_loaded() -> None:
    former = f"rule {opening('1/tcp').texts()[0]} comment={OURS}"
    shown = look([former, *settled(ssh="ssh 2222")[:-4], "ssh 2222"]).shown
    assert "Will add the rule allow proto tcp from any to any port 2222 comment celery-pi" in shown
    assert "Will remove the rule allow in proto tcp from 0.0.0.0/0 to 0.0.0.0/0 port 1" in shown
    assert "Will remove the rule allow in proto tcp from ::/0 to ::/0 port 22" in shown
    assert "Will load the rules into the kernel" in shown


def test_strange_rule_is_told_once_and_goes_only_with_the_setting() -> None:
    shown = settled("rule allow tcp 9999 0.0.0.0/0 any 0.0.0.0/0 in")
    told = run(lambda: firewall(openings=WEB), answers={"ss -Hltne": shown})
    assert (told.planned, told.changed) == ([False], [False])
    assert told.shown.count("not declared: allow in proto tcp from 0.0.0.0/0") == 1
    removed = look(shown, only_ours=True)
    assert removed.planned == [True]
    assert "Will remove the rule allow in proto tcp from 0.0.0.0/0" in removed.shown
    assert "not declared" not in removed.shown


def test_rule_that_would_cut_the_session_is_refused_unless_it_goes() -> None:
    deny, session = "rule deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in_eth0", "session 10.0.0.1 22"
    with pytest.raises(PyinfraError, match=r"would keep 10\.0\.0\.1, from where this deploy"):
        look([deny, *settled(session)])
    assert look([deny, *settled(session)], only_ours=True).planned == [True]
    assert look([deny, *settled()]).planned == [False], "nobody comes by ssh"
    assert look([*settled(session), deny]).planned == [False], "ours stands before it"
    assert look([deny, session]).planned == [True], "ours will stand before it"


@pytest.mark.parametrize(
    ("lines", "ports"),
    [
        ([], (22,)),
        (["ssh 2222"], (2222,)),
        (["ssh 22", "ssh 22", "session fd00::1 2200"], (22, 2200)),
    ],
)
def test_ssh_is_open_where_it_listens_and_where_this_run_comes_in(
    lines: list[str], ports: tuple[int, ...]
) -> None:
    shown = look(lines).shown
    for port in (22, 2200, 2222):
        assert (f"allow proto tcp from any to any port {port} " in shown) is (port in ports)


def limited(shown: list[str], *, known: Sequence[str] = ()) -> Run:
    """A plan for a machine without bans, to which these machines have deployed."""
    answers = {"ss -Hltne": shown, DEPLOYERS: [*known, "now "]}
    task = lambda: firewall(openings=[*WEB, opening("22/tcp")], limits=True)  # noqa: E731
    return run(task, answers=answers, dry=True)


def test_port_of_ssh_that_is_allowed_too_is_limited_where_there_are_no_bans() -> None:
    assert limited(settled(action="limit")).planned == [False]
    assert limited(settled()).planned == [True]


def test_machine_that_deploys_comes_before_the_limit() -> None:
    near = f"rule {opening('22/tcp from 192.0.2.7').texts()[0]} comment={OURS}"
    assert limited([near, *settled(action="limit")], known=["192.0.2.7"]).planned == [False]
    told = limited(settled(action="limit"), known=["192.0.2.7"])
    assert "Will add the rule allow proto tcp from 192.0.2.7 to any port 22" in told.shown
    assert "limit" not in told.shown.partition("Will add")[2]
    # Where the limit itself comes anew, it would stand before what is there.
    told = limited([near, *settled()], known=["192.0.2.7"])
    assert "Will remove the rule allow in proto tcp from 192.0.2.7" in told.shown
    added = told.shown.rpartition("Will add the rule limit")[2]
    assert "Will add the rule allow proto tcp from 192.0.2.7" in added


def test_limit_of_the_owners_stays_and_lets_the_deploying_machine_in() -> None:
    his = [f"rule limit tcp 22 {any} any {any} in" for any in ANYWHERE]
    before = [f"before {line}" for line in (*his, "setting ENABLED yes")]
    rest = [line for line in settled() if " 22 " not in line]
    answers = {"ss -Hltne": [*his, *rest, *before], DEPLOYERS: ["192.0.2.7", "now "]}
    told = run(lambda: firewall(openings=WEB), answers=answers, dry=True).shown
    assert "Will add the rule allow proto tcp from 192.0.2.7 to any port 22" in told
    assert "any port 22 comment" not in told.replace("from 192.0.2.7 to any port 22", "")
    assert "Will remove" not in told


def test_what_was_there_is_kept_at_the_first_change_alone() -> None:
    def kept(shown: list[str]) -> str:
        done = run(lambda: firewall(openings=WEB), answers={"ss -Hltne": shown})
        return "".join(command for command in done.commands if "record=" in command)

    his = "rule allow tcp 8123 0.0.0.0/0 any 0.0.0.0/0 in comment=6869"
    first = kept([his, "setting ENABLED yes", "ssh 22"])
    assert f"record='setting ENABLED yes\n{his}\n'" in first
    assert kept([his, *settled()[1:]]) == "", "a rule of ours is there"
    assert kept([his, f"before {his}", "ssh 22"]) == ""


def test_rule_of_his_that_would_cut_the_session_is_refused_at_the_first_change() -> None:
    deny, session = "rule deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", "session 10.0.0.1 22"
    with pytest.raises(PyinfraError, match=r"would keep 10\.0\.0\.1, from where this deploy"):
        look([deny, session])
    assert look([deny, session, *settled()[1:]]).planned == [True], "it came after us: it goes"
    with pytest.raises(PyinfraError, match="would keep"):
        look([deny, session, *settled()[1:], f"before {deny}"])


def test_without_a_firewall_only_what_is_ours_goes() -> None:
    def planned(shown: list[str]) -> list[bool]:
        return run(lambda: no_firewall(), answers={"ss -Hltne": shown}, dry=True).planned

    assert planned(settled()) == [True]
    assert planned(["setting ENABLED yes", "rule allow tcp 1 0.0.0.0/0 any 0.0.0.0/0 in"]) == [
        False
    ]
    assert planned([]) == [False]


def off(shown: list[str]) -> Run:
    return run(lambda: no_firewall(), answers={"ss -Hltne": shown})


def test_firewall_of_the_owners_goes_on_without_ours() -> None:
    his = "rule allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in"
    was = ["before setting ENABLED yes", "before setting DEFAULT_FORWARD_POLICY ACCEPT"]
    was += ["before setting LOGLEVEL medium", f"before {his}"]
    done = off([his, *settled("session 10.0.0.1 22"), *was])
    (changed,) = [command for command in done.commands if 'rm -f "$before"' in command]
    assert "ufw disable" not in changed
    assert "ufw --force enable" in changed
    assert """put /etc/default/ufw DEFAULT_FORWARD_POLICY '"ACCEPT"'""" in changed
    assert "ufw logging medium" in changed
    assert "put /etc/default/ufw IPV6" not in changed, "of which nothing was told"
    assert off([his, "setting ENABLED yes"]).changed == [False]


def test_firewall_that_was_off_before_us_is_off_again() -> None:
    done = off([*settled(), "before setting ENABLED no", "before setting IPV6 no"])
    (changed,) = [command for command in done.commands if 'rm -f "$before"' in command]
    assert "ufw disable" in changed
    assert "enable >&2" not in changed
    assert "put /etc/default/ufw IPV6 no" in changed


def test_firewall_of_the_owners_that_would_cut_the_session_is_refused() -> None:
    was = ["before setting ENABLED yes", "before setting DEFAULT_INPUT_POLICY DROP"]
    with pytest.raises(PyinfraError, match="ufw allow 22/tcp, or ufw disable"):
        off([*settled("session 10.0.0.1 22"), *was])
    assert off([*settled("session 10.0.0.1 22"), was[0], was[1].replace("DROP", "ACCEPT")]).planned
    assert off([*settled(), *was]).planned == [True], "nobody comes by ssh"


def test_machine_without_ufw_is_no_error() -> None:
    assert FirewallState().process([]) == Firewall(ipv6=False)


KERNEL = """*filter
:INPUT DROP [0:0]
:FORWARD DROP [1:2]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:ufw{v}-before-input - [0:0]
:ufw{v}-user-input - [0:0]
-A FORWARD -j DOCKER-USER
{ways}
-A ufw{v}-before-input -i lo -j ACCEPT
-A ufw{v}-before-input -j ufw{v}-user-input
-A ufw{v}-user-input -p tcp -m tcp --dport 80 -j ACCEPT
-A ufw{v}-logging-deny -j RETURN
COMMIT
"""
CHAINS = ("before-logging", "before", "after", "after-logging", "reject", "track")


@pytest.fixture
def ufw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of ufw's, and a kernel in `kernel` and `kernel6` that holds them."""
    monkeypatch.setattr(ufw_facts, "CONF", str(tmp_path))
    monkeypatch.setattr(ufw_facts, "IPV6", str(tmp_path / "before6.rules"))
    programs = Programs(tmp_path, monkeypatch)
    for v in ("", "6"):
        ways = [
            f"-A {base} -j ufw{v}-{chain}-{base.lower()}"
            for base in ("INPUT", "FORWARD", "OUTPUT")
            for chain in CHAINS
        ]
        (tmp_path / f"kernel{v}").write_text(KERNEL.format(v=v, ways="\n".join(ways)))
        (tmp_path / f"before{v}.rules").write_text(f"-A ufw{v}-before-input -i lo -j ACCEPT\n")
        (tmp_path / f"after{v}.rules").write_text("# none\n*nat\n-A POSTROUTING -j MASQUERADE\n")
        user = (
            f"-A ufw{v}-user-input -p tcp --dport 80 -j ACCEPT\n-I ufw{v}-logging-deny -j RETURN\n"
        )
        (tmp_path / f"user{v}.rules").write_text(user)
        programs.add(f"ip{v}tables-save", f"cat {tmp_path}/kernel{v}")
    return tmp_path


LISTEN = """
import ctypes, os, socket, sys
if sys.argv[1] != "0":
    os.setresgid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
    os.setresuid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
listener = socket.create_server(("127.0.0.1", 0))
ctypes.CDLL(None).prctl(15, b"sshd")  # PR_SET_NAME
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@as_root
@pytest.mark.parametrize(("user", "is_known"), [("0", True), ("33", False)])
def test_port_of_ssh_is_one_on_which_root_listens(user: str, is_known: bool) -> None:
    """Any process may have that name."""
    command = ("/usr/bin/python3", "-c", LISTEN, user)
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        found = sh(StringCommand(ufw_facts.SSH, "find_ssh"))
        server.communicate("")
    assert (f"ssh {port}" in found) is is_known


def in_force() -> bool:
    look = StringCommand(variables(), IN_FORCE, "if in_force; then echo yes; fi")
    return sh(look) == ["yes"]


@pytest.mark.parametrize(
    "lost",
    [
        *(":INPUT DROP", ":OUTPUT ACCEPT", "-A INPUT -j ufw{v}-before-input"),
        *("-A FORWARD -j ufw{v}-track", "-A ufw{v}-user-input", "-A ufw{v}-logging-deny"),
        *("-A ufw{v}-before-input -j", "-A ufw{v}-before-input -i"),
    ],
)
def test_what_the_kernel_has_lost_is_seen(ufw: Path, lost: str) -> None:
    assert in_force()
    for v in ("", "6"):
        kernel = ufw / f"kernel{v}"
        whole = kernel.read_text()
        assert lost.format(v=v) in whole
        kernel.write_text(
            "\n".join(x for x in whole.split("\n") if not x.startswith(lost.format(v=v)))
        )
        assert not in_force()
        kernel.write_text(whole)
    assert in_force()


def test_kernel_that_holds_nothing_or_too_much_is_seen(ufw: Path) -> None:
    kernel = ufw / "kernel6"
    whole = kernel.read_text()
    kernel.write_text("")
    assert not in_force()
    kernel.write_text(whole + "-A ufw6-user-input -j ACCEPT\n")
    assert not in_force()
    (ufw / "before6.rules").unlink()
    assert in_force(), "a machine without IPv6 needs no rules for it"


def test_rules_that_were_added_and_not_loaded_are_seen(ufw: Path) -> None:
    with (ufw / "user.rules").open("a") as rules:
        rules.write("-A ufw-user-input -p tcp --dport 22 -j ACCEPT\n")
    assert not in_force()
