"""Preflight: an unfit machine, bad settings and bad secrets are refused before all else."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyinfra import host
from pyinfra.api import DeployError
from pyinfra.api.exceptions import PyinfraError
from pyinfra.operations import server

from celery_pi.component import deploys
from celery_pi.preflight import machine, site_data
from celery_pi.preflight.doubt import beyond_doubt
from celery_pi.preflight.machine import Machine, problems
from celery_pi.settings import Settings
from tests.helpers.fake import ME, PIP_AGREES, Programs, as_root, run, sh

GOOD = {
    "os": "debian",
    "release": "13",
    "architecture": "arm64",
    "init": "systemd",
    "container": "none",
    "uid": "0",
    "disk": "1024",
    "memory": "512",
    "allowed": "0",
    "app": "yes",
    "user": "yes",
    "module": "/var/www/observations_nids/observations_nids/celery.py",
    "venv": "3.11.2",
    "python": "/usr/bin/python3.13",
}


def answers(**facts: str | None) -> dict[str, Any]:
    shown = {**GOOD, **facts}
    told = [f"{key}={value}" for key, value in shown.items() if value is not None]
    return {"os-release": told, **PIP_AGREES}


@deploys("Thing")
def thing(settings: Settings) -> None:
    server.shell(name="Touch the machine", commands=[f"touch {settings.redis_port}"])


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"release": "12"},
        {"os": "raspbian", "release": "12"},
        {"architecture": "amd64"},
        {"venv": None},
        {"venv": "3.13.5"},
        {"python": ""},
    ],
)
def test_fit_machine_has_no_problem(facts: dict[str, str | None]) -> None:
    shown = {key: value for key, value in {**GOOD, **facts}.items() if value is not None}
    assert list(problems(shown, Settings())) == []


BAD_FACTS: list[tuple[dict[str, str | None], str]] = [
    ({"os": "ubuntu", "release": "24.04"}, "it runs ubuntu 24.04, not Debian 12 or 13"),
    ({"os": "ubuntu", "release": "12"}, "it runs ubuntu 12, not Debian 12 or 13"),
    ({"release": "11"}, "it runs debian 11, not Debian 12 or 13"),
    ({"release": ""}, "it runs debian , not Debian 12 or 13"),
    ({"architecture": "armhf"}, "its packages are for armhf, not arm64 or amd64"),
    ({"init": "sh"}, "its first process is sh, not systemd"),
    ({"uid": "1000"}, "we are not root on it: name a user who may use sudo, and set _sudo"),
    ({"disk": "1023"}, "/var has 1023 MiB free, and a deploy needs 1024"),
    (
        {"memory": "511"},
        "redis_maxmemory 256mb is more than half of its memory (511 MiB), "
        "and Redis may need as much again to save",
    ),
    (
        {"absent": "/etc/c.pem"},
        "it has no file /etc/c.pem (nginx_certificate, nginx_certificate_key)",
    ),
    (
        {"web": "apache2 nginx"},
        "apache2 listens on port 80 or 443, where nginx is to show Flower: set "
        "nginx_server = False, and Flower is reached by an ssh tunnel (docs/operate/flower.md), "
        "or set flower = False",
    ),
    ({"unknown": "gunicorn.service"}, "it has no unit gunicorn.service (app_units)"),
    ({"user": None}, "it has no user www-data (app_user)"),
    (
        {"app": None, "module": None, "venv": None},
        "there is no Django project in /var/www/observations_nids (app_dir): deploy yours first",
    ),
    (
        {"module": None},
        "/var/www/observations_nids has no Python module observations_nids (app_module)",
    ),
    (
        {"venv": ""},
        "/var/www/observations_nids/venv is no virtual environment: it has no readable pyvenv.cfg",
    ),
    (
        {"venv": None, "other": ".venv"},
        "/var/www/observations_nids has an environment, .venv, and /var/www/observations_nids/venv "
        'would be a second one: write app_venv_dir = ".venv" in group_data/all.py, or "venv" to '
        "have the second",
    ),
    ({"venv": "3.9.2"}, "/var/www/observations_nids/venv has Python 3.9.2, older than 3.11"),
    ({"venv": "2.7"}, "/var/www/observations_nids/venv has Python 2.7, older than 3.11"),
]


@pytest.mark.parametrize(("facts", "sentence"), BAD_FACTS)
def test_each_bad_fact_is_told_in_its_one_sentence(
    facts: dict[str, str | None], sentence: str
) -> None:
    shown = {key: value for key, value in {**GOOD, **facts}.items() if value is not None}
    assert list(problems(shown, Settings(redis_maxmemory="256mb"))) == [sentence]


@pytest.mark.parametrize(
    ("memory", "share", "sentence"),
    [
        ("512", "256mb", None),
        ("64", "25%", None),
        ("63", "25%", "redis_maxmemory 25% of 63 MiB is less than 16mb"),
        ("1599", "1%", "redis_maxmemory 1% of 1599 MiB is less than 16mb"),
        ("511", "50%", None),
    ],
)
def test_memory_for_redis_is_enough_for_a_queue_and_leaves_as_much_again(
    memory: str, share: str, sentence: str | None
) -> None:
    found = list(problems({**GOOD, "memory": memory}, Settings(redis_maxmemory=share)))
    assert found == ([sentence] if sentence else [])


def test_fit_machine_is_entered_and_asked_once_for_all_components() -> None:
    def two() -> None:
        thing()
        thing()

    done = run(two, answers=answers(), data={"redis_port": 7000})
    assert done.changed.count(True) == 2
    assert done.commands.count("touch 7000") == 2
    assert sum("os-release" in command for command in done.commands) == 1


@pytest.mark.parametrize(
    ("facts", "data"),
    [
        ({"os": "fedora"}, {}),
        ({"uid": "1000"}, {}),
        ({}, {"redis_port": 80}),
        ({}, {"redis_prot": 7000}),
        ({}, {"redis_password_file": "/nowhere"}),
    ],
)
def test_component_alone_is_not_entered_when_something_is_wrong(
    facts: dict[str, str | None], data: dict[str, Any]
) -> None:
    entered = []
    watched = deploys("Thing")(lambda _settings: entered.append(True))
    with pytest.raises(DeployError, match="@fake is left as it was"):
        run(watched, answers=answers(**facts), data=data)
    assert entered == []


@pytest.mark.parametrize(
    ("given", "facts", "limit"),
    [
        ({}, {"memory": "1024"}, "256mb"),
        ({}, {"memory": "1024", "allowed": "512"}, "128mb"),
        ({}, {"memory": "1024", "allowed": "2048"}, "256mb"),
        ({}, {"memory": "1024", "allowed": ""}, "256mb"),
        ({"redis_maxmemory": "50%"}, {"memory": "1024"}, "512mb"),
        ({"redis_maxmemory": "100mb"}, {"memory": "1024"}, "100mb"),
    ],
)
def test_component_gets_a_size_for_a_share_of_the_memory_that_the_machine_may_use(
    given: dict[str, str], facts: dict[str, str | None], limit: str
) -> None:
    seen: list[Settings] = []
    task = deploys("Thing")(seen.append)
    run(task, answers=answers(**facts), data={**given, "redis_port": 7000})
    assert seen == [Settings(redis_port=7000, redis_maxmemory=limit)]


@pytest.mark.parametrize(
    ("counted", "setting", "warned"),
    [("yes", "50%", False), (None, "50%", True), (None, None, False)],
)
def test_limit_that_the_kernel_does_not_keep_is_told(
    counted: str | None, setting: str | None, warned: bool
) -> None:
    data = {} if setting is None else {"celery_memory_max": setting}
    shown = run(thing, answers=answers(counted=counted), data=data).shown
    assert ("celery_memory_max is without effect on" in shown) == warned


def test_machine_is_asked_for_the_sites_units() -> None:
    done = run(thing, answers=answers(), data={"app_units": "a.service,b.service"})
    (asked,) = [command for command in done.commands if "os-release" in command]
    assert "units='a.service b.service'" in asked


def test_problems_of_settings_secrets_and_machine_are_told_in_one_breath(tmp_path: Path) -> None:
    short = tmp_path / "password"
    short.write_text("short\n")
    # A supplied password is looked at once the settings are right; the machine always is.
    with pytest.raises(DeployError) as settings_refused:
        run(thing, answers=answers(init="sh"), data={"redis_port": 80, "redis_prot": 1})
    with pytest.raises(DeployError) as secret_refused:
        run(thing, answers=answers(init="sh"), data={"redis_password_file": str(short)})
    assert [line.split()[1] for line in str(settings_refused.value).splitlines()[1:]] == [
        "redis_port",
        "redis_prot",
        "its",
    ]
    assert [line.split()[1] for line in str(secret_refused.value).splitlines()[1:]] == [
        "redis_password_file",
        "its",
    ]


def told(data: dict[str, Any], **facts: str | None) -> list[str]:
    """First words of each problem that a run finds; there is one at least."""
    with pytest.raises(DeployError) as refused:
        run(thing, answers=answers(**facts), data=data)
    return [" ".join(line.split()[1:4]) for line in str(refused.value).splitlines()[1:]]


NOTHING_THERE = {"app": None, "module": None, "user": None, "venv": "2.7", "web": "apache2"}


def test_misspelt_setting_makes_no_false_problem_of_its_default() -> None:
    """Each of the owner's other settings counts, and what is wrong whatever he meant is told."""
    assert told({"app_dri": "/srv/site"}, **NOTHING_THERE, init="sh") == [
        "app_dri is no",
        "its first process",
        "it has no",
        "apache2 listens on",
    ]
    assert told({"app_user": "A B", "flowr": False}, **NOTHING_THERE) == [
        "app_user should match",
        "flowr is no",
        "there is no",
        "/var/www/observations_nids/venv has Python",
    ]
    assert told({"redis_maxmemory": "x", "redis_port": 80}, memory="20") == [
        "redis_port should be",
        "redis_maxmemory must be",
    ]


