"""What is rendered from `templates/` and taken from `files/`, and the scripts among it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, FileSystemLoader
from pyinfra.api import DeployError

from celery_pi import render as rendering
from celery_pi.facts.ssh_jail import OwnersJail
from celery_pi.operations import redis_server
from celery_pi.render import ROOT, from_file, from_template
from celery_pi.secrets import USERS
from celery_pi.settings import Settings, of_memory, size_in_bytes
from celery_pi_tools.redis_client import SOCKET
from tasks.redis import acl
from tests.helpers.fake import Programs, mode

TEMPLATES = sorted(
    f"/{path.relative_to(ROOT / 'templates').with_suffix('')}"
    for path in (ROOT / "templates").rglob("*.j2")
)
FILES = sorted(
    f"/{path.relative_to(ROOT / 'files')}"
    for path in (ROOT / "files").rglob("*")
    if path.is_file() and path.suffix != ".pyc"
)
REDIS = "/etc/celery-pi/redis.conf"
LIVE = "/etc/celery-pi/redis-live.conf"
ACL = "/etc/celery-pi/redis.acl"
UNIT = "/etc/systemd/system/redis-server.service.d/celery-pi.conf"
WORKER = "/etc/systemd/system/celery-worker.service"
BEAT = "/etc/systemd/system/celery-beat.service"
RECORD = "/etc/celery-pi/settings.json"
SYSCTL = "/etc/sysctl.d/60-celery-pi.conf"
RUNTIME = "/etc/tmpfiles.d/celery-pi-redis.conf"
MEMORY = "/etc/systemd/system/redis-memory.service"
CERTIFICATES = "/etc/systemd/system/redis-certificates.service"
WORKER_SANDBOX = f"{WORKER}.d/sandbox.conf"
BEAT_SANDBOX = f"{BEAT}.d/sandbox.conf"
APP_GROUP = {RUNTIME, MEMORY, CERTIFICATES}
ROTATION = "/etc/logrotate.d/celery-pi"
JOURNAL = "/etc/systemd/journald.conf.d/celery-pi.conf"
SANDBOXES = {WORKER_SANDBOX, BEAT_SANDBOX}
FLOWER = "/etc/systemd/system/celery-flower.service"
FLOWER_ENV = "/etc/celery-pi/flower.env"
SERVER = "/etc/nginx/sites-enabled/zz-celery-pi"
COMMON = "/etc/nginx/conf.d/celery-pi.conf"
NAMES = "/etc/celery-pi/site_names"
CERTIFICATE = "/etc/systemd/system/nginx-certificate.path"
JAILS = "/etc/fail2ban/jail.d/zz-celery-pi.conf"
ADMIN_ADDRESSES = "/etc/celery-pi/deployers"
WATCHDOG = "/etc/systemd/system.conf.d/celery-pi.conf"
APT = "/etc/apt/apt.conf.d/52celery-pi"
NEEDRESTART = "/etc/needrestart/conf.d/celery-pi.conf"
UNITS = "/etc/systemd/system"
MEMORY = f"{UNITS}/redis-server.service.d/memory.conf"
TIMERS = {f"{UNITS}/{name}.timer.d/celery-pi.conf" for name in ("apt-daily", "apt-daily-upgrade")}
SECRETS = {"redis_password_file", "flower_password_file", "backup_restic_password_file"}
BACKUP, DRILL = f"{UNITS}/celery-pi-backup.service", f"{UNITS}/celery-pi-drill.service"
BACKUP_TIMER = f"{UNITS}/celery-pi-backup.timer"
BACKUP_SANDBOX, DRILL_SANDBOX = f"{BACKUP}.d/sandbox.conf", f"{DRILL}.d/sandbox.conf"


def render(path: str, **settings: Any) -> str:
    given = Settings(**settings)
    file = from_template(
        path,
        settings=given,
        passwords={user: [f"5ha-{user}", f"01d-{user}"] for user in USERS},
        earlier=(),
        lets_default_in=False,
        maxmemory=size_in_bytes(of_memory(given.redis_maxmemory, 1024)),
        max_memory_kib=204800,
        journal_bytes=size_in_bytes(given.journal_max_use),
        in_container=False,
        url="redis+socket://x",
        login="eA==",
        names=("a.example", "b.example"),
        ipv6=True,
        has_bucket_size=False,
        certificate="/etc/c.pem",
        key="/etc/k.pem",
        directories=("/etc",),
        ignored=("127.0.0.0/8",),
        jail_of_ssh=OwnersJail(),
        addresses=("192.0.2.7",),
        timeout="15s",
    )
    assert file.path == path
    return file.content


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A template at /etc/x in a tree of its own, with the product's own way of rendering."""
    ours = rendering.TEMPLATES.overlay(loader=FileSystemLoader(tmp_path))
    assert isinstance(ours, Environment)
    monkeypatch.setattr(rendering, "TEMPLATES", ours)
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc" / "x.j2"


