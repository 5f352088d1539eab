"""What the owner has said of ssh's jail is found, and is left out of ours."""

from __future__ import annotations

from configparser import RawConfigParser
from pathlib import Path

import pytest
from pyinfra.api import DeployError

from celery_pi.facts import ssh_jail
from celery_pi.facts.ssh_jail import OwnersJail, SshJail
from celery_pi.render import from_template
from celery_pi.settings import Settings
from tasks.bans import JAILS
from tests.helpers.fake import sh

DEBIANS = {
    "jail.conf": "# jails\n[INCLUDES]\nbefore = paths-debian.conf\n[DEFAULT]\nbantime  = 10m\n"
    "findtime = 10m\nmaxretry = 5\nbackend = auto\n#ignoreip = 1\n[sshd]\nport = ssh\n",
    "jail.d/defaults-debian.conf": "[sshd]\nenabled = true\nbackend = systemd\n",
    "jail.d/zz-celery-pi.conf": "[sshd]\nbantime = 600\n",
}


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """fail2ban's directory with Debian's files and ours."""
    monkeypatch.setattr(ssh_jail, "DIRECTORY", str(tmp_path))
    (tmp_path / "jail.d").mkdir()
    for name, text in DEBIANS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def found() -> OwnersJail:
    fact = SshJail()
    return fact.process(sh(fact.command()))


@pytest.mark.usefixtures("etc")
def test_debians_words_and_ours_are_not_the_owners() -> None:
    assert found() == OwnersJail()


def test_machine_without_fail2ban_has_none(etc: Path) -> None:
    for name in DEBIANS:
        (etc / name).unlink()
    assert found() == OwnersJail()


@pytest.mark.parametrize(
    ("file", "text", "keys"),
    [
        ("jail.local", "[sshd]\nbantime = 3600\n", {"bantime"}),
        ("jail.local", "[DEFAULT]\nbantime = 3600\n", {"bantime"}),
        ("jail.local", "[redis-auth]\nbantime = 3600\n", set()),
        ("jail.d/mine.conf", "[sshd]\nMaxRetry: 3\n", {"maxretry"}),
        ("jail.d/mine.local", "[DEFAULT]\nbanaction = ufw\nenabled = true\n", {"banaction"}),
        ("jail.conf", "[DEFAULT]\nbantime = 1h\nmaxretry = 5\nbackend = auto\n", {"bantime"}),
        ("jail.local", "# [sshd]\n#bantime = 1\n[x]\n[sshd]\nmode = ddos\n[y]\nz = 1\n", {"mode"}),
    ],
)
def test_what_he_has_set_for_ssh_or_for_all_is_his(
    etc: Path, file: str, text: str, keys: set[str]
) -> None:
    (etc / file).write_text(text)
    assert set(found().keys) == keys
    assert found().enabled


def test_jail_that_he_has_switched_off_is_not_waited_for(etc: Path) -> None:
    (etc / "jail.local").write_text("[DEFAULT]\nenabled = false\n")
    assert found().enabled, "Debian's own file has it on"
    (etc / "jail.d/z.local").write_text("[sshd]\nenabled = false\n")
    assert not found().enabled
    assert "enabled" in found().keys


def test_addresses_that_he_ignores_are_kept_beside_ours(etc: Path) -> None:
    (etc / "jail.local").write_text("[DEFAULT]\nignoreip = 127.0.0.1/8, 10.0.0.0/8\n  fd00::/8\n")
    assert found().ignored == ("127.0.0.1/8", "10.0.0.0/8", "fd00::/8")
    written = jails(found())
    assert written["sshd"]["ignoreip"] == "::1 127.0.0.1/8 10.0.0.0/8 fd00::/8"
    assert written["celery-pi-flower"]["ignoreip"] == "::1"


def test_file_that_is_no_configuration_is_named(etc: Path) -> None:
    (etc / "jail.local").write_text("[sshd]\n= 3600\n  x\n")
    with pytest.raises(DeployError, match=r"jail\.local is no configuration of fail2ban's"):
        found()


def jails(owners: OwnersJail) -> RawConfigParser:
    """Ours, as they are written where that is the owner's."""
    written = from_template(JAILS, settings=Settings(), ignored=["::1"], jail_of_ssh=owners)
    parser = RawConfigParser(default_section="")
    parser.read_string(written.content)
    return parser


def test_ours_says_nothing_of_what_is_his_and_all_else() -> None:
    whole = set(jails(OwnersJail())["sshd"])
    his = frozenset({"bantime", "maxretry", "backend", "journalmatch", "usedns"})
    assert whole - set(jails(OwnersJail(his))["sshd"]) == his
    assert whole - set(jails(OwnersJail(frozenset({"banaction"})))["sshd"]) == {"action"}
    ours = [jails(owners)["celery-pi-flower"] for owners in (OwnersJail(his), OwnersJail())]
    assert ours[0] == ours[1], "this one is ours"
