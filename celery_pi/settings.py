"""Every setting of the product: type, unit, default, constraint and reason, in one place.

A component of its own may state its settings beside itself, in a subclass of `Settings` in its
module of `tasks/`; `model` has them all.

Site values go into `group_data/all.py`, or `--data redis_port=7000` for one run. A setting is
here because the owner will change it, two Pis differ in it, or two parts need it; the rest
stays in the daemon's own words in its template.
"""

from __future__ import annotations

import ipaddress
import pkgutil
import posixpath
import re
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_type_hints

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
)

from celery_pi.firewall_rules import opening
from celery_pi_tools.config import size_in_bytes

SHARE = re.compile(r"([0-9]+)%")
SMALLEST_MAXMEMORY = "16mb"  # less holds no working queue
SMALLEST_WORKER = "128mb"
LARGEST_SHARE = 50  # percent; Redis may need as much again while it saves
HOMES = ("/home/", "/root/", "/run/user/")
POLICIES = ("volatile-ttl", "volatile-lru", "volatile-lfu", "volatile-random", "noeviction")
NO_ENVIRONMENT = {".env", ".git", "logs", "media"}
FOR_THIS_PI = {5555, 6379, 6380}  # where Redis and Flower are wont to be
RENAMED = {"board": "raspberry_pi"}  # old names, which are accepted until 2027-06
LOSES_TASKS = "evicts whole queues when memory is full, and every task in them is lost"


def _at_least(least: str, reason: str) -> AfterValidator:
    def check(text: str) -> str:
        if size_in_bytes(text) < size_in_bytes(least):
            raise ValueError(f"must be at least {least}: {reason}")
        return text

    return AfterValidator(check)


def _redis_memory(text: str) -> str:
    share = SHARE.fullmatch(text)
    if share and not 1 <= int(share[1]) <= LARGEST_SHARE:
        raise ValueError(f"must be from 1% to {LARGEST_SHARE}% of the machine's memory")
    if not share and size_in_bytes(text) < size_in_bytes(SMALLEST_MAXMEMORY):
        raise ValueError(f"must be at least {SMALLEST_MAXMEMORY}: less holds no working queue")
    return text


def _policy(policy: str) -> str:
    if policy.startswith("allkeys-"):
        raise ValueError(f"must not be {policy}: it {LOSES_TASKS}")
    if policy not in POLICIES:
        raise ValueError(f"must be one of {', '.join(POLICIES)}")
    return policy


def _pins(pins: tuple[str, ...]) -> tuple[str, ...]:
    pinned = dict(map(_pinned, pins))
    if "celery" not in pinned:
        raise ValueError("must pin celery")
    return pins


def _pinned(pin: str) -> tuple[str, Version]:
    try:
        requirement = Requirement(pin)
        (specifier,) = requirement.specifier
        Version(specifier.version)
    except (InvalidRequirement, InvalidVersion, ValueError):
        specifier = None
    if specifier is None or specifier.operator != "==" or requirement.marker or requirement.url:
        raise ValueError(f"must be exact pins such as celery==5.6.3, not {pin!r}")
    return requirement.name, Version(specifier.version)


def _environment(name: str) -> str:
    if name in NO_ENVIRONMENT:
        raise ValueError(f"must not be {name}, which is something else of the project's")
    return name


def _listed(value: object) -> object:
    """What `--data` gives as text is a list with commas."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _fewer(processes: int | None, others: ValidationInfo) -> int | None:
    most = others.data.get("celery_concurrency", 64)
    if processes is not None and not 1 <= processes < most:
        raise ValueError(f"must be from 1 to {most - 1}, fewer than celery_concurrency")
    return processes


def _worker_memory(text: str | None) -> str | None:
    if text is None:
        return None
    share = SHARE.fullmatch(text)
    if share and not 1 <= int(share[1]) <= 100:
        raise ValueError("must be from 1% to 100% of the machine's memory")
    if not share and size_in_bytes(text) < size_in_bytes(SMALLEST_WORKER):
        raise ValueError(f"must be at least {SMALLEST_WORKER}: an app that is loaded takes as much")
    return text


def _both(key: str | None, others: ValidationInfo) -> str | None:
    if (key is None) != (others.data.get("nginx_certificate") is None):
        raise ValueError("must be given together with nginx_certificate")
    return key


def _without_socket(tls: bool, others: ValidationInfo) -> bool:
    if tls and others.data.get("redis_socket"):
        raise ValueError("must be off while redis_socket is on: there is no TCP port to protect")
    return tls


def _by_commas(value: object) -> object:
    """A list of what has blanks, as `--data` gives it."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _may_open(text: str, others: ValidationInfo) -> str:
    redis = {others.data.get("redis_port"), others.data.get("redis_tls_port")}
    if (port := opening(text).port) in FOR_THIS_PI | redis:
        raise ValueError(f"must not open {port}: Redis and Flower are for this Pi alone")
    return text