@pytest.mark.parametrize("text", ["{{ missing }}", "{{ name.missing }}", "{% if missing %}"])
def test_undefined_variable_is_refused_with_the_name_of_the_template(
    template: Path, text: str
) -> None:
    template.write_text(text + ("{% endif %}" if "if" in text else ""))
    with pytest.raises(DeployError, match=r"templates/etc/x\.j2 does not render: .*missing"):
        from_template("/etc/x", name="x")


def test_template_with_an_error_or_none_at_all_is_refused(template: Path) -> None:
    template.write_text("{% if %}")
    with pytest.raises(DeployError, match=r"templates/etc/x\.j2 does not render"):
        from_template("/etc/x")
    with pytest.raises(DeployError, match=r"templates/etc/y\.j2 does not render"):
        from_template("/etc/y")


def test_rendered_text_is_what_the_template_says_to_the_line(template: Path) -> None:
    template.write_text("a\n  {% if yes %}\nb={{ value }}\n  {% endif %}\n\nend\n")
    file = from_template("/etc/x", yes=True, value="<&'\"é", mode="0640", group="redis")
    assert file.content == "a\nb=<&'\"é\n\nend\n"
    assert (file.path, file.mode, file.user, file.group) == ("/etc/x", "0640", "root", "redis")


@pytest.mark.parametrize("path", TEMPLATES)
def test_template_renders_with_default_settings_to_the_path_it_mirrors(path: str) -> None:
    content = render(path)
    assert content.endswith("\n")
    assert not {"{{", "{%", "}}", "None", "Undefined"} & set(content.split())


def test_all_templates_are_known_to_the_tests_below() -> None:
    redis = [REDIS, LIVE, ACL, UNIT, MEMORY, SYSCTL, *APP_GROUP]
    flower = [FLOWER, FLOWER_ENV, SERVER, NAMES, CERTIFICATE, COMMON]
    app = [WORKER, BEAT, *SANDBOXES, RECORD, ROTATION, JOURNAL]
    machine = [JAILS, ADMIN_ADDRESSES, WATCHDOG, APT, NEEDRESTART, *TIMERS]
    backup = [BACKUP, BACKUP_SANDBOX, BACKUP_TIMER, DRILL, DRILL_SANDBOX]
    assert sorted([*redis, *flower, *app, *machine, *backup]) == TEMPLATES


@pytest.mark.parametrize("path", FILES)
def test_file_goes_to_the_path_it_mirrors_with_its_bytes(path: str) -> None:
    file = from_file(path)
    assert file.path == path
    assert file.content.encode() == (ROOT / f"files{path}").read_bytes()


