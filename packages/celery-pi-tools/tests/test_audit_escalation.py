"""`celery-pi audit` and the ways from another user to root: each is seen, and its absence too."""

from __future__ import annotations

import os
import py_compile
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celery_pi.manifest import merged
from celery_pi.settings import Settings
from celery_pi_tools import installed_files, manifest
from celery_pi_tools.checks import (
    accounts,
    drift,
    escalation,
    jobs,
    registry,
)
from celery_pi_tools.system import System
from tests.helpers.fake import ME, Programs, as_root

pytestmark = pytest.mark.fast

COMMAND = "{{ path={0} ; argv[]={1} ; flags={2} ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 }}"


def look_at(**settings: Any) -> Any:
    return System(Settings(**settings).model_dump(mode="json"))


@pytest.fixture
def places(tmp_path: Path) -> Any:
    """A directory of root's and one of another user's, with a file of root's in each."""
    tmp_path.chmod(0o755)
    made = SimpleNamespace(ours=tmp_path / "ours", theirs=tmp_path / "theirs")
    for place in (made.ours, made.theirs):
        place.mkdir(mode=0o755)
        (place / "run.sh").write_text("#!/bin/sh\n")
        (place / "run.sh").chmod(0o755)
        (place / "file").write_text("A=1\n")
    if ME == "root":
        shutil.chown(made.theirs, "daemon", "daemon")
    return made


def unit(**told: str) -> str:
    return "\n".join(f"{name}={value}" for name, value in {"Id": "x.service", **told}.items())


def command(path: object, flags: str = "", more: str = "") -> str:
    return COMMAND.format(path, f"{path} {more}".strip(), flags)


# -- units


@as_root
@pytest.mark.parametrize(
    ("told", "state"),
    [
        ({}, "wrong"),
        ({"User": "root"}, "wrong"),
        ({"User": "www-data"}, "ok"),
        ({"DynamicUser": "yes"}, "ok"),
        ({"User": "www-data", "ExecStartPreEx": command("/bin/true", "privileged")}, "wrong"),
        ({"User": "www-data", "ExecReloadEx": command("/bin/kill", "no-setuid")}, "wrong"),
        ({"User": "www-data", "ExecStopEx": command("/bin/true", "ignore-failure")}, "ok"),
        (
            {
                **{"User": "www-data", "PermissionsStartOnly": "yes"},
                "ExecStopEx": command("/bin/true"),
            },
            "wrong",
        ),
    ],
)
def test_environment_of_others_for_what_root_runs_is_wrong(
    places: Any, told: dict[str, str], state: str
) -> None:
    """`celery-beat` of 06a3844 was root's by this."""
    system = look_at()
    start = {"ExecStartEx": command("/bin/true")}
    file = {"EnvironmentFiles": f"{places.theirs}/file (ignore_errors=no)"}
    system.services = f"{unit()}\n\n{unit(**{**start, **told}, **file)}\n"
    result = escalation.environments(system)
    assert result.level == state
    assert (str(places.theirs) in result.evidence) is (state == "wrong")
    ours = {"EnvironmentFiles": f"{places.ours}/file (ignore_errors=yes)"}
    system.services = unit(**{**start, **told}, **ours)
    assert escalation.environments(system).level == "ok"


@as_root
def test_command_of_several_lines_is_read(places: Any) -> None:
    system = look_at()
    lines = command("/bin/sh", "", f"-c set -e\n\nset -x\n{places.theirs}/run.sh")
    system.services = f"{unit(ExecStartEx=lines)}\n\n{unit(Id='y.service')}"
    assert [each.name for each in escalation.units(system)] == ["x.service", "y.service"]
    assert escalation.commands(system).level == "wrong"


def test_command_that_cannot_be_read_is_told() -> None:
    system = look_at()
    system.services = unit(ExecStartEx="/bin/true")
    result = registry.judged(escalation.environments, system)
    assert result.level == "wrong"
    assert "in another form" in result.evidence


