"""Redis: broker and result store."""

from collections.abc import Sequence

from pyinfra import host, logger

from celery_pi.component import Component, Secret, Unit, deploys
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.earlier_users import (
    default_forgotten,
    earlier_users,
    earlier_users_kept,
    has_default,
    without_administration,
    without_default,
)
from celery_pi.operations.migrate_to_aof import migrate_to_aof
from celery_pi.operations.redis_server import UNIT, ready, redis_server
from celery_pi.operations.remove_units import remove_units
from celery_pi.operations.secret_files import no_old_secrets, secret_files
from celery_pi.operations.service import CHECK_UNIT, service
from celery_pi.render import from_file, from_template
from celery_pi.secrets import DIRECTORY, passwords
from celery_pi.settings import Settings, size_in_bytes
from tasks import tls

LIBRARY = "/usr/local/lib/celery-pi"
WATCH = "redis-memory.service"
ACL = Secret("/etc/celery-pi/redis.acl", "640", group="redis")
REDIS = Component[Settings](
    "Redis",
    packages=("redis-server",),
    no_start=(UNIT,),
    units=(
        Unit(
            UNIT,
            "no task is accepted, and no result is given",
            drop_ins=("celery-pi.conf", "memory.conf"),
            debian=True,
        ),
        # It reads a password that is root's.
        Unit(WATCH, "nobody is warned when Redis fills", root=True, needs=("Redis",)),
    ),
    secrets=(
        Secret(DIRECTORY, "700", stays=True),
        ACL,
        # The certificates stay while TLS is off.
        Secret("/etc/celery-pi/tls/private/ca.key", "600", stays=True),
        Secret("/etc/celery-pi/tls/redis.pem", "640", group="redis", stays=True),
    ),
)
# Of deploys before 2026-12: Debian gives that directory to Redis, who could have led root astray.
FORMER = [f"/etc/redis/celery-pi{end}" for end in (".conf", "-live.conf", ".acl")]


@deploys(REDIS)
def deploy(settings: Settings) -> None:
    """Redis runs, knows each of its users, and forgets no accepted task."""
    current = passwords(host, settings)
    secret_files(name="Store the passwords", passwords=current)
    earlier = earlier_users(host)
    earlier_users_kept(name="Keep the users that it has", lines=earlier)
    debian_packages(name="Install Redis", packages=REDIS.packages, no_start=REDIS.no_start)
    tls.deploy()  # before Redis is to start with the certificate
    config_files(
        name="Install the helpers",
        files=[
            from_file(f"{LIBRARY}/{helper}", mode="0755")
            for helper in ("redis-before-start", "check-redis-config", "redis-cli")
        ],
    )
    live, users = live_settings(settings), acl(current.hashes, settings, earlier)
    at_start = [
        conf("redis.conf", settings),
        from_template(f"/etc/systemd/system/{UNIT}.d/celery-pi.conf", settings=settings),
        from_template("/etc/tmpfiles.d/celery-pi-redis.conf", settings=settings),
    ]
    memory = from_template(
        f"/etc/systemd/system/{UNIT}.d/memory.conf",
        maxmemory=size_in_bytes(settings.redis_maxmemory),
    )
    config_files(name="Configure", files=[live, users, memory, *at_start])
    migrate_to_aof(name="Keep the data of a server that runs")
    watch = [file.path for file in at_start]
    service(name="Run", unit=UNIT, watch=watch, ready=ready(users), limits=[memory.path])
    redis_server(name="Change the running server", settings=live, acl=users)
    remove_units(name="Remove what lay in Redis' own directory", units=[], files=FORMER)
    watch_memory(settings)


def watch_memory(settings: Settings) -> None:
    """The journal has a line when Redis fills its memory."""
    script = from_file(f"{LIBRARY}/redis-memory", mode="0755")
    unit = from_template(f"/etc/systemd/system/{WATCH}", check=CHECK_UNIT, settings=settings)
    config_files(name="Install the watch over its memory", files=[script, unit])
    service(name="Run the watch over its memory", unit=WATCH, watch=[script.path, unit.path])


@deploys("Old passwords")
def retire(settings: Settings) -> None:
    """No password is valid but the one that every service has been started with."""
    current, earlier = passwords(host, settings), earlier_users(host)
    if not current.changing and not has_default(earlier):
        return
    if settings.app_units is None and (current.changing_for("celery") or has_default(earlier)):
        logger.warning(
            "The old passwords stay valid, because the site may still use them: name its units "
            "in app_units and deploy again."
        )
        return
    if has_default(earlier):
        users = acl(current.desired_hashes, settings, without_default(earlier))
        default_forgotten(name="Take them off the list", acl=users.path, content=users.content)
    else:
        users = acl(current.desired_hashes, settings, earlier)
        config_files(name="Take them off the list", files=[users])
    redis_server(name="Change the running server", settings=live_settings(settings), acl=users)
    no_old_secrets(name="Forget them")


def live_settings(settings: Settings) -> ConfigFile:
    """What can be changed in the running server."""
    return conf("redis-live.conf", settings)


def acl(
    hashes: dict[str, list[str]], settings: Settings, earlier: Sequence[str] = ()
) -> ConfigFile:
    """Every user, what he may do, and the hashes of his passwords; and those from before us."""
    return conf("redis.acl", settings, hashes, earlier)


def conf(
    name: str,
    settings: Settings,
    passwords: dict[str, list[str]] | None = None,
    earlier: Sequence[str] = (),
) -> ConfigFile:
    """A file that Redis reads and that Redis itself has found good."""
    return from_template(
        f"/etc/celery-pi/{name}",
        mode="0640",
        group="redis",
        secret=bool(earlier),  # hashes of passwords that somebody may have chosen
        check=f'{LIBRARY}/check-redis-config "$NEW"',
        settings=settings,
        passwords=passwords,
        earlier=[without_administration(line) for line in earlier],
        lets_default_in=has_default(earlier),
        maxmemory=size_in_bytes(settings.redis_maxmemory),
    )