READERS: list[tuple[str, Any, set[str]]] = [
    ("raspberry_pi", False, set()),
    ("updates", False, set()),
    ("updates_time", "05:00", TIMERS),
    ("updates_reboot", "05:00", {APT}),
    ("updates_redis", False, {APT, NEEDRESTART}),
    ("app_dir", "/srv/other", {WORKER, BEAT, FLOWER, ROTATION, *SANDBOXES, BACKUP_SANDBOX}),
    ("app_module", "other", {WORKER, BEAT}),
    (
        *("app_user", "other"),
        {WORKER, BEAT, FLOWER, ROTATION, *APP_GROUP, BACKUP_SANDBOX, DRILL_SANDBOX},
    ),
    ("app_pins", ("celery==5.5.2",), set()),
    ("app_requirements", "other.txt", set()),
    ("app_venv_dir", ".venv", {WORKER, BEAT, FLOWER, WORKER_SANDBOX, BEAT_SANDBOX}),
    ("app_units", ("gunicorn.service",), set()),
    ("replace_handmade", True, set()),
    ("app_writable", ("media",), SANDBOXES),
    ("redis_port", 7000, {REDIS}),
    ("redis_tls", True, {REDIS}),
    ("redis_tls_port", 7001, set()),  # goes in where redis_tls is on
    ("redis_database", 3, set()),
    ("redis_socket", True, {REDIS, UNIT}),
    ("redis_key_prefix", "birds:", {FLOWER}),
    ("redis_app_keys", ("cache:*",), set()),
    ("redis_maxmemory", "64mb", {LIVE, MEMORY}),
    ("redis_maxmemory_policy", "noeviction", {LIVE}),
    ("redis_loglevel", "debug", {LIVE}),
    ("celery_queues", ("celery", "images"), {WORKER, FLOWER}),
    ("celery_concurrency", 7, {WORKER}),
    ("celery_min_concurrency", 1, {WORKER}),
    ("celery_memory_max", "50%", {WORKER}),
    ("celery_longest_countdown", 77, {WORKER}),
    ("celery_max_tasks_per_child", 77, {WORKER}),
    ("celery_max_memory_per_child", "64mb", set()),  # goes in as max_memory_kib
    ("celery_time_limit", 77, {WORKER}),
    ("worker_guard", "off", {WORKER, BEAT}),
    ("worker_network", False, {WORKER_SANDBOX}),
    ("celery_loglevel", "DEBUG", {WORKER, BEAT}),
    ("journal_max_use", "64mb", {JOURNAL}),
    ("beat_max_interval", 77, {BEAT}),
    ("flower", False, {WORKER, JAILS}),
    ("flower_user", "ann", set()),  # goes into the secrets
    ("nginx_server", False, set()),  # is whether its files are there
    ("nginx_names", ("nids.example",), set()),  # goes in as names
    ("nginx_certificate", "/etc/other.pem", set()),  # goes in as certificate and key
    ("nginx_certificate_key", "/etc/other.key", set()),
    ("firewall", False, set()),  # these are rules of ufw's
    ("firewall_allow", ("8000/tcp",), set()),
    ("firewall_only_ours", True, set()),
    ("bans", False, set()),  # is whether its files are there
    ("ban_tries", 7, {JAILS}),
    ("ban_find_seconds", 77, {JAILS}),
    ("ban_seconds", 77, {JAILS}),
    ("ban_ignore", ("192.0.2.0/24",), set()),  # goes in as ignored
    ("backup", False, set()),  # is whether its files are there
    ("backup_time", "03:00", {BACKUP_TIMER}),
    ("backup_keep", 9, set()),  # this and the next are read from the record
    ("backup_app", False, {BACKUP_SANDBOX}),
    ("backup_databases", ("data/db.sqlite3",), {BACKUP_SANDBOX}),
    ("backup_mariadb", "nids", set()),
    ("backup_restic_repository", "sftp:pi@nas:/b", {BACKUP, BACKUP_SANDBOX}),
]


@pytest.mark.parametrize(("name", "value", "readers"), READERS)
def test_changed_setting_changes_exactly_the_files_that_read_it(
    name: str, value: Any, readers: set[str]
) -> None:
    given: dict[str, Any] = {name: value}
    if name.startswith("nginx_certificate"):  # neither goes without the other
        given = {"nginx_certificate": "/etc/other.pem", "nginx_certificate_key": "/etc/other.key"}
    if name == "backup_restic_repository":
        given["backup_restic_password_file"] = "/home/me/own"  # noqa: S105  its path
    changed = {path for path in TEMPLATES if render(path) != render(path, **given)}
    assert changed - {ACL} == readers | {RECORD}  # the list of users has tests of its own