@as_root
def test_environment_that_is_missing_or_open_itself_is_seen(places: Any) -> None:
    system = look_at()
    for path, state in (
        (places.theirs / "missing", "wrong"),
        (places.ours / "missing", "ok"),
        (places.ours / "file", "ok"),
    ):
        system.services = unit(ExecStartEx=command("/bin/true"), EnvironmentFiles=str(path))
        assert escalation.environments(system).level == state
    (places.ours / "file").chmod(0o666)
    assert escalation.environments(system).level == "wrong"
    (places.ours / "file").unlink()
    (places.ours / "file").symlink_to(places.theirs / "file")
    assert escalation.environments(system).level == "wrong"


@as_root
def test_program_of_others_that_root_runs_is_wrong(places: Any) -> None:
    ours, theirs = places.ours / "run.sh", places.theirs / "run.sh"
    for told, state in (
        ({"ExecStartEx": command(ours)}, "ok"),
        ({"ExecStartEx": command(theirs)}, "wrong"),
        ({"ExecStartEx": command("/bin/sh", "", str(theirs))}, "wrong"),
        ({"ExecStartEx": command("/bin/cat", "", f"{places.theirs}/file")}, "ok"),
        ({"ExecStartEx": command("/usr/sbin/runuser", "", f"-u daemon {theirs}")}, "ok"),
        ({"ExecStartEx": command(ours), "WorkingDirectory": f"!{places.theirs}"}, "wrong"),
        ({"User": "daemon", "ExecStartEx": command(theirs)}, "ok"),
        ({"User": "daemon", "ExecStartPreEx": command(theirs, "privileged")}, "wrong"),
    ):
        system = look_at()
        system.services = unit(**told)
        result = escalation.commands(system)
        assert (result.level, told) == (state, told)


@as_root
@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("DEBUG=1\nDJANGO_SETTINGS_MODULE=x\nPYTHONUNBUFFERED=1", "ok"),
        ("# LD_PRELOAD=/x.so", "ok"),
        ("LD_PRELOAD=/x.so", "wrong"),
        ("  export LD_AUDIT = /x.so", "wrong"),
        ("PATH=/home/pi/bin", "wrong"),
        ("PYTHONSTARTUP=/x.py", "wrong"),
        ("GCONV_PATH=/x", "wrong"),
        ("BASH_ENV=/x", "wrong"),
        ("NODE_OPTIONS=--require=/x", "wrong"),
        ("PYTHONPATH=/home/pi/shared", "warn"),
        ("MALLOC_ARENA_MAX=2", "warn"),
        ("ENV=production", "warn"),
    ],
)
def test_variables_that_load_code_are_named(tmp_path: Path, line: str, state: str) -> None:
    system = look_at(app_dir=str(tmp_path), app_user=ME)
    assert escalation.loaders(system) is None
    (tmp_path / ".env").write_text(f"A=1\n{line}\n")
    result = escalation.loaders(system)
    assert result.level == state
    assert (line.split("=")[0].split()[-1] in result.evidence) is (state != "ok")


@as_root
def test_variables_are_not_read_from_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env")
    system = look_at(app_dir=str(tmp_path), app_user=ME)
    result = registry.judged(escalation.loaders, system)
    assert result.evidence == f"cannot be read: {tmp_path}/.env is no regular file"


# -- accounts


@pytest.mark.parametrize(
    ("scope", "user", "state"),
    [
        *(("0", "www-data", "wrong"), ("1", "www-data", "ok"), ("3", "birds", "ok")),
        *((None, "www-data", "warn"), (None, "birds", "ok"), ("0", "birds", "wrong")),
    ],
)
def test_memory_of_other_processes_is_judged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scope: str | None,
    user: str,
    state: str,
) -> None:
    monkeypatch.setattr(accounts, "PTRACE", tmp_path / "scope")
    monkeypatch.setattr(accounts, "NGINX", tmp_path / "nginx.conf")
    if scope:
        (tmp_path / "scope").write_text(f"{scope}\n")
    system = look_at(app_user=user)
    assert accounts.ptrace(system).level == state
    assert accounts.shared(system).level == ("warn" if user == "www-data" else "ok")
    (tmp_path / "nginx.conf").write_text(f"# user x;\nuser {user};\nevents {{}}\n")
    assert accounts.shared(system).level == "warn"


