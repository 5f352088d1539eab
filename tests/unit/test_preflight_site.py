"""The site is looked at before anything is touched: each finding is a sentence with its remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from celery_pi.facts.ufw import Firewall
from celery_pi.firewall_rules import MARK, Opening, Rule
from celery_pi.preflight import checkers
from celery_pi.preflight.apt import AptPlan, apt_problems, apt_warnings, needed_packages
from celery_pi.preflight.checkers import Checks, OwnersChecks, checks_found, rotation
from celery_pi.preflight.listeners import (
    Listener,
    cut_off,
    cut_off_warnings,
    listener,
    redis_problems,
    tunnel_problems,
    web_problems,
)
from celery_pi.preflight.redis_clients import Client, RedisUsers, Users, users_warnings
from celery_pi.preflight.surroundings import (
    Surroundings,
    SurroundingsOf,
    filter_problems,
    ground_problems,
)
from celery_pi.settings import Settings
from tests.helpers.fake import Programs, sh

OFF = Firewall()
ANY = "0.0.0.0"  # noqa: S104  of a listener
OURS = Rule("allow tcp 80 0.0.0.0/0 any 0.0.0.0/0 in", MARK.encode().hex())
THEIRS = Rule("allow tcp 1883 0.0.0.0/0 any 0.0.0.0/0 in")
CLOSED = {"ENABLED": "yes", "DEFAULT_INPUT_POLICY": "DROP"}
MQTT = Listener("tcp", ANY, 1883, "mosquitto", "7")
REDIS = Listener("tcp", "127.0.0.1", 6379, "redis-server", "9")


# -- listeners


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            'tcp LISTEN 0 511 127.0.0.1:6379 0.0.0.0:* users:(("redis-server",pid=69,fd=8))',
            Listener("tcp", "127.0.0.1", 6379, "redis-server", "69"),
        ),
        (
            'tcp LISTEN 0 9 [::]:80 [::]:* users:(("nginx",pid=5,fd=7),("nginx",pid=4,fd=7))',
            Listener("tcp", "::", 80, "nginx", "5"),
        ),
        ("udp UNCONN 0 0 0.0.0.0:51820 0.0.0.0:*", Listener("udp", ANY, 51820)),
        (
            'udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:* users:(("systemd-resolve",pid=1,fd=1))',
            Listener("udp", "127.0.0.53%lo", 53, "systemd-resolve", "1"),
        ),
        (
            'tcp LISTEN 0 9 *:8123 *:* users:(("Home Assistant",pid=3,fd=1))',
            Listener("tcp", "*", 8123, "Home Assistant", "3"),
        ),
    ],
)
def test_line_of_ss_is_a_listener(line: str, found: Listener) -> None:
    assert listener(line) == found


@pytest.mark.parametrize(
    "line",
    [
        "",
        'name",pid=7,fd=3))',
        "tcp LISTEN",
        "tcp LISTEN 0 5 nowhere:80 0.0.0.0:*",
        "tcp LISTEN 0 5 127.0.0.1:x 0.0.0.0:*",
    ],
)
def test_line_that_a_process_has_made_by_its_name_is_none(line: str) -> None:
    assert listener(line) is None


@pytest.mark.parametrize(
    ("found", "units", "settings", "sentence"),
    [
        (REDIS, {"9": "redis-server.service"}, {}, None),
        (REDIS, {}, {}, None),
        (
            REDIS,
            {"9": "docker-4f.scope"},
            {},
            "redis-server (docker-4f.scope) listens on port 6379, where Redis is to: set "
            "redis_port = 6390, or stop what listens there for good",
        ),
        (
            Listener("tcp", ANY, 6379, "docker-proxy", "5"),
            {},
            {},
            "docker-proxy listens on port 6379, where Redis is to: set redis_port = 6390, or stop "
            "what listens there for good",
        ),
        (
            Listener("tcp", "*", 6380, "valkey-server", "5"),
            {"5": "valkey.service"},
            {"redis_tls": True},
            "valkey-server (valkey.service) listens on port 6380, where Redis is to: set "
            "redis_tls_port = 6390, or stop what listens there for good",
        ),
        (Listener("tcp", ANY, 6379, "docker-proxy", "5"), {}, {"redis_port": 7000}, None),
        (Listener("tcp", ANY, 6379, "docker-proxy", "5"), {}, {"redis_socket": True}, None),
        (Listener("tcp", "192.168.1.2", 6379, "docker-proxy", "5"), {}, {}, None),
        (Listener("udp", ANY, 6379, "game", "5"), {}, {}, None),
    ],
)
def test_somebody_elses_port_is_refused(
    found: Listener, units: dict[str, str], settings: dict[str, Any], sentence: str | None
) -> None:
    said = list(redis_problems([found, MQTT], units, Settings(**settings)))
    assert said == ([sentence] if sentence else [])


def test_proposed_port_is_free() -> None:
    taken = [Listener("tcp", "127.0.0.1", port, "x", "1") for port in (6379, 6390, 6391)]
    (sentence,) = redis_problems(taken, {}, Settings())
    assert "redis_port = 6392" in sentence


def test_stopped_web_server_that_starts_with_the_machine_is_refused() -> None:
    running = [Listener("tcp", "*", 8080, "apache2", "3")]
    assert list(web_problems(running, ["apache2"], Settings())) == []
    assert list(web_problems([], ["apache2"], Settings(nginx_server=False))) == []
    (sentence,) = web_problems([], ["apache2"], Settings())
    assert "`systemctl disable apache2`, or set flower = False" in sentence


@pytest.mark.parametrize(
    ("one", "openings", "now", "only_ours", "cut"),
    [
        (MQTT, [], OFF, False, True),
        (Listener("udp", ANY, 51820), [], OFF, False, True),
        (Listener("tcp", "::", 445, "smbd", "1"), [], OFF, False, True),
        # Nobody else reaches it, or somebody may.
        (Listener("tcp", "127.0.0.1", 1883, "mosquitto", "7"), [], OFF, False, False),
        (Listener("tcp", "::1", 1883, "mosquitto", "7"), [], OFF, False, False),
        (MQTT, [Opening(1883, "tcp")], OFF, False, False),
        (MQTT, [Opening(1883, "udp")], OFF, False, True),
        (MQTT, [], Firewall(ssh=(1883,)), False, False),
        (Listener("tcp", "*", 22, "sshd", "1"), [], OFF, False, False),
        # What ufw lets in by itself, and past which it does not come.
        (Listener("udp", ANY, 68, "dhclient", "1"), [], OFF, False, False),
        (Listener("udp", ANY, 40123, "avahi-daemon", "1"), [], OFF, False, False),
        (Listener("tcp", ANY, 9000, "docker-proxy", "1"), [], OFF, False, False),
        # ufw is on already: what it keeps out is not cut off by us.
        (MQTT, [], Firewall(settings=CLOSED), False, False),
        (MQTT, [], Firewall(settings=CLOSED, rules=(OURS,)), True, False),
        (MQTT, [], Firewall(settings=CLOSED, rules=(THEIRS,)), False, False),
        (MQTT, [], Firewall(settings=CLOSED, rules=(THEIRS,)), True, True),
        # Off with rules of the owner's, which count once it is on.
        (MQTT, [], Firewall(rules=(THEIRS,)), False, False),
        (MQTT, [], Firewall(rules=(THEIRS,)), True, True),
    ],
)
def test_what_the_firewall_newly_cuts_off_is_known(
    one: Listener, openings: list[Opening], now: Firewall, only_ours: bool, cut: bool
) -> None:
    assert cut_off([one, REDIS], openings, now, only_ours) == ([one] if cut else [])


def test_each_listener_is_told_in_a_line_with_what_to_write() -> None:
    twice = [MQTT, MQTT._replace(address="::"), Listener("udp", ANY, 51820)]
    cut = cut_off([*twice, Listener("tcp", "*", 5555, "flower", "1")], [], OFF, False)
    assert list(cut_off_warnings(cut)) == [
        'the firewall will cut mosquitto on 1883/tcp off from other machines: add "1883/tcp" to '
        "firewall_allow if they need it",
        "the firewall will cut flower on 5555/tcp off from other machines: give it another port if "
        "they need it, since this one is never let in",
        "the firewall will cut the kernel (WireGuard?) on 51820/udp off from other machines: add "
        '"51820/udp" to firewall_allow if they need it',
    ]


@pytest.mark.parametrize(
    ("peer", "cut", "wireguard", "refused"),
    [
        ("10.6.0.2", [Listener("udp", ANY, 51820)], {"wg0": 51820}, True),
        ("10.6.0.2", [Listener("udp", ANY, 51820)], {}, True),
        ("10.6.0.2", [Listener("udp", ANY, 1234), MQTT], {"wg0": 51820}, False),
        ("10.6.0.2", [], {"wg0": 51820}, False),
        ("192.168.1.9", [Listener("udp", ANY, 51820)], {"wg0": 51820}, False),
        ("fe80::1%eth0", [Listener("udp", ANY, 51820)], {"wg0": 51820}, False),
    ],
)
def test_tunnel_by_which_the_deploy_comes_is_not_cut(
    peer: str, cut: list[Listener], wireguard: dict[str, int], refused: bool
) -> None:
    now = Firewall(session=(peer, 22))
    said = list(tunnel_problems(cut, {"wg0": ["10.6.0.1/24", "fd11::1/64"]}, wireguard, now))
    assert bool(said) == refused
    if said:
        assert 'add "51820/udp" to firewall_allow' in said[0]
    assert not list(tunnel_problems(cut, {"wg0": ["10.6.0.1/24"]}, wireguard, Firewall()))


# -- other firewalls


@pytest.mark.parametrize(
    ("seen", "now", "said"),
    [
        (Surroundings(), OFF, None),
        (Surroundings(filters=("netfilter-persistent",)), OFF, "iptables-persistent has a firew"),
        (
            Surroundings(),
            Firewall(settings={"DEFAULT_FORWARD_POLICY": "ACCEPT"}),
            "ufw passes",
        ),
        (Surroundings(), Firewall(settings={"DEFAULT_FORWARD_POLICY": "DROP"}), None),
        (Surroundings(forwarding=("/etc/sysctl.d/99-pivpn.conf",)), OFF, "99-pivpn.conf), and the"),
        (Surroundings(forwarding=("/etc/sysctl.conf",), docker=True), OFF, None),
        (Surroundings(forwarding=("/etc/sysctl.conf",)), Firewall(settings=CLOSED), None),
    ],
)
def test_other_firewalls_and_forwarding_are_refused(
    seen: Surroundings, now: Firewall, said: str | None
) -> None:
    found = list(filter_problems(seen, now))
    assert len(found) == bool(said)
    assert all("set firewall = False, or " in sentence for sentence in found)
    assert (said or "") in "".join(found)


def test_surroundings_are_read_from_what_the_machine_prints() -> None:
    seen = SurroundingsOf().process(
        [
            'socket tcp LISTEN 0 5 0.0.0.0:1883 0.0.0.0:* users:(("mosquitto",pid=7,fd=3))',
            "unit 9 redis-server.service",
            "unit 10 ",
            "tunnel wg0 10.6.0.1/24",
            "tunnel wg0 fd11::1/64",
            "wireguard wg0\t51820",
            "docker",
            "forwards /etc/sysctl.conf",
            "installed nginx",
            "installed apache2",
            "enabled apache2",
            "enabled nginx",
            "filters firewalld",
            "root ext2/ext3",
            "no-modules",
        ]
    )
    assert seen == Surroundings(
        listeners=(MQTT,),
        units={"9": "redis-server.service", "10": ""},
        tunnels={"wg0": ["10.6.0.1/24", "fd11::1/64"]},
        wireguard={"wg0": 51820},
        web_servers=("nginx", "apache2"),
        enabled=("apache2",),
        filters=("firewalld",),
        forwarding=("/etc/sysctl.conf",),
        docker=True,
        root="ext2/ext3",
        has_modules=False,
    )


@pytest.mark.parametrize(
    ("seen", "settings", "said"),
    [
        (Surroundings(root="ext2/ext3"), {}, []),
        (Surroundings(root="overlayfs"), {}, ["its root is an overlay"]),
        (Surroundings(has_modules=False), {}, ["its kernel has been replaced"]),
        (Surroundings(has_modules=False), {"firewall": False}, []),
    ],
)
def test_ground_that_would_not_hold_is_refused_and_a_containers_is_its_hosts(
    seen: Surroundings, settings: dict[str, Any], said: list[str]
) -> None:
    found = list(ground_problems(seen, Settings(**settings), is_container=False))
    assert [sentence[: len(words)] for sentence, words in zip(found, said, strict=True)] == said
    assert not list(ground_problems(seen, Settings(**settings), is_container=True))


# -- apt


def test_what_apt_would_remove_is_refused_by_name() -> None:
    plan = ["removes valkey-redis-compat", "removes iptables-persistent", "busy apt-get"]
    (sentence,) = apt_problems(plan)
    assert "apt would remove valkey-redis-compat to install" in sentence
    assert list(apt_warnings(plan)) == ["apt-get is installing packages; the deploy waits for it"]


@pytest.mark.parametrize(
    ("line", "is_told"),
    [
        ("Unmet dependencies. Try 'apt --fix-broken install' with no packages", True),
        ("Unable to locate package ufw", False),
        ("Package 'ufw' has no installation candidate", False),
        ("dpkg was interrupted, you must manually run 'dpkg --configure -a'", False),
    ],
)
def test_broken_packages_are_refused_and_what_the_deploy_mends_is_not(
    line: str, is_told: bool
) -> None:
    assert len(list(apt_problems([f"error {line}"]))) == is_told


def test_apt_is_asked_for_what_is_missing_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("apt-get", "echo 'Remv valkey [1]'; echo 'E: Unmet dependencies.'")
    there, missing = f"there:{tmp_path}", f"missing:{tmp_path}/nowhere"
    assert sh(AptPlan().command(packages=[there])) == []
    assert programs.calls() == []
    said = sh(AptPlan().command(packages=[there, missing]))
    assert said[-2:] == ["removes valkey", "error Unmet dependencies."]
    (call,) = programs.calls()
    assert " -s " in call
    assert call.endswith("install missing")


def test_only_packages_of_what_is_switched_on_are_asked_for() -> None:
    off = Settings(firewall=False, flower=False, bans=False)
    assert [one.partition(":")[0] for one in needed_packages(off)] == ["redis-server", "logrotate"]
    assert {one.partition(":")[0] for one in needed_packages(Settings())} > {
        "ufw",
        "nginx",
        "fail2ban",
    }


# -- Redis' users

CLIENTS = [
    "keys 0 12",
    "keys 1 120",
    "client id=6 addr=127.0.0.1:55004 laddr=127.0.0.1:6379 fd=11 name= db=1 lib-name=redis-py",
    "client id=7 addr=127.0.0.1:55006 laddr=127.0.0.1:6379 fd=12 name= db=0 lib-name=redis-py",
    "client id=8 addr=127.0.0.1:55008 laddr=127.0.0.1:6379 fd=13 name= db=0 lib-name=",
    "client id=9 addr=192.168.1.7:4000 laddr=127.0.0.1:6379 fd=14 name=desk db=0 lib-name=",
    "from 127.0.0.1:55004 yes www-data gunicorn.service gunicorn: worker",
    "from 127.0.0.1:55006 yes www-data celery.service celery",
    "from 127.0.0.1:55008 no nodered nodered.service node-red",
]


def test_other_databases_and_strangers_are_told_by_name() -> None:
    users = RedisUsers().process(CLIENTS)
    assert users.keys == {0: 12, 1: 120}
    database, strangers = users_warnings(users, Settings())
    assert database.startswith(
        "database 1 of Redis (120 keys, used by gunicorn: worker of www-data (gunicorn.service)) "
    )
    assert "redis_app_keys" in database
    assert strangers.startswith(
        "192.168.1.7:4000 (desk), node-red of nodered (nodered.service) is connected to Redis "
    )
    _, strangers = users_warnings(users, Settings(), ["nodered.service"])  # one of the site's
    assert strangers.startswith("192.168.1.7:4000 (desk) is connected to Redis ")


@pytest.mark.parametrize(
    ("users", "settings", "told"),
    [
        (Users({}), {}, 0),
        (Users({0: 5}, (Client(0, "celery", True),)), {}, 0),
        (Users({0: 5}), {"redis_database": 3}, 1),
        (Users({}, closed=True), {}, 1),
    ],
)
def test_app_alone_in_its_database_is_not_told(
    users: Users, settings: dict[str, Any], told: int
) -> None:
    assert len(list(users_warnings(users, Settings(**settings)))) == told


# -- the owner's configurations


@pytest.mark.parametrize(
    ("said", "settings", "problem", "told"),
    [
        ({}, {}, None, None),
        (
            {"nginx": ['2026/11/29 22:24:11 [emerg] 253#2: unknown directive "foo" in /x:1']},
            {},
            "nginx would not start again with its own configuration ([emerg] unknown directive "
            '"foo" in /x:1): mend it, or set flower = False',
            None,
        ),
        ({"nginx": ["[emerg] x"]}, {"flower": False}, None, "nginx finds its own configuration"),
        (
            {"fail2ban": ["jail d: No failure-id group in '^x$'"]},
            {},
            "fail2ban would not start again with its own configuration (jail d: No failure-id "
            "group in '^x$'): mend it, or set bans = False",
            None,
        ),
        ({"fail2ban": ["jail d: x"]}, {"bans": False}, None, "fail2ban finds its own"),
        ({"apache2": ["AH00526: Syntax error on line 3"]}, {}, None, "Apache finds its own"),
        (
            {"apache2": ["AH00526: Syntax error on line 3"]},
            {"app_units": ("apache2.service",)},
            "and app_units names it: mend it",
            None,
        ),
        (
            {"sudo": ["/etc/sudoers: parsed OK", "/etc/x:1: syntax error"]},
            {},
            None,
            "x:1: syn",
        ),
        ({"logrotate": ["skipping /var/log/x because"]}, {}, None, "logrotate has an error of its"),
    ],
)
def test_fault_is_a_refusal_where_the_deploy_starts_the_daemon_again(
    said: dict[str, list[str]],
    settings: dict[str, Any],
    problem: str | None,
    told: str | None,
) -> None:
    found = checks_found(Checks(said), Settings(**settings))
    assert (len(found.problems), len(found.warnings)) == (bool(problem), bool(told))
    assert (problem or "") in "".join(found.problems)
    assert (told or "") in "".join(found.warnings)


@pytest.mark.parametrize(
    ("path", "errors", "is_refused"),
    [
        ("/var/www/observations_nids/logs/celery.log", [], True),
        ("/var/www/observations_nids/logs/celery*.log", [], True),
        ("/var/www/*/logs/*.log", [], True),
        ("/var/www/observations_nids/logs/old/celery.log", [], False),
        ("/var/log/*.log", [], False),
        ("/var/www/observations_nids/logs/[a-d]*.log", [], True),
        (
            "/var/www/observations_nids/logs/x*",
            ["/etc/logrotate.d/n:1 duplicate log entry for /var/www/observations_nids/logs/x.log"],
            True,
        ),
    ],
)
def test_log_that_both_rotate_is_refused(path: str, errors: list[str], is_refused: bool) -> None:
    checks = Checks({"logrotate": errors} if errors else {}, (("/etc/logrotate.d/n", path),))
    found = checks_found(checks, Settings())
    assert len(found.problems) == is_refused
    assert found.warnings == []
    for sentence in found.problems:
        assert sentence.startswith(f"/etc/logrotate.d/n rotates {path}, which our ")


class Machine:
    """A machine of one's own, with stand-ins for nginx and the way to look at a copy: what is good
    has no line with `bad`."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs = Programs(directory, monkeypatch)
        self.config = directory / "etc/nginx"
        self.stamp = directory / "var/checked"
        self.pid = directory / "nginx.pid"
        self.config.mkdir(parents=True)
        (self.config / "nginx.conf").write_text("fine\n")
        (self.config / "celery-pi.conf").write_text("ours\n")
        text = checkers.CHECK.replace("/etc/", f"{directory}/etc/")
        text = text.replace("/usr/sbin/sshd", f"{directory}/sshd")
        text = text.replace("/run/nginx.pid", str(self.pid))
        for name in ("apache2ctl", "visudo", "logrotate", "fail2ban-client"):
            text = text.replace(f"command -v {name}", "false")
        monkeypatch.setattr(checkers, "CHECK", text)
        monkeypatch.setattr(checkers, "STAMP", str(self.stamp))
        monkeypatch.setattr(checkers, "CHECKED_PATHS", (str(self.config),))
        monkeypatch.setattr(checkers, "rotation", lambda _: "x")
        self.programs.add("nginx", f"! cat {self.config}/*.conf | grep bad")
        self.programs.add("unshare", 'shift 5; ! cat "$1"/*.conf | grep bad')

    def look(self) -> Checks:
        fact = OwnersChecks()
        return fact.process(sh(fact.command(candidate="x")))


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_good_configuration_is_good_and_a_bad_one_of_the_owners_is_not(pi: Machine) -> None:
    assert pi.look() == Checks({})
    (pi.config / "nginx.conf").write_text("bad line\n")
    assert pi.look() == Checks({"nginx": ["bad line"]})