def test_every_setting_has_its_readers_above() -> None:
    assert {name for name, _, _ in READERS} == set(Settings.model_fields) - SECRETS


def test_record_on_the_pi_holds_every_setting_but_the_owners_password_file() -> None:
    given: dict[str, Any] = dict.fromkeys(SECRETS, "/home/me/own")
    given["backup_restic_repository"] = "sftp:nas:/b"
    expected = Settings(**given).model_dump(mode="json", exclude=SECRETS)
    assert json.loads(render(RECORD, **given)) == expected


def directives(path: str, **settings: Any) -> dict[str, list[str]]:
    """Name and values of each directive of redis.conf, or each assignment of a unit."""
    found: dict[str, list[str]] = {}
    for line in render(path, **settings).replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith(("#", "[")):
            name, _, value = line.partition(" " if path in (REDIS, LIVE) else "=")
            found.setdefault(name, []).append(" ".join(value.split()))
    return found


def test_redis_is_on_loopback_and_on_a_socket_and_takes_its_users_from_their_list() -> None:
    conf = directives(REDIS, redis_port=7000)
    assert conf["port"] == ["7000"]
    assert conf["bind"] == ["127.0.0.1 -::1"]
    assert (conf["unixsocket"], conf["unixsocketperm"]) == ([SOCKET], ["770"])
    assert (conf["aclfile"], conf["include"]) == ([ACL], [LIVE])
    assert not {"user", "requirepass"} & set(conf)


def test_redis_that_the_app_reaches_by_socket_opens_no_port_and_has_no_network() -> None:
    assert directives(REDIS, redis_port=7000, redis_socket=True)["port"] == ["0"]
    unit = directives(UNIT, redis_socket=True, app_user="pi")
    assert unit["PrivateNetwork"] == ["yes"]
    assert unit["RestrictAddressFamilies"] == ["", "AF_UNIX"]
    unit = directives(UNIT, app_user="pi")
    assert not {"PrivateNetwork", "RestrictAddressFamilies"} & set(unit)
    made = render(RUNTIME, app_user="pi").splitlines()[-1].split()
    assert made == ["d", str(Path(SOCKET).parent), "2750", "redis", "pi"]


def test_redis_keeps_every_accepted_task_and_has_the_settings_that_need_no_restart() -> None:
    conf = directives(LIVE, redis_maxmemory="64mb", redis_maxmemory_policy="noeviction")
    assert (conf["maxmemory"], conf["maxmemory-policy"]) == ([str(64 * 2**20)], ["noeviction"])
    assert (conf["appendonly"], conf["appendfsync"]) == (["yes"], ["everysec"])
    assert conf["save"] == ["900 1 300 10 60 10000"]


def test_live_settings_are_read_as_the_running_server_tells_them() -> None:
    found = redis_server.directives(render(LIVE))
    assert found == {name: values[0] for name, values in directives(LIVE).items()}
    assert all(value.strip() == value for value in found.values())
    assert not {'"', "'"} & set("".join(found.values()))  # CONFIG GET gives none
    assert not set(found) & set(directives(REDIS))  # or which one would count?


@pytest.mark.parametrize("path", [REDIS, LIVE])
def test_redis_configuration_has_no_comment_behind_a_directive(path: str) -> None:
    lines = [line for line in render(path).splitlines() if not line.startswith("#")]
    assert not [line for line in lines if "#" in line]


def test_list_of_users_has_each_of_them_once_with_every_valid_password() -> None:
    lines = [line.split() for line in render(ACL).splitlines() if line]
    assert {line[0] for line in lines} == {"user"}  # Redis takes no comment here
    assert sorted(line[1] for line in lines) == sorted(["default", *USERS])
    for _, user, *rules in lines:
        hashes = [rule for rule in rules if rule.startswith("#")]
        assert hashes == ([] if user == "default" else [f"#5ha-{user}", f"#01d-{user}"])
        assert ("on" in rules) == (user != "default")