@pytest.mark.parametrize(
    ("names", "capabilities", "state"),
    [
        (["www-data", "gpio"], "", "ok"),
        (["www-data", "docker"], "", "wrong"),
        (["www-data", "adm"], "", "warn"),
        (["www-data"], "cap_sys_admin", "wrong"),
    ],
)
def test_groups_and_capabilities_that_make_root_are_wrong(
    monkeypatch: pytest.MonkeyPatch, names: list[str], capabilities: str, state: str
) -> None:
    groups = SimpleNamespace(groups=tuple(range(len(names))))
    monkeypatch.setattr(accounts, "account", lambda _: groups)
    monkeypatch.setattr(accounts, "group_name", lambda gid: names[gid])
    system = look_at(app_user="www-data")
    system.services = unit(User="www-data", AmbientCapabilities=capabilities)
    assert accounts.groups(system).level == state


NONE = "User x is not allowed to run sudo on pi."
MAY = "Matching Defaults entries\\n\\nUser x may run the following commands on pi:\\n"


@as_root
@pytest.mark.parametrize(
    ("app", "owner", "state"),
    [
        (NONE, NONE, "ok"),
        (NONE, f"{MAY}    (ALL : ALL) ALL\\n", "ok"),
        (NONE, f"{MAY}    (ALL : ALL) ALL\\n    (ALL) NOPASSWD: ALL\\n", "warn"),
        (NONE, f"{MAY}    (root) SETENV: NOPASSWD: /bin/x\\n", "warn"),
        (NONE, f"{MAY}    (www-data) NOPASSWD: ALL\\n", "ok"),
        (f"{MAY}    (ALL) /bin/x\\n", NONE, "wrong"),
        ("sudo: a parse error", NONE, "wrong"),
    ],
)
def test_rules_of_sudo_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: str, owner: str, state: str
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("sudo", f'case "$*" in *daemon) printf "{app}";; *bin) printf "{owner}";; esac')
    monkeypatch.setattr(accounts, "SUDO", str(programs.bin / "sudo"))
    (tmp_path / "app").mkdir()
    shutil.chown(tmp_path / "app", "bin")
    system = look_at(app_dir=f"{tmp_path}/app", app_user="daemon")
    result = registry.judged(accounts.sudo, system)
    assert result.level == state
    monkeypatch.setattr(accounts, "SUDO", "/nonexistent")
    assert accounts.sudo(system) is None


@as_root
def test_files_that_change_the_user_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media").chmod(0o2755)
    system = look_at(app_dir=str(tmp_path))
    assert accounts.set_ids(system).level == "ok"
    (tmp_path / "media/sh").touch()
    (tmp_path / "media/sh").chmod(0o4755)
    result = accounts.set_ids(system)
    assert (result.level, result.values["files"]) == ("wrong", [f"4755 root {tmp_path}/media/sh"])
    monkeypatch.setattr(accounts, "FIND", ("/usr/bin/sleep",))
    monkeypatch.setattr(accounts, "PATIENCE", 0.1)
    slow = SimpleNamespace(settings={"app_dir": "60"})
    assert accounts.set_ids(slow).level == "warn"


# -- jobs