def test_bad_file_of_ours_is_no_fault_of_the_owners(pi: Machine) -> None:
    (pi.config / "celery-pi.conf").write_text("bad of ours\n")
    assert pi.look() == Checks({})
    assert (pi.config / "celery-pi.conf").read_text() == "bad of ours\n"


def test_nothing_is_asked_again_until_something_changes(pi: Machine) -> None:
    note = checkers.noted(Settings())
    sh(note)
    before = pi.stamp.stat()
    assert pi.look() == Checks({}, good=True)
    assert pi.programs.calls() == []
    sh(note)
    assert pi.stamp.stat() == before
    with (pi.config / "nginx.conf").open("a") as file:
        file.write("# more\n")  # another size, as two times of one tick are the same
    assert pi.look() == Checks({})
    assert [call.split()[0] for call in pi.programs.calls()] == ["nginx"]
    sh(note)
    assert pi.look() == Checks({}, good=True)


def test_nginx_leaves_no_file_of_a_process_behind(pi: Machine) -> None:
    pi.programs.add("nginx", f"touch {pi.pid}")
    pi.look()
    assert not pi.pid.exists()
    pi.pid.write_text("1")
    pi.look()
    assert pi.pid.read_text() == "1"


def test_file_for_logrotate_is_the_one_that_the_deploy_installs() -> None:
    assert rotation(Settings(app_dir="/srv/birds")).count("/srv/birds/logs/*.log {") == 1
