"""Redis' users from before the first deploy, as whom the site's processes go on until they know
their new URL; whose password is not ours, nor to be shown.

In /etc/celery-pi/secrets/redis_earlier_users, a line of the ACL each. The one named `default`, for
whoever gives a password alone or none, goes once nobody uses it any more. Others are the owner's,
as far as anybody knows: whoever could log in to that Redis could make them (ACL SETUSER). So the
plan names each, and none of them may administer Redis any more.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from pyinfra import host as current_host
from pyinfra import logger, state
from pyinfra.api import FactBase, StringCommand, operation

from celery_pi.before import DIRECTORY as BEFORE
from celery_pi.operations.migrate_to_aof import CLI, CONFIG
from celery_pi.operations.redis_server import CLI as ADMIN
from celery_pi.operations.redis_server import UNIT
from celery_pi.operations.service import RECORDS
from celery_pi.plan import will
from celery_pi.secrets import DIRECTORY, USERS
from celery_pi.shell import announce_write, assign, read_quietly, replace_file, script
from celery_pi.terminal import printable

if TYPE_CHECKING:
    from pyinfra.api.host import Host

FILE = f"{DIRECTORY}/redis_earlier_users"
CACHED = "celery_pi_earlier_users"
SPACE = " "  # what divides a line of the ACL; a name may hold what else is a space for Python

READ = script("redis_users_before")


def earlier_users(host: Host) -> list[str]:
    """Lines of the ACL, each from `user` on; the same for the whole run."""
    if CACHED not in host.connector_data:
        host.connector_data[CACHED] = _others(_read(host)[1])
    return cast("list[str]", host.connector_data[CACHED])


def has_default(lines: Sequence[str]) -> bool:
    """Whether who gives no name is let in."""
    return any(line.split(SPACE)[1:3] == ["default", "on"] for line in lines)


def without_default(lines: Sequence[str]) -> list[str]:
    """Those that have a name of their own."""
    return [line for line in lines if _name(line) != "default"]


def without_administration(line: str) -> str:
    """Its user may do the same, but for Redis' category `admin`: ACL, CONFIG, SHUTDOWN and so on.

    Rules apply in their order, and each selector, in parentheses, has its own (redis.io, ACL).
    """
    taken = "-@admin"
    words = (
        f"{word[:-1]} {taken})" if is_in_selector and word.endswith(")") else word
        for word, is_in_selector in _words(line)
    )
    return f"{' '.join(words)} {taken}"


def _words(line: str) -> Iterator[tuple[str, bool]]:
    """Its words, and whether each stands in a selector."""
    is_in_selector = False
    for word in line.split(SPACE):
        is_in_selector = is_in_selector or word.startswith("(")
        yield word, is_in_selector
        is_in_selector = is_in_selector and not word.endswith(")")


@operation()
def earlier_users_kept(lines: Sequence[str]) -> Generator[StringCommand]:
    """They are noted before our server starts, 0600 root."""
    is_recorded, users = _read(current_host)
    if is_recorded or not lines:
        current_host.noop("no other users are to be kept")
        return
    lines_to_keep = _others(users) or list(lines)
    for name in map(_name, lines_to_keep):
        end = "until no program uses it" if name == "default" else f"not yours? delete it in {FILE}"
        why = f"it stays, without the right to administer; {end}"
        will(current_host, "change", f"Redis' user {printable(name)}", why, is_owners=True)
    yield StringCommand("install -d -m 0700 -o root -g root", DIRECTORY, BEFORE)
    yield _write(lines_to_keep, f"{BEFORE}/redis_users")
    yield _write(lines_to_keep)


class WhoIsDefault(FactBase[list[str]]):
    """Addresses and names of the clients that have given no user's name."""

    default = list

    def command(self) -> StringCommand:
        show = (
            "as_admin client list 2>/dev/null | grep ' user=default ' | "
            "sed 's/^.* addr=\\([^ ]*\\) .* name=\\([^ ]*\\) .* db=\\([0-9]*\\) .*/\\1 \\2 \\3/' "
            "|| true"  # nobody is an answer
        )
        return StringCommand(ADMIN, show)

    def process(self, output: list[str]) -> list[str]:
        return output


@operation()
def default_forgotten(acl: str, content: str) -> Generator[StringCommand]:
    """Who gives no user's name is not let in any more, unless somebody connected still uses that.

    `content` is the ACL as it is then, at the path `acl`. To be followed by what has the running
    server go by it.
    """
    if state.is_executing and (clients := current_host.get_fact(WhoIsDefault)):
        logger.warning(
            f"{current_host.name}: Redis' old password stays valid, because these still use it: "
            f"{', '.join(clients)}; name their units in app_units and deploy again"
        )
        return
    announce_write(current_host, acl)
    yield replace_file(acl, content.encode(), user="root", group="redis", mode="0640")
    yield _write(without_default(earlier_users(current_host)))


def _name(line: str) -> str:
    return line.split(SPACE)[1]


def _write(lines: Sequence[str], path: str = FILE) -> StringCommand:
    content = "".join(f"{line}\n" for line in lines).encode()
    return replace_file(path, content, user="root", group="root", mode="0600")


def _others(lines: Sequence[str]) -> list[str]:
    """Without ours; the default user where it lets somebody in."""
    named = ((line, line.split(SPACE)[1:3]) for line in lines)
    return [line for line, words in named if words[1:] == ["on"] and words[0] not in USERS]


def _read(host: Host) -> tuple[bool, list[str]]:
    """Whether they are kept already, and they."""
    values = assign(config=CONFIG, file=FILE, record=f"{RECORDS}/{UNIT}", unit=UNIT)
    lines = read_quietly(host, StringCommand(values, CLI, READ)).split("\n")
    is_recorded = lines[:1] == ["kept"]
    return is_recorded, lines[1:] if is_recorded else lines