@as_root
@pytest.mark.parametrize(
    ("file", "text", "state"),
    [
        ("crontab", "17 * * * * root cd / && run-parts /etc/cron.hourly\n", "ok"),
        ("crontab", "17 * * * * root {ours}/run.sh >{theirs}/log\n", "ok"),
        ("crontab", "17 * * * * root {theirs}/run.sh\n", "wrong"),
        ("crontab", "17 * * * * root python3 {theirs}/missing.py\n", "wrong"),
        ("crontab", "17 * * * * daemon {theirs}/run.sh\n", "ok"),
        ("crontab", "17 * * * * root runuser -u daemon {theirs}/run.sh\n", "ok"),
        ("crontab", "# 17 * * * * root {theirs}/run.sh\nPATH={theirs}\n", "ok"),
        ("cron.d/x", "@reboot root {theirs}/run.sh\n", "wrong"),
        ("crontabs", "@daily {theirs}/run.sh\n", "wrong"),
        ("crontabs", "1 2 3 4 5 {theirs}/run.sh\n", "wrong"),
        ("crontabs", "1 2 3 4 5 {ours}/run.sh\n", "ok"),
    ],
)
def test_what_cron_runs_as_root_is_roots(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    places: Any,
    file: str,
    text: str,
    state: str,
) -> None:
    etc = tmp_path / "etc"
    (etc / "cron.d").mkdir(parents=True)
    monkeypatch.setattr(jobs, "CRON", etc)
    monkeypatch.setattr(jobs, "OF_ROOT", etc / "crontabs")
    assert jobs.cron(None).level == "ok"
    (etc / file).write_text(text.format(**vars(places)))
    assert jobs.cron(None).level == state


@as_root
def test_file_of_crons_that_others_write_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "CRON", tmp_path)
    monkeypatch.setattr(jobs, "OF_ROOT", tmp_path / "none")
    (tmp_path / "cron.daily").mkdir()
    (tmp_path / "cron.daily/x").touch()
    assert jobs.cron(None).level == "ok"
    shutil.chown(tmp_path / "cron.daily/x", "daemon")
    told = jobs.cron(None)
    assert told.evidence.endswith(f"{tmp_path}/cron.daily/x may be written by daemon")
    shutil.chown(tmp_path / "cron.daily/x", "root")
    (tmp_path / "cron.daily").chmod(0o777)
    assert jobs.cron(None).level == "wrong"


OF_06A3844 = """{theirs}/logs/*.log {{
    su daemon daemon
    copy
    postrotate
        fallocate --length $taken "$1" || {{ rm "$2"; exit 1; }}
    endscript
}}
"""
NOW = OF_06A3844.replace("fallocate", "tools/celery_pi_tools/privileges.py run daemon fallocate")
DEBIANS = """/var/log/nginx/*.log {{
	create 0640 www-data adm
	prerotate
		if [ -d /etc/logrotate.d/httpd-prerotate ]; then \\
			run-parts /etc/logrotate.d/httpd-prerotate; \\
		fi \\
	endscript
	postrotate
		invoke-rc.d nginx rotate >/dev/null 2>&1
	endscript
}}
"""


@as_root
@pytest.mark.parametrize(
    ("text", "state"),
    [
        (OF_06A3844, "wrong"),
        (NOW, "ok"),
        (DEBIANS, "ok"),
        (DEBIANS + OF_06A3844, "wrong"),
        ("{theirs}/*.log\n{{\n weekly\n}}\n", "ok"),  # nobody else can replace the directory
        ("{theirs}/logs/*.log {{\n weekly\n}}\n", "wrong"),
        ("{theirs}/logs/*.log {{\n su daemon daemon\n weekly\n}}\n", "ok"),
        ("{ours}/a.log {theirs}/logs/b.log {{\n weekly\n}}\n", "wrong"),
        ('"{theirs}/a.log" {{\n postrotate\n gzip {theirs}/a.log.1\n endscript\n}}\n', "wrong"),
        ("{ours}/a.log {{\n postrotate\n gzip $1\n endscript\n}}\n", "ok"),
    ],
)
def test_rotation_by_root_where_others_write_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    places: Any,
    text: str,
    state: str,
) -> None:
    (tmp_path / "logrotate.d").mkdir()
    (places.theirs / "logs").mkdir()
    monkeypatch.setattr(jobs, "LOGROTATE", tmp_path / "logrotate.d")
    (tmp_path / "logrotate.d/x").write_text(text.format(**vars(places)))
    assert jobs.rotation(None).level == state