@pytest.mark.parametrize(
    ("doubtful", "kept"),
    [
        (set(), ["dir", "venv", "port", "redis_port is taken"]),
        ({"app_dir"}, ["port", "redis_port is taken"]),
        ({"redis_port"}, ["dir", "venv"]),
        ({"app_user"}, ["dir", "venv", "port", "redis_port is taken"]),
    ],
)
def test_problem_is_told_unless_it_comes_of_a_setting_in_doubt(
    doubtful: set[str], kept: list[str]
) -> None:
    """By what is looked at for it, also through what is derived of it, or by its words."""

    def found(settings: Settings) -> Iterator[str]:
        assert settings.app_dir
        yield "dir"
        assert settings.app_venv
        yield "venv"
        assert settings.redis_port
        yield "port"
        yield "redis_port is taken"

    assert list(beyond_doubt(Settings(), frozenset(doubtful), found)) == kept


def test_machine_is_asked_for_the_app_that_the_right_settings_name() -> None:
    wrong = {"redis_prot": 1, "celery_concurrency": 0}
    with pytest.raises(DeployError, match="no Django project in /srv/site"):
        run(
            thing,
            answers=answers(app=None, module=None, venv=None),
            data={"app_dir": "/srv/site", **wrong},
        )


def test_machine_that_cannot_be_asked_is_not_entered() -> None:
    with pytest.raises(PyinfraError):
        run(thing, answers={"os-release": {"success": False, "stderr": "no sh"}})