def _both_of_restic(path: str | None, others: ValidationInfo) -> str | None:
    if (path is None) != (others.data.get("backup_restic_repository") is None):
        raise ValueError("must be given together with backup_restic_repository")
    return path


def _without_password(repository: str) -> str:
    if re.search(r"://[^/@]*:[^/@]*@", repository):
        raise ValueError("must hold no password: what it needs goes into /etc/celery-pi/restic.env")
    return repository


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        example = "192.0.2.7, 192.168.1.0/24 or fd00::/8"
        raise ValueError(f"must be addresses or networks such as {example}") from None
    if network.prefixlen == 0:
        raise ValueError("must leave somebody who can be banned")
    return text


class _OnThisMachine:
    """Marks a setting that is the path of a file on the machine that deploys."""


# It is opened here and its content is sent. A Pi does not learn the path, nor may it name one.
LocalFile = Annotated[str, _OnThisMachine()]
Port = Annotated[int, Field(ge=1024, le=65535)]
Path = Annotated[str, Field(pattern=r"^/[A-Za-z0-9_./-]+[A-Za-z0-9_]$")]
Writable = Annotated[
    str, Field(pattern=r"^/?[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$")
]
Relative = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$")
]
Repository = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_./:@+=~,-]+$"), AfterValidator(_without_password)
]
Name = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
Listed = BeforeValidator(_listed)
Unit = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]+\.(service|target)$")]
Queue = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
KeyPattern = Annotated[str, Field(pattern=r"^[!#-&(-~]+$")]  # no quotes, which redis-cli takes off
Seconds = Annotated[int, Field(ge=1)]
Allowed = Annotated[str, AfterValidator(_may_open)]
Network = Annotated[str, AfterValidator(_network)]
TimeOfDay = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
HostName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*$")]