# -- drift


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Root's programs, of which one is a module that root's Python has compiled."""
    place = tmp_path / "lib"
    place.mkdir(mode=0o755)
    source = place / "module.py"
    source.write_text("def answer():\n    return 42\n")
    compiled = Path(py_compile.compile(str(source), doraise=True) or "")
    (place / "doctor").write_text("#!/usr/bin/python3\n")
    monkeypatch.setattr(manifest, "FILE", tmp_path / "manifest.json")
    monkeypatch.setattr(installed_files, "LIBRARY", str(place))

    def declare() -> None:
        paths = (str(source), str(place / "doctor"))
        files = {path: installed_files.state(path) for path in paths}
        (tmp_path / "manifest.json").write_text(merged({}, {}, files))

    return SimpleNamespace(
        **{"place": place, "source": source, "compiled": compiled},
        **{"declare": declare, "drift": lambda: drift.drift(System({}))},
        undeclared=lambda: drift.undeclared(None),
    )


@as_root
def test_files_as_deployed_are_well(library: Any) -> None:
    assert (library.drift().level, library.undeclared().level) == ("warn", "ok")
    library.declare()
    assert (library.drift().level, library.undeclared().level) == ("ok", "ok")
    assert library.drift().evidence == "2 files as deployed"


@as_root
@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("by hand"),
        lambda path: path.chmod(0o666),
        lambda path: shutil.chown(path, "daemon"),
        lambda path: path.unlink(),
    ],
)
def test_program_of_roots_that_was_changed_is_wrong(
    library: Any, change: Callable[[Path], object]
) -> None:
    library.declare()
    change(library.place / "doctor")
    told = library.drift()
    assert (told.level, told.values["files"]) == ("wrong", [f"{library.place}/doctor"])


@as_root
@pytest.mark.parametrize(
    "name", ["lib/json.py", "lib/tools/celery_pi_tools/checks/audit_x.py", "lib/x.so"]
)
def test_module_that_root_would_load_instead_is_a_stranger(
    library: Any, tmp_path: Path, name: str
) -> None:
    library.declare()
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    told = library.undeclared()
    assert (told.level, told.values["files"]) == ("wrong", [str(tmp_path / name)])


@as_root
def test_link_to_a_directory_is_a_stranger(library: Any) -> None:
    library.declare()
    (library.place / "xml").symlink_to("/tmp")  # noqa: S108
    assert library.undeclared().values["files"] == [f"{library.place}/xml"]


def other_code(library: Any) -> None:
    """With the time and size of the right source."""
    before = library.source.read_text(), library.source.stat()
    library.source.write_text(before[0].replace("42", "43"))
    os.utime(library.source, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))
    py_compile.compile(str(library.source), doraise=True)
    library.source.write_text(before[0])
    os.utime(library.source, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))


@as_root
@pytest.mark.parametrize(
    ("change", "state"),
    [
        (other_code, "wrong"),
        (lambda each: each.compiled.write_bytes(each.compiled.read_bytes()[:20]), "wrong"),
        (lambda each: shutil.chown(each.compiled, "daemon"), "wrong"),
        (lambda each: each.compiled.rename(each.compiled.with_name("x.cpython-1.pyc")), "wrong"),
        (lambda each: each.compiled.rename(each.compiled.with_name("module.py")), "wrong"),
        (lambda each: os.utime(each.source, (1, 1)), "ok"),  # Python compiles it anew
        (lambda each: each.compiled.with_name("module.cpython-1.pyc").touch(), "ok"),
        (lambda each: each.compiled.with_name("module.cpython-1.pyc.77").touch(), "ok"),
        (lambda each: each.compiled.write_bytes(b"????" + bytes(99)), "ok"),  # not loaded
    ],
)
def test_bytecode_is_that_of_its_source(
    library: Any, change: Callable[[Any], object], state: str
) -> None:
    assert library.compiled.name == f"module.{sys.implementation.cache_tag}.pyc"
    library.declare()
    change(library)
    assert library.undeclared().level == state
