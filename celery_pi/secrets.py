"""Passwords of Redis' users: generated once, kept on the Pi in files that only root reads.

Beside `redis_celery_password` lies, while a new password takes the place of an old one,
`redis_celery_password.old`: what is still valid, a line each. Where it lies, a deploy brings
the change to its end, so a run that dies in the middle of it is completed by the next.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pyinfra.api import StringCommand

from celery_pi.settings import Settings
from celery_pi.shell import assign, read_quietly
from celery_pi_tools.redis_url import broker_url
from celery_pi_tools.redis_url import socket_url as url_of_socket

if TYPE_CHECKING:
    from pyinfra.api.host import Host

DIRECTORY = "/etc/celery-pi/secrets"
SHORTEST = 32  # characters
RANDOM_BYTES = 32  # 43 URL-safe characters, 256 bits

# What each is for stands in templates/etc/celery-pi/redis.acl.j2.
USERS = ("celery", "flower", "backup", "monitor", "admin")
SHORTEST_TYPED = 16  # of one that a person types

READ = r"""
[ ! -d "$directory" ] || echo ". $(stat -c '%a:%U:%G' "$directory")"
for f in "$directory"/redis_*_password "$directory"/redis_*_password.old; do
  [ ! -f "$f" ] || echo "${f##*/} $(stat -c '%a:%U:%G' "$f") $(base64 -w0 "$f")"
done
"""


class Stored(dict[str, tuple[str, str]]):
    """Name of each secret file on the Pi, with its `mode:user:group` and its text.

    The directory's name is a dot, and it has no text.
    """

    @property
    def closed(self) -> bool:
        """Whether nobody but root can enter the directory."""
        return self.get(".", ("", ""))[0] == "700:root:root"

    def password(self, user: str) -> str:
        """Password of that user, or nothing."""
        return self.get(secret(user), ("", ""))[1]

    def old(self, user: str) -> list[str]:
        """Passwords of that user that are on their way out."""
        return self.get(f"{secret(user)}.old", ("", ""))[1].splitlines()


@dataclass
class Passwords:
    """The passwords of one run: what it found on the Pi, and what is to be there."""

    stored: Stored = field(repr=False)
    desired: dict[str, str] = field(repr=False)

    def valid(self, user: str) -> list[str]:
        """Passwords that Redis must take while this run lasts, the new one first."""
        candidates = [self.desired[user], self.stored.password(user), *self.stored.old(user)]
        return list(dict.fromkeys(filter(None, candidates)))

    @property
    def hashes(self) -> dict[str, list[str]]:
        """SHA-256 of every user's valid passwords."""
        return {user: [_hash(text) for text in self.valid(user)] for user in self.desired}

    @property
    def desired_hashes(self) -> dict[str, list[str]]:
        """SHA-256 of every user's password as it is to be once the change is over."""
        return {user: [_hash(text)] for user, text in self.desired.items()}

    @property
    def changing(self) -> bool:
        """Whether an old password is still valid, or at least stored."""
        return any(map(self.changing_for, self.desired))

    def changing_for(self, user: str) -> bool:
        """The same of one user's."""
        return len(self.valid(user)) > 1 or bool(self.stored.old(user))


def secret(user: str) -> str:
    """Name of the file of that user's password."""
    return f"redis_{user}_password"


def users(settings: Settings) -> list[str]:
    """Redis' users."""
    return [user for user in USERS if user != "flower" or settings.flower]


def passwords(host: Host, settings: Settings) -> Passwords:
    """Every user's password: the owner's, else the one on the Pi, else a new one for it.

    The same for the whole run.
    """
    result = host.connector_data.get("celery_pi_passwords")
    if result is None:
        found = stored(host)
        result = Passwords(
            found, {user: kept(found.password(user)) or new_password() for user in users(settings)}
        )
        if settings.redis_password_file:
            result.desired["celery"] = supplied(settings.redis_password_file)
        host.connector_data["celery_pi_passwords"] = result
    return cast("Passwords", result)


def kept(password: str, shortest: int = SHORTEST) -> str:
    """A stored password, or nothing when it is one that somebody could guess."""
    return password if len(password) >= shortest else ""


def renew_passwords(host: Host, settings: Settings) -> None:
    """From here on this run's passwords are new ones, but for one that the owner supplies."""
    current = passwords(host, settings)
    for user in current.desired:
        if user != "celery" or not settings.redis_password_file:
            current.desired[user] = new_password()


def redis_url(password: str, settings: Settings) -> str:
    """The app's URL for broker and results."""
    return broker_url(password, dict(settings))


def socket_url(user: str, password: str, settings: Settings) -> str:
    """URL of the unix socket for a user of Redis."""
    return url_of_socket(user, password, dict(settings))


def supplied_problems(settings: Settings) -> list[str]:
    """A sentence for each password of the owner's that cannot be used; it is not shown."""
    return [
        *_problems("redis_password_file", settings.redis_password_file, SHORTEST),
        *_problems("flower_password_file", settings.flower_password_file, SHORTEST_TYPED),
        *_problems("backup_restic_password_file", settings.backup_restic_password_file, SHORTEST),
    ]


def _problems(setting: str, path: str | None, shortest: int) -> list[str]:
    if not path:
        return []
    name = f"{setting} {path}"
    try:
        password = supplied(path)
    except (OSError, UnicodeDecodeError) as error:
        return [f"{name} cannot be read: {type(error).__name__}"]
    if len(password) < shortest:
        return [f"{name} holds {len(password)} characters, and {shortest} are the least"]
    if shortest == SHORTEST_TYPED and not password.isascii():
        return [f"{name} holds a character that is not ASCII: browsers do not agree on its bytes"]
    if not password.isprintable():
        return [f"{name} holds a character that cannot be printed, or more than one line"]
    return []


def stored(host: Host) -> Stored:
    """What is stored. A line end behind it, which an editor may have put there, is no part of it;
    all else is, as it is for the shell that reads the file."""
    files = Stored()
    for line in read_quietly(host, StringCommand(assign(directory=DIRECTORY), READ)).splitlines():
        name, mode, encoded = (line + " ").split(" ")[:3]
        files[name] = (mode, base64.b64decode(encoded).decode().rstrip("\n"))
    return files


def new_password() -> str:
    """One that nobody guesses, of characters that mean nothing to anybody."""
    return secrets.token_urlsafe(RANDOM_BYTES)


def _hash(password: str) -> str:
    return sha256(password.encode()).hexdigest()


def supplied(path: str) -> str:
    """Text of a file of the owner's on this machine."""
    return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