class Settings(BaseModel):
    """Settings of one Pi; frozen, and refused as a whole when one of them is wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # -- the app: the owner's Django project, which is there before we come
    app_dir: Path = "/var/www/observations_nids"
    """Directory of the project; holds `.env`, the environment, `logs` and `media`."""
    app_module: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")] = "observations_nids"
    """What `celery -A` takes: the package whose `celery.py` makes the application."""
    app_user: Name = "www-data"
    """Unprivileged user and group of the worker and Beat, the same as the web server's, because
    they write the same files."""
    app_pins: Annotated[tuple[str, ...], Listed, AfterValidator(_pins)] = (
        "celery==5.6.3",
        "kombu==5.7.0",
        "billiard==4.3.2",
        "redis==8.1.0",
        "django-celery-results==2.6.0",
        "flower==2.2.0",
    )
    """Exact versions in the app's environment. The first four are a set with which the worker was
    tested as a whole (`celery_redis_guard.tested_sets`)."""
    app_requirements: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]+$")] = "requirements-prod.txt"
    """The project's own requirements, relative to `app_dir`; may be missing."""
    app_venv_dir: Annotated[
        str, Field(pattern=r"^\.?[A-Za-z0-9_-][A-Za-z0-9_.-]*$"), AfterValidator(_environment)
    ] = "venv"
    """Name of the project's virtual environment below `app_dir`, such as `.venv`; one is made where
    there is none."""
    app_units: Annotated[tuple[Unit, ...] | None, Listed] = None
    """The site's own units that read `.env`, such as `gunicorn.service`: restarted when it has
    changed. An old password stays valid as long as this is not known; `()` is for a site that
    has none."""

    replace_handmade: bool = False
    """Whether a worker, Beat, Flower, backup by cron or file of logrotate that somebody has set up
    by hand for this app is stopped, warm, and put aside in `/var/lib/celery-pi/before`. False
    refuses to deploy beside them, and names them."""

    app_writable: Annotated[tuple[Writable, ...], Listed] = ("media", "logs")
    """Where the app's tasks may write, and nowhere else: directories below `app_dir`, or absolute
    paths, such as `/srv/photos`, which are there. A database file needs its whole directory."""

    # -- Redis
    redis_port: Port = 6379
    """TCP port, on loopback only; closed while `redis_socket` or `redis_tls` is on."""
    redis_database: Annotated[int, Field(ge=0, le=15)] = 0
    """Database number of broker and results; Redis has 16."""
    redis_socket: bool = False
    """Whether the app uses the unix socket and Redis opens no TCP port."""
    redis_tls: Annotated[bool, AfterValidator(_without_socket)] = False
    """Whether clients must speak TLS; theirs to check is a certificate that a CA of the Pi's own
    has signed, which stays while TLS is switched off: `/etc/celery-pi/tls/ca.crt`."""
    redis_tls_port: Port = 6380
    """TCP port, on loopback only, open while `redis_tls` is on."""
    redis_key_prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]+:)?$")] = ""
    """What the names of all keys begin with, such as `birds:`, where several apps share a Redis.
    The app must take it over from `CELERY_KEY_PREFIX` (as `global_keyprefix`)."""
    redis_app_keys: Annotated[tuple[KeyPattern, ...], Listed] = ()
    """Patterns of the app's keys beside Celery's, such as `cache:*`; it may use no other."""
    redis_maxmemory: Annotated[str, AfterValidator(_redis_memory)] = "25%"
    """Memory for data, as a size or as a share of the machine's memory. 256 MB of a Pi with 1 GiB
    leave room for Django, worker and Beat, and for Redis to save."""
    redis_maxmemory_policy: Annotated[str, AfterValidator(_policy)] = "volatile-ttl"
    """What goes when memory is full. Only results expire, and queues never do, so this one gives
    up results, the oldest first, and no task."""
    redis_loglevel: Literal["debug", "verbose", "notice", "warning"] = "notice"
    redis_password_file: LocalFile | None = None
    """Path, on this machine, of a file with a password of the owner's choice for the app:
    printable, 32 characters or more, the last line end not counted. Without it one is generated
    on the Pi's first deploy, as for all other users. A file, because a setting would show in
    `debug-inventory` and in argv."""

    # -- the worker
    celery_queues: Annotated[tuple[Queue, ...], Listed, Field(min_length=1)] = ("celery",)
    """Queues that the app sends to and the worker consumes."""
    celery_concurrency: Annotated[int, Field(ge=1, le=64)] = 2
    """Tasks run at a time, a process each of about 60 MB."""
    celery_min_concurrency: Annotated[int | None, AfterValidator(_fewer)] = None
    """Processes kept while there is little to do, fewer than `celery_concurrency`: the worker
    then starts and ends the others as needed. None keeps them all."""
    celery_max_tasks_per_child: Annotated[int, Field(ge=1)] = 10_000
    """Tasks after which a process is replaced. 100 costs 2.7 times the throughput of short tasks,
    1000 a tenth; memory is bounded by the next setting."""
    celery_max_memory_per_child: Annotated[
        str, _at_least("64mb", "an app that is loaded takes as much")
    ] = "200mb"
    """Resident memory above which a process is replaced once its task is done; at least the app's
    own size and 64 MB, whatever is set."""
    celery_memory_max: Annotated[str | None, AfterValidator(_worker_memory)] = None
    """Memory of all the worker's processes, as a size or as a share of the machine's, at which
    the kernel ends one of them. None: when the whole machine has none left, the worker's are the
    first to go."""
    celery_time_limit: Seconds = 1800
    """Seconds that the longest task may run, for which a stop waits; the limit of an app that
    sets none."""
    celery_longest_countdown: Annotated[int, Field(ge=0)] = 0
    """Seconds of the longest countdown, ETA or wait for a retry in the app: a task that waits
    for more than an hour would otherwise run twice with a worker that is not ours."""
    worker_guard: Literal["auto", "on", "off"] = "auto"
    """Whether worker and Beat use the guard's classes, with which no task is lost, or Celery's own.
    auto: where the installed versions are a set that the guard was tested with. They decide as
    they start, so an upgrade of Celery leaves nobody without a worker."""
    worker_network: bool = True
    """Whether tasks reach the network (HTTPS, DNS, SMTP). Without it they have unix sockets alone:
    Redis', and that of a database."""
    celery_loglevel: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """At INFO the worker leaves out that a task came and ended well, two lines for each, which are
    there at DEBUG; what the tasks themselves log is there at both."""

    # -- Beat
    beat_max_interval: Annotated[int, Field(ge=1, le=300)] = 60
    """Longest sleep in seconds before Beat looks at its schedule again."""

    # -- Flower, and nginx before it
    flower: bool = True
    """Whether there is Flower, at `/flower/` of the site. The worker sends events of each step
    of each task, which on very short tasks costs up to half of its throughput."""
    flower_user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")] = "flower"
    """Name to log in with."""
    flower_password_file: LocalFile | None = None
    """Path, on this machine, of a file with a password of the owner's choice: printable ASCII, 16
    characters or more. Without it one is generated on the Pi."""
    nginx_server: bool = True
    """Whether nginx gets a server block of ours, at ports 80 and 443; else the site's own block
    takes Flower in by `include snippets/celery-pi-*.conf;`. Where the owner has no nginx, there is
    none then, and Flower is reached by an ssh tunnel."""
    nginx_names: Annotated[tuple[HostName, ...], Listed] = ()
    """Names that our server block answers to, such as `nids.example`; without one, the Pi's own
    name, and that with `.local` behind it."""
    nginx_certificate: Path | None = None
    """Path, on the Pi, of the certificate and its chain for our server block; without it there is
    one that signs itself."""
    nginx_certificate_key: Annotated[Path | None, AfterValidator(_both)] = Field(
        default=None, validate_default=True
    )
    """Path of its key."""

    # -- the firewall
    firewall: bool = True
    """Whether ufw lets nothing in but ssh, 80, 443 and what is allowed below; without it our rules
    go, and ufw is on or off as it was before the first deploy."""
    firewall_allow: Annotated[tuple[Allowed, ...], BeforeValidator(_by_commas)] = ()
    """What else is let in, such as `8000/tcp`, `5353/udp` or `9100/tcp from 192.168.1.0/24`: a port
    of TCP or UDP, to all or to an address or network. Never Redis' or Flower's."""
    firewall_only_ours: bool = False
    """Whether rules that are not declared are removed. False only logs them, because whoever
    added one to ufw by hand may need it."""
    # -- bans
    bans: bool = True
    """Whether an address that fails to log in too often, by ssh or to Flower, is refused for a
    time. What the owner has configured for ssh's jail holds. Without bans the firewall
    limits how often an address may try ssh."""
    ban_tries: Annotated[int, Field(ge=2, le=100)] = 5
    """Failed logins that lead to a ban. With one, whoever mistypes once would be locked out."""
    ban_find_seconds: Annotated[int, Field(ge=10)] = 600
    """Seconds within which they count. With fewer than ten, who tries slowly is never banned."""
    ban_seconds: Annotated[int, Field(ge=10)] = 600
    """Seconds that a ban lasts, on every TCP port, ssh too: it slows a guesser down to nothing, and
    lets an owner who has mistyped in again while he still waits for it."""
    ban_ignore: Annotated[tuple[Network, ...], Listed] = ()
    """Addresses and networks that are never banned, beside the Pi itself and the machines that it
    was last deployed from over ssh."""

    # -- logs
    journal_max_use: Annotated[
        str, _at_least("16mb", "journald wants room for a file in use and one to keep")
    ] = "256mb"
    """Room on the SD card for the journal of the whole machine; the oldest goes first, and what is
    older than a week in any case."""

    # -- backups
    backup: bool = True
    """Whether a backup of Redis and the app is made each day, and restored on trial each week."""
    backup_time: TimeOfDay = "02:00"
    """Time of day, in the machine's zone, at which it is made; at the next start when the machine
    was off."""
    backup_keep: Annotated[int, Field(ge=1, le=366)] = 7
    """Backups that are kept, the newest ones."""
    backup_app: bool = True
    """Whether the app's databases of SQLite and its `.env` are in it. The archives, which only root
    reads, then hold its secrets."""
    backup_databases: Annotated[tuple[Relative, ...], Listed] = ("db.sqlite3",)
    """Paths of these databases, relative to `app_dir`; a missing one is logged and skipped."""
    backup_mariadb: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,64}$")] | None = None
    """Name of a database of MariaDB on this machine that is in it too."""
    backup_restic_repository: Repository | None = None
    """Where restic takes each backup to, encrypted, such as `sftp:user@host:/pi` or
    `s3:https://host/bucket`; keys go into `/etc/celery-pi/restic.env` on the Pi. None: nowhere."""
    backup_restic_password_file: Annotated[LocalFile | None, AfterValidator(_both_of_restic)] = (
        Field(default=None, validate_default=True)
    )
    """Path, on this machine, of a file with the repository's password: printable, 32 characters or
    more. Who loses it has lost the repository, so it is yours to choose and to keep elsewhere."""

    # -- the machine
    raspberry_pi: bool = True
    """Whether a Raspberry Pi is set up as such: its kernel counts the memory of services, it swaps
    to memory, its hardware watchdog is on. Switched off, kernel command line, swap and watchdog
    stay as they are."""
    updates: bool = True
    """Whether security updates are installed by themselves, and services that use a replaced
    library started again. Switched off, Debian's own configuration counts again."""
    updates_time: TimeOfDay = "04:00"
    """Time of day, in the machine's zone, after which they are installed, within ten minutes; at
    the next start when the machine was off."""
    updates_reboot: TimeOfDay | None = None
    """Time of day at which the machine restarts when an update asks for it. None: never by itself;
    each deploy logs that a restart is due."""
    updates_redis: bool = True
    """Whether Redis is among what is updated and started again, which loses no task but keeps
    clients waiting while it loads its data."""

    @classmethod
    def local_files(cls) -> set[str]:
        """Names of the settings that are paths of files on the machine that deploys."""
        return {
            name
            for name, hint in get_type_hints(cls, include_extras=True).items()
            if _is_local(hint)
        }

    def on_the_pi(self, **options: Any) -> dict[str, Any]:
        """What a Pi may know of them, as JSON has it; `options` is for `model_dump`."""
        return self.model_dump(mode="json", exclude=self.local_files(), **options)

    @property
    def writable_paths(self) -> list[str]:
        """Absolute paths of what `app_writable` names."""
        return [posixpath.join(self.app_dir, path) for path in self.app_writable]

    @property
    def paths_at_home(self) -> list[str]:
        """Of the app and what it writes to, what systemd's ProtectHome= would hide."""
        return [path for path in (self.app_dir, *self.writable_paths) if path.startswith(HOMES)]

    @property
    def database_directories(self) -> list[str]:
        """Absolute paths of the directories in which `backup_databases` are."""
        paths = [posixpath.join(self.app_dir, path) for path in self.backup_databases]
        return sorted({posixpath.dirname(path) for path in paths})

    @property
    def app_env(self) -> str:
        return f"{self.app_dir}/.env"

    @property
    def app_venv(self) -> str:
        return f"{self.app_dir}/{self.app_venv_dir}"