def test_worker_has_the_settings_and_as_long_to_stop_as_a_task_may_run() -> None:
    unit = directives(
        WORKER,
        celery_concurrency=3,
        celery_time_limit=100,
        app_user="pi",
        celery_queues="celery,images",
    )
    (start,) = unit["ExecStart"]
    assert start == (
        "/usr/local/lib/celery-pi/with-env-file /var/www/observations_nids/.env "
        "/var/www/observations_nids/venv/bin/celery -A celery_redis_guard.app worker "
        "--loglevel=INFO --task-events --queues=celery,images --concurrency=3 "
        "--max-tasks-per-child=10000 --max-memory-per-child=204800 "
        "--without-mingle --without-gossip"
    )
    assert (unit["User"], unit["Group"], unit["TimeoutStopSec"]) == (["pi"], ["pi"], ["130"])
    assert (unit["KillMode"], unit["Type"]) == (["mixed"], ["notify"])


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, None),
        ("50%", ["50%"]),
        ("512mb", ["512M"]),
        ("1GB", ["1G"]),
        ("262144kb", ["262144K"]),
    ],
)
def test_memory_of_the_worker_is_written_as_systemd_reads_it(
    setting: str | None, expected: list[str] | None
) -> None:
    assert directives(WORKER, celery_memory_max=setting).get("MemoryMax") == expected


def test_worker_that_scales_is_given_most_and_least() -> None:
    (start,) = directives(WORKER, celery_concurrency=4, celery_min_concurrency=1)["ExecStart"]
    assert "--autoscale=4,1 " in start
    assert "--concurrency" not in start


def test_worker_sends_no_events_where_nobody_looks() -> None:
    assert "--task-events" not in render(WORKER, flower=False)


def test_without_flower_redis_has_no_such_user() -> None:
    passwords = {user: ["5ha"] for user in USERS if user != "flower"}
    users = acl(passwords, Settings(flower=False, redis_maxmemory="64mb")).content
    assert "user monitor " in users
    assert "user flower" not in users


def test_beat_has_the_settings_and_a_directory_of_its_own() -> None:
    unit = directives(BEAT, beat_max_interval=5, app_dir="/srv/app")
    assert unit["ExecStart"] == [
        "/usr/local/lib/celery-pi/with-env-file /srv/app/.env "
        "/srv/app/venv/bin/celery -A celery_redis_guard.app beat --loglevel=INFO --max-interval=5 "
        "--schedule=/var/lib/celery-beat/schedule --pidfile="
    ]
    assert (unit["StateDirectory"], unit["WorkingDirectory"]) == (["celery-beat"], ["/srv/app"])


def test_tasks_write_where_the_setting_says_below_the_app_or_elsewhere() -> None:
    sandbox = directives(WORKER_SANDBOX, app_dir="/srv/app", app_writable="media,/srv/photos")
    assert sandbox["ReadWritePaths"] == ["-/srv/app/media", "-/srv/photos"]
    assert sandbox["ProtectHome"] == ["yes"]
    assert not {"BindPaths", "BindReadOnlyPaths"} & set(sandbox)


def test_app_in_a_home_directory_has_of_that_only_what_is_its_own() -> None:
    given = {"app_dir": "/home/pi/site", "app_writable": "media,/home/pi/photos,/srv/x"}
    for path in SANDBOXES:
        sandbox = directives(path, **given)
        assert sandbox["ProtectHome"] == ["tmpfs"]
        assert sandbox["BindReadOnlyPaths"] == ["-/home/pi/site"]
        assert sandbox["BindPaths"] == ["-/home/pi/site/media", "-/home/pi/photos"]
    flower = directives("/etc/systemd/system/celery-flower.service", **given)
    assert flower["ProtectHome"] == ["tmpfs"]
    assert flower["BindReadOnlyPaths"] == ["/home/pi/site/venv"]


def test_worker_without_network_has_the_sandbox_of_beat() -> None:
    assert render(WORKER_SANDBOX, worker_network=False) == render(BEAT_SANDBOX)


