"""How the owner has configured fail2ban's jail for ssh."""

from __future__ import annotations

from configparser import Error, RawConfigParser
from dataclasses import dataclass

from pyinfra.api import DeployError, FactBase, StringCommand

from celery_pi.shell import assign, script

DIRECTORY = "/etc/fail2ban"
SSH = "sshd"
# Values in Debian's own file; another one in it is the owner's.
STOCK = {"bantime": "10m", "findtime": "10m", "maxretry": "5"}
OF_STOCK = (*STOCK, "ignoreip")

SHOW = script("ssh_jail")


@dataclass(frozen=True)
class OwnersJail:
    """Names of what he has set for ssh's jail, there or for all jails, and what matters of it."""

    keys: frozenset[str] = frozenset()
    enabled: bool = True
    ignored: tuple[str, ...] = ()


class SshJail(FactBase[OwnersJail]):
    """The owner's words on ssh's jail, read in one command. Raises DeployError for a file that is
    no configuration."""

    default = OwnersJail

    def command(self) -> StringCommand:
        return StringCommand(assign(directory=DIRECTORY), SHOW)

    def process(self, output: list[str]) -> OwnersJail:
        sections: dict[str, dict[str, str]] = {"DEFAULT": {}, SSH: {}}
        for path, text in _files(output).items():
            for section, values in _sections(path, text).items():
                sections[section] |= values
        merged = {**sections["DEFAULT"], **sections[SSH]}
        ignored = merged.get("ignoreip", "").replace(",", " ").split()
        return OwnersJail(
            keys=frozenset(sections[SSH]) | (frozenset(sections["DEFAULT"]) - {"enabled"}),
            # Debian's own file enables it, whatever all jails have.
            enabled=sections[SSH].get("enabled", "true").lower() in ("true", "yes", "on", "1"),
            ignored=tuple(ignored),
        )


def _files(output: list[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    path = ""
    for line in output:
        if line.startswith("file "):
            path = line.removeprefix("file ")
            texts[path] = ""
        else:
            texts[path] += f"{line}\n"
    return texts


def _sections(path: str, text: str) -> dict[str, dict[str, str]]:
    # None of its sections gives values to the others.
    parser = RawConfigParser(default_section="", strict=False, allow_no_value=True)
    try:
        parser.read_string(text)
    except Error as error:
        raise DeployError(f"{path} is no configuration of fail2ban's: {error}") from error
    sections = {name: {key: value or "" for key, value in parser[name].items()} for name in parser}
    sections.pop("", None)
    if path.endswith("/jail.conf"):
        return {name: _not_stock(values) for name, values in sections.items()}
    return sections


def _not_stock(values: dict[str, str]) -> dict[str, str]:
    known = {key: values[key] for key in OF_STOCK if key in values}
    return {key: value for key, value in known.items() if value != STOCK.get(key)}