def _is_local(hint: Any) -> bool:
    """Whether the type is LocalFile, or has it among its parts."""
    return isinstance(hint, _OnThisMachine) or any(
        _is_local(part) for part in (*get_args(hint), *getattr(hint, "__metadata__", ()))
    )


def of_memory(text: str, memory: int) -> str:
    """The size that the text stands for on a machine with that many MiB of memory."""
    share = SHARE.fullmatch(text)
    return f"{memory * int(share[1]) // 100}mb" if share else text


@cache
def model() -> type[Settings]:
    """The settings above together with those that components state beside themselves.

    Raises TypeError when two of them have one name, or one has no default.
    """
    stated = _stated()
    names = [name for each in stated for name in each.__annotations__]
    if duplicates := {
        name for name in names if names.count(name) > 1 or name in Settings.model_fields
    }:
        raise TypeError(f"there are two settings of the name {', '.join(sorted(duplicates))}")
    combined = create_model("Settings", __base__=stated) if stated else Settings
    if without_default := [
        name for name, field in combined.model_fields.items() if field.is_required()
    ]:
        raise TypeError(f"a setting without a default: {', '.join(without_default)}")
    return combined


def _stated() -> tuple[type[Settings], ...]:
    modules = {module.__name__ for module in task_modules()}
    return tuple(each for each in Settings.__subclasses__() if each.__module__ in modules)