class Snapshot:
    """redis-before-start on a data directory of its own."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data = directory / "data"
        self.data.mkdir()
        self.aof = self.data / "appendonlydir"
        self.dump = self.data / "dump.rdb"
        self.script = directory / "adopt"
        text = from_file("/usr/local/lib/celery-pi/redis-before-start").content
        assert "data=/var/lib/redis\n" in text
        text = text.replace("=/var/lib/redis\n", f"={self.data}\n")
        self.script.write_text(text)
        self.programs = Programs(directory, monkeypatch)
        self.programs.add("redis-check-aof")

    def run(self) -> None:
        subprocess.run(["sh", str(self.script)], check=True, capture_output=True)

    def tree(self) -> dict[str, bytes]:
        files = (path for path in self.data.rglob("*") if path.is_file())
        return {str(path.relative_to(self.data)): path.read_bytes() for path in files}


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    return Snapshot(tmp_path, monkeypatch)


DUMP = b"REDIS0011" + bytes(range(256))
ADOPTED = {
    "dump.rdb": DUMP,
    "appendonlydir/appendonly.aof.1.base.rdb": DUMP,
    "appendonlydir/appendonly.aof.manifest": b"file appendonly.aof.1.base.rdb seq 1 type b\n",
}


@pytest.mark.parametrize("remains", [False, True])
def test_snapshot_without_append_only_file_becomes_its_base(
    snapshot: Snapshot, remains: bool
) -> None:
    snapshot.dump.write_bytes(DUMP)
    if remains:  # of a start that was cut off
        (snapshot.data / "appendonlydir.new").mkdir()
        (snapshot.data / "appendonlydir.new" / "half").touch()
    snapshot.run()
    assert snapshot.tree() == ADOPTED
    assert mode(snapshot.aof) == 0o750
    assert {mode(path) for path in snapshot.aof.iterdir()} == {0o640}


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"dump.rdb": b""},
        {"dump.rdb": DUMP, "appendonlydir/appendonly.aof.manifest": b"of the server"},
        {"appendonlydir/appendonly.aof.manifest": b"of the server"},
    ],
)
def test_append_only_file_that_is_there_and_empty_snapshots_are_left_alone(
    snapshot: Snapshot, tree: dict[str, bytes]
) -> None:
    for name, content in tree.items():
        (snapshot.data / name).parent.mkdir(exist_ok=True)
        (snapshot.data / name).write_bytes(content)
    snapshot.run()
    snapshot.run()
    assert snapshot.tree() == tree


def in_anothers_environment(units: dict[str, str]) -> dict[str, list[str]]:
    """Privileged commands of each unit whose environment is not root's own, or such a file itself
    where the whole unit is root's."""
    found = {}
    for name, text in units.items():
        privileged = re.findall(
            r"^Exec\w+=[@:|-]*[+!].*|^PermissionsStartOnly=.*", text, re.MULTILINE
        )
        files = re.findall(r"^EnvironmentFile=-?(\S+)", text, re.MULTILINE)
        others = [file for file in files if not file.startswith("/etc/celery-pi/")]
        if others and (privileged or not re.search(r"^User=", text, re.MULTILINE)):
            found[name] = privileged or others
    return found


def test_no_command_of_roots_runs_in_an_environment_of_anothers() -> None:
    units: dict[str, str] = {}
    for path in (*TEMPLATES, *FILES):
        if path.startswith(f"{UNITS}/") and ".service" in path:
            name = path.removeprefix(f"{UNITS}/").partition("/")[0].removesuffix(".d")
            content = render(path) if path in TEMPLATES else from_file(path).content
            units[name] = units.get(name, "") + content
    assert len(units) > 10
    assert in_anothers_environment(units) == {}


@pytest.mark.parametrize(
    "text",
    [
        "User=www-data\nEnvironmentFile=/srv/app/.env\nExecStartPre=+/usr/bin/true\n",
        "User=www-data\nEnvironmentFile=-/srv/app/.env\nExecStartPost=-!/usr/bin/true\n",
        "User=www-data\nPermissionsStartOnly=yes\nEnvironmentFile=/srv/app/.env\n",
        "EnvironmentFile=/srv/app/.env\nExecStart=/usr/bin/true\n",
    ],
)
def test_control_such_a_unit_would_be_found(text: str) -> None:
    assert in_anothers_environment({"x.service": text})