def test_arguments_and_connection_data_of_pyinfra_are_no_settings() -> None:
    seen = {}
    data = {"_sudo": True, "_retries": 2, "fake_delay": 0, "redis_port": 7000, "mine": 1}
    run(lambda: seen.update(site_data(host)), answers={}, data=data)
    assert seen == {"redis_port": 7000, "mine": 1}


def facts_of(
    app: Path,
    module: str = "project",
    user: str = ME,
    units: tuple[str, ...] = (),
    venv: str = "venv",
) -> dict[str, str]:
    fact = Machine()
    command = fact.command(
        app=str(app), module=module, user=user, venv=f"{app}/{venv}", units=units
    )
    return fact.process(sh(command))


def test_machine_tells_of_itself(tmp_path: Path) -> None:
    facts = facts_of(tmp_path)
    assert {"os", "release", "architecture", "init", "uid", "disk", "memory"} < set(facts)
    assert int(facts["disk"]) > 0
    assert int(facts["memory"]) > 0


@pytest.mark.parametrize("part", ["app", "user", "module", "venv"])
def test_machine_without_app_or_user_is_an_answer(tmp_path: Path, part: str) -> None:
    facts = facts_of(tmp_path / "nowhere", user="no-such-user")
    assert part not in facts


@pytest.mark.parametrize("file", ["pro/ject.py", "pro/ject/celery.py", "pro/ject/__init__.py"])
def test_machine_finds_the_app_module_in_each_shape(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    facts = facts_of(tmp_path, module="pro.ject")
    assert (facts["app"], facts["user"], facts["module"]) == ("yes", "yes", f"{tmp_path}/{file}")


@pytest.mark.parametrize(
    ("config", "version"),
    [
        ("home = /usr/bin\nversion = 3.13.5\n", "3.13.5"),
        ("version = 3.13.5\nversion = 3.9\n", "3.13.5"),
        *(("", ""), (None, "")),
    ],
)
def test_machine_reads_the_version_of_the_environment(
    tmp_path: Path, config: str | None, version: str
) -> None:
    (tmp_path / "venv").mkdir()
    if config is not None:
        (tmp_path / "venv/pyvenv.cfg").write_text(config)
    assert facts_of(tmp_path)["venv"] == version


def test_machine_looks_at_the_environment_that_is_named(tmp_path: Path) -> None:
    for name, version in (("venv", "3.9.2"), (".venv", "3.13.5")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyvenv.cfg").write_text(f"version = {version}\n")
    assert facts_of(tmp_path, venv=".venv")["venv"] == "3.13.5"
    assert facts_of(tmp_path)["venv"] == "3.9.2"


@pytest.mark.parametrize("name", ["venv", ".venv"])
def test_who_names_the_environment_is_not_asked_for_another(name: str) -> None:
    shown = {**GOOD, "other": "env"}
    assert list(problems(shown, Settings(redis_maxmemory="256mb", app_venv_dir=name))) == []


@pytest.mark.parametrize(
    ("there", "told"),
    [([], None), (["venv", ".venv"], None), ([".venv"], ".venv"), (["env"], "env")],
)
def test_machine_tells_of_an_environment_by_another_name(
    tmp_path: Path, there: list[str], told: str | None
) -> None:
    (tmp_path / "settings/env").mkdir(parents=True)  # of other things
    for name in there:
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyvenv.cfg").touch()
    assert facts_of(tmp_path).get("other") == told
    assert "other" not in facts_of(tmp_path, venv=there[0] if there else "venv")


@pytest.fixture
def theirs() -> Iterator[Path]:
    """The app's directory, of the unprivileged user nobody, which he can reach."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        (path / "app/venv").mkdir(parents=True)
        os.chown(path / "app", 65534, 65534)
        yield path / "app"


@as_root
@pytest.mark.parametrize("what", ["link", "fifo", "device", "sparse"])
def test_machine_shows_nothing_of_roots_and_waits_for_nobody(theirs: Path, what: str) -> None:
    roots = theirs.parent / "roots"
    roots.write_text("version = 3.13-secret\nexport SECRET=1\nversion = 9.9.9\n")
    roots.chmod(0o600)
    for file in (theirs / "venv/pyvenv.cfg", theirs / ".env"):
        if what == "fifo":
            os.mkfifo(file)
        elif what == "sparse":
            file.touch()
            os.truncate(file, 8 * 2**30)
            os.chown(file, 65534, 65534)
        else:
            file.symlink_to(roots if what == "link" else "/dev/zero")
    started = time.monotonic()
    facts = facts_of(theirs, user="nobody")
    assert (facts["venv"], facts["export"]) == ("", "")
    assert time.monotonic() - started < 5


@as_root
def test_machine_reads_what_only_the_apps_user_or_its_owner_may_read(theirs: Path) -> None:
    env = theirs / ".env"
    env.write_text("A=1\nexport B=2\n")
    env.chmod(0o600)
    os.chown(env, 65534, 65534)
    for user in ("nobody", "daemon"):
        assert facts_of(theirs, user=user)["export"] == "2"


@pytest.mark.parametrize(
    ("units", "unknown"),
    [
        ((), None),
        (("good.service",), None),
        (("good.service", "bad.service"), "bad.service"),
        (("bad.service", "good.service", "masked.service"), "bad.service masked.service"),
    ],
)
def test_machine_tells_which_units_systemd_has_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: tuple[str, ...], unknown: str | None
) -> None:
    script = "case $5 in good*) echo loaded ;; masked*) echo masked ;; *) echo not-found ;; esac"
    Programs(tmp_path, monkeypatch).add("systemctl", script)
    assert facts_of(tmp_path, units=units).get("unknown") == unknown


@pytest.mark.parametrize(
    ("limit", "memory"),
    [
        ("max", 1024),
        (None, 1024),
        (str(512 * 2**20), 512),
        (str(512 * 2**20 + 2**19), 512),
        (str(2**40), 1024),
    ],
)
def test_memory_is_what_the_machine_has_or_what_its_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, memory: int
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:        1048576 kB\nMemFree: 1 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
    show = machine.SHOW.replace("/proc/meminfo", f"{tmp_path}/meminfo")
    show = show.replace("/sys/fs/cgroup/memory.max", f"{tmp_path}/memory.max")
    monkeypatch.setattr(machine, "SHOW", show)
    assert facts_of(tmp_path)["memory"] == str(memory)