@cache
def task_modules() -> tuple[ModuleType, ...]:
    """Every module of `tasks/`. A task imports this module, so they are imported when needed."""
    tasks = import_module("tasks")
    names = [module.name for module in pkgutil.iter_modules(tasks.__path__)]
    return tuple(import_module(f"tasks.{name}") for name in names)


def load_settings(data: dict[str, Any]) -> tuple[Settings | None, list[str]]:
    """The settings, or none and a sentence for each thing that is wrong with them."""
    settings, _, sentences = without_wrong(data)
    return (None if sentences else settings), sentences


def with_new_names(data: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The same settings by the names that they have now, and a sentence for each old name.

    Where both are given, the old one stays, and is refused as one that does not exist.
    """
    old = [name for name in data if name in RENAMED and RENAMED[name] not in data]
    renamed = {RENAMED[name] if name in old else name: value for name, value in data.items()}
    return renamed, [f"the setting {name} is called {RENAMED[name]} now: rename it" for name in old]


def without_wrong(data: dict[str, Any]) -> tuple[Settings, frozenset[str], list[str]]:
    """The settings with a default for each that is wrong; the names of those that are, or are
    meant by a misspelt one; and a sentence for each thing that is wrong.

    What only contradicts a wrong one is doubtful too, and no sentence is made of it.
    """
    data, _ = with_new_names(data)
    errors = _problems(data)
    wrong = {_name(error) for error in errors}
    meant = {near for name in wrong - {*model().model_fields} for near in _nearest(name)} - {*data}
    doubtful = wrong | meant
    sentences = [
        _sentence(error)
        for error in errors
        if _name(error) not in meant and not _others_named(error) & doubtful
    ]
    sentences = sentences or [_sentence(error) for error in errors]
    right = dict(data)
    while errors:
        doubtful.update(*map(_others_named, errors), map(_name, errors))
        kept = {name: value for name, value in right.items() if name not in doubtful}
        right = kept if len(kept) < len(right) else {}  # what is wrong, its sentence does not name
        doubtful.update(data if not right else ())
        errors = _problems(right)
    return model()(**right), frozenset(doubtful), sentences


def named_in(sentence: str) -> set[str]:
    """The settings whose names stand in it."""
    return {*re.findall(r"\w+", sentence)} & {*model().model_fields}


def _problems(data: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        model()(**data)
    except ValidationError as error:
        return [dict(problem) for problem in error.errors()]
    return []


def _name(problem: dict[str, Any]) -> str:
    return str(problem["loc"][0])


def _others_named(problem: dict[str, Any]) -> set[str]:
    """What it contradicts, or what is to be given with it."""
    return named_in(str(problem["msg"])) - {_name(problem)}


def _nearest(name: str) -> list[str]:
    return get_close_matches(name, model().model_fields, n=1)


def _sentence(problem: dict[str, Any]) -> str:
    name = _name(problem)
    if problem["type"] == "extra_forbidden":
        near = _nearest(name)
        return f"{name} is no setting" + (f"; did you mean {near[0]}?" if near else "")
    reason = str(problem["msg"])
    for start in ("Value error, ", "Input ", "String ", "Value "):
        reason = reason.removeprefix(start)
    return f"{name} {reason} (it is {problem['input']!r})"
