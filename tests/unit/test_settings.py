"""Settings: what is refused, with which sentence, and what is accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from celery_pi import secrets
from celery_pi.deploys.history import begun
from celery_pi.deploys.rollback import CannotGoBack, data_arguments
from celery_pi.settings import (
    POLICIES,
    Settings,
    _listed,
    load_settings,
    of_memory,
    size_in_bytes,
    with_new_names,
    without_wrong,
)

BAD_VALUES: dict[str, list[Any]] = {
    "app_dir": ["", "/", "var/www", "/srv/app/", "/srv/my app", "/srv/$(id)", "/srv/a\n", None],
    "app_module": ["", "1st", "my-app", "a b", "a;b"],
    "app_user": ["", "Root", "a b", "0pi", "x" * 33, 33],
    "app_pins": [
        [],
        "",
        "redis==5.2.1",
        ["redis==5.2.1"],
        ["celery"],
        ["celery>=5"],
        ["celery==5.*"],
        ["celery==5.5.3", "redis"],
        ["celery==5.5.3 --pre"],
        ["celery==5.5.3", "celery @ file:///x"],
    ],
    "app_requirements": ["", "a b", "x;y", "$(id)"],
    "replace_handmade": ["", "maybe", 2, None],
    "app_venv_dir": [
        *("", ".", "..", "../venv", "a/b", "/srv/venv", "a b", "venv\n", "$(id)", None),
        *(".env", ".git", "media", "logs"),
    ],
    "app_units": [["gunicorn"], "x.timer", "a/b.service", [".service"], ["a b.service"], [None], 5],
    "redis_port": [0, 80, 1023, 65536, -1, "abc", 6379.5, None, []],
    "redis_tls": ["maybe", 2, None],
    "redis_tls_port": [0, 1023, 65536, "abc", None],
    "redis_database": [-1, 16, "x", None],
    "redis_socket": ["", "maybe", 2, None],
    "redis_key_prefix": ["birds", ":", "a b:", "birds::", "a*:", "birds:\n", None],
    "redis_app_keys": [[""], ["a b"], ["schlüssel:*"], ["a\n"], ['"a"'], ["it's:*"], [1], None],
    "redis_maxmemory": [
        *("", "256", 256, "1.5gb", "256 mb", "15mb", "16383kb", "0gb", "-64mb"),
        *("0%", "51%", "-1%", "12.5%", "25 %", "%", "25%\n", 25, 0.25),
    ],
    "redis_maxmemory_policy": ["", "volatile", "random", "Volatile-TTL", "allkeys-", 1],
    "redis_loglevel": ["", "info", "NOTICE"],
    "redis_password_file": [1, ["a"]],
    "celery_queues": [[], "", ",", ["a b"], ["a,b"], ["$(id)"], ["a/b"], [1], None],
    "celery_concurrency": [0, 65, "auto", None],
    "celery_min_concurrency": [0, 2, 3, -1, "auto"],
    "celery_memory_max": ["", "512", 512, "127mb", "0%", "101%", "1.5gb"],
    "celery_longest_countdown": [-1, "1h", None],
    "celery_max_tasks_per_child": [0, -1, "many"],
    "celery_max_memory_per_child": ["200", "1mb", 200],
    "celery_time_limit": [0, -1, "1h"],
    "celery_loglevel": ["info", "NOTICE", 10],
    "app_writable": [
        [""],
        ["/"],
        ["../x"],
        ["a/../b"],
        ["a b"],
        ["%h"],
        ["a/"],
        ["a\n"],
        [1],
        None,
    ],
    "worker_guard": ["", "yes", True, None],
    "worker_network": ["", "maybe", 2, None],
    "journal_max_use": ["256", 256, "15mb", "1.5gb", "10%"],
    "backup": ["", "maybe", 2, None],
    "backup_time": ["", "2:00", "24:00", "02:60", "02:00:00", "02:00\n", None],
    "backup_keep": [0, -1, 367, "all", None],
    "backup_app": ["", "maybe", 2, None],
    "backup_databases": [[""], ["/a"], ["../x"], ["a/../b"], ["a b"], ["a/"], ["a\n"], [1], None],
    "backup_mariadb": ["", "a-b", "a b", "`", "x" * 65, 1],
    "backup_restic_repository": ["", "a b", "é", "rest:https://u:p@host/", 1],
    "backup_restic_password_file": ["/only-the-password", 1, ["a"]],
    "raspberry_pi": ["", "maybe", 2, None],
    "updates": ["", "maybe", 2, None],
    "updates_time": ["", "4:00", "24:00", "04:60", "04:00:00", "0400", "04:00\n", 400, None],
    "updates_reboot": ["", "now", "5:00", "24:00", 5],
    "updates_redis": ["", "maybe", 2, None],
    "beat_max_interval": [0, 301, "1m"],
    "flower": ["", "maybe", 2, None],
    "flower_user": ["", "a:b", "a b", "é", "x" * 65, None],
    "flower_password_file": [1, ["a"]],
    "nginx_server": ["maybe", None],
    "nginx_names": ["*.example", "Nids.example", ["a b"], "a;b", "a..b", "_", "http://a"],
    "nginx_certificate": ["", "x.pem", "/etc/a b.pem"],
    "nginx_certificate_key": ["/etc/only-the-key.pem"],
    "firewall": ["", "maybe", 2, None],
    "firewall_allow": [
        *(
            "8000",
            "8000/",
            "0/tcp",
            "65536/tcp",
            "80-90/tcp",
            "80/TCP",
            "http",
            ["8000/tcp\n"],
            "٨/tcp",
        ),
        *("8000/tcp from", "8000/tcp from any", "8000/tcp from 10.0.0.1/8", "1/udp from 0.0.0.0/0"),
        *("8000/tcp from 10.0.0.256", "1/tcp from ::/0", "1/tcp from 10.0.0.0/33", "1/tcp;reboot"),
        *(["5555/tcp"], ["6379/tcp"], "6380/udp", "6379/tcp from 10.0.0.1", [8000], None, 8000),
    ],
    "firewall_only_ours": ["", "maybe", 2, None],
    "bans": ["", "maybe", 2, None],
    "ban_tries": [0, 1, 101, "many", None],
    "ban_find_seconds": [0, 9, -1, "1h", None],
    "ban_seconds": [0, 9, -1, "1h", None],
    "ban_ignore": [
        *("localhost", "192.168.1", "192.168.1.7/24", "10.0.0.0/33", "::g", "0.0.0.0/0", "::/0"),
        *([""], ["a b"], ["10.0.0.1\n"], [1], None, 5),
    ],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, bad in BAD_VALUES.items() for value in bad]
)
def test_bad_value_is_refused_in_one_sentence_that_names_setting_and_value(
    name: str, value: Any
) -> None:
    settings, problems = load_settings({name: value})
    assert settings is None
    (sentence,) = problems
    assert sentence.startswith((f"{name} must ", f"{name} should "))
    told = [value, _listed(value), *(value if isinstance(value, list) else [])]
    assert sentence.endswith(tuple(f" (it is {wrong!r})" for wrong in told))
    assert "\n" not in sentence


def test_every_setting_has_bad_values_above() -> None:
    assert set(BAD_VALUES) == set(Settings.model_fields)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_policy_that_evicts_queues_is_refused_with_the_reason(policy: str) -> None:
    _, problems = load_settings({"redis_maxmemory_policy": policy})
    assert problems == [
        f"redis_maxmemory_policy must not be {policy}: it evicts whole queues when memory is full, "
        f"and every task in them is lost (it is '{policy}')"
    ]


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [
        ("redis_prot", "redis_port"),
        ("redis_max_memory", "redis_maxmemory"),
        ("celery_concurency", "celery_concurrency"),
        ("beat_interval", "beat_max_interval"),
        ("app_directory", "app_dir"),
    ],
)
def test_misspelt_setting_is_refused_with_the_nearest_known_one(
    misspelt: str, nearest: str
) -> None:
    assert load_settings({misspelt: 1}) == (
        None,
        [f"{misspelt} is no setting; did you mean {nearest}?"],
    )


def test_setting_unlike_any_other_is_refused_without_a_guess() -> None:
    assert load_settings({"xyzzy": 1}) == (None, ["xyzzy is no setting"])


def test_value_of_an_unknown_setting_is_not_shown_for_it_may_be_a_secret() -> None:
    assert "hunter2" not in str(load_settings({"redis_password": "hunter2"}))


def test_all_problems_are_told_at_once() -> None:
    _, problems = load_settings({"redis_port": 80, "beat_max_interval": 0, "redis_prot": 7000})
    assert sorted(problem.split()[0] for problem in problems) == [
        "beat_max_interval",
        "redis_port",
        "redis_prot",
    ]


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("redis_port", 7000, 7000),
        ("redis_port", "7000", 7000),
        ("redis_port", 1024, 1024),
        ("redis_port", 65535, 65535),
        ("redis_database", 15, 15),
        ("redis_maxmemory", "16mb", "16mb"),
        ("redis_maxmemory", "1GB", "1GB"),
        ("redis_loglevel", "debug", "debug"),
        ("app_dir", "/srv/app", "/srv/app"),
        ("app_module", "project.celery_app", "project.celery_app"),
        ("app_venv_dir", ".venv", ".venv"),
        ("app_venv_dir", "env-3.13", "env-3.13"),
        ("app_pins", ["celery[redis]==5.5.3"], ("celery[redis]==5.5.3",)),
        ("redis_maxmemory", "1%", "1%"),
        ("redis_maxmemory", "50%", "50%"),
        ("redis_socket", "true", True),
        ("redis_key_prefix", "birds:", "birds:"),
        ("redis_key_prefix", "", ""),
        ("redis_app_keys", "cache:*,:1:*", ("cache:*", ":1:*")),
        ("redis_app_keys", ["a,b"], ("a,b",)),
        ("app_units", None, None),
        ("app_units", "", ()),
        ("app_units", [], ()),
        ("app_units", "gunicorn.service", ("gunicorn.service",)),
        ("app_units", "a@1.service, b.target", ("a@1.service", "b.target")),
        ("app_pins", "celery==5.5.3,redis==5.2.1", ("celery==5.5.3", "redis==5.2.1")),
        ("celery_queues", "celery,images", ("celery", "images")),
        ("celery_queues", ["a.b-c_d"], ("a.b-c_d",)),
        ("redis_password_file", None, None),
        ("celery_concurrency", "4", 4),
        ("celery_min_concurrency", "1", 1),
        ("celery_min_concurrency", None, None),
        ("celery_memory_max", None, None),
        ("celery_memory_max", "50%", "50%"),
        ("celery_memory_max", "128mb", "128mb"),
        ("celery_longest_countdown", "86400", 86400),
        ("firewall_allow", "", ()),
        ("firewall_allow", "8000/tcp, 53/udp", ("8000/tcp", "53/udp")),
        ("firewall_allow", ["1/tcp from 10.0.0.0/8"], ("1/tcp from 10.0.0.0/8",)),
        ("firewall_allow", "1/tcp from fd00::1", ("1/tcp from fd00::1",)),
        ("backup_databases", "", ()),
        ("backup_databases", "a.db,data/db.sqlite3", ("a.db", "data/db.sqlite3")),
        ("backup_mariadb", None, None),
        ("backup_mariadb", "nids", "nids"),
        ("updates_time", "00:00", "00:00"),
        ("updates_time", "23:59", "23:59"),
        ("updates_reboot", "04:30", "04:30"),
        ("updates_reboot", None, None),
    ],
)
def test_good_value_is_accepted_as_the_data_option_parses_it(
    name: str, given: Any, value: Any
) -> None:
    settings, problems = load_settings({name: given})
    assert problems == []
    assert getattr(settings, name) == value


@pytest.mark.parametrize("policy", POLICIES)
def test_policy_that_keeps_queues_is_accepted(policy: str) -> None:
    assert load_settings({"redis_maxmemory_policy": policy})[1] == []


def test_defaults_are_valid_when_given_as_values() -> None:
    defaults = Settings().model_dump()
    assert load_settings(defaults) == (Settings(), [])


def test_settings_cannot_be_changed_once_they_were_checked() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().redis_port = 80


@pytest.mark.parametrize(
    ("text", "size"),
    [("1kb", 1024), ("64mb", 64 * 1024**2), ("2gb", 2 * 1024**3), ("16MB", 16 * 1024**2)],
)
def test_size_is_that_of_redis_conf_in_powers_of_two(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "mb", "64", "64m", "64 mb", "64mib", "1.5gb", "64mb\n"])
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 256mb"):
        size_in_bytes(text)


def test_size_in_digits_that_redis_cannot_read_is_refused() -> None:
    assert load_settings({"redis_maxmemory": "٢٥٦mb"})[1] != []  # noqa: RUF001


@pytest.mark.parametrize(
    ("text", "memory", "size"),
    [
        ("25%", 1024, "256mb"),
        ("50%", 511, "255mb"),
        ("1%", 99, "0mb"),
        ("100mb", 1024, "100mb"),
        ("1GB", 512, "1GB"),
    ],
)
def test_share_of_memory_is_a_size_in_whole_mebibytes(text: str, memory: int, size: str) -> None:
    assert of_memory(text, memory) == size


def test_share_of_memory_out_of_bounds_is_refused_with_the_bounds() -> None:
    for text in ("0%", "51%"):
        assert load_settings({"redis_maxmemory": text})[1] == [
            f"redis_maxmemory must be from 1% to 50% of the machine's memory (it is '{text}')"
        ]


def test_worker_without_a_queue_is_refused_in_words_that_need_no_python() -> None:
    (sentence,) = load_settings({"celery_queues": ""})[1]
    assert sentence.startswith("celery_queues should have at least 1 item")


def test_too_little_memory_for_a_workers_process_is_refused_with_its_own_reason() -> None:
    (sentence,) = load_settings({"celery_max_memory_per_child": "1mb"})[1]
    assert "Redis" not in sentence


def test_pin_that_is_an_option_is_refused() -> None:
    assert load_settings({"app_pins": ["celery==5.5.3", "--pre==1"]})[1] != []


def test_port_that_redis_was_given_is_not_opened() -> None:
    (sentence,) = load_settings({"redis_port": 7000, "firewall_allow": "7000/tcp"})[1]
    assert sentence.startswith("firewall_allow must not open 7000: Redis and Flower are for this")


def test_repository_and_its_password_go_together() -> None:
    both = {"backup_restic_repository": "sftp:pi@nas:/b", "backup_restic_password_file": "/x"}
    assert load_settings(both)[1] == []
    for name in both:
        assert load_settings({name: both[name]})[1] == [
            "backup_restic_password_file must be given together with backup_restic_repository "
            f"(it is {both[name] if 'password' in name else None!r})"
        ]


# -- what is right beside what is wrong


@pytest.mark.parametrize(
    ("wrong", "doubtful"),
    [
        ({}, set()),
        ({"redis_port": 80}, {"redis_port"}),
        ({"redis_prot": 7000}, {"redis_prot", "redis_port"}),
        ({"redis_prot": 7000, "redis_port": 7001}, {"redis_prot"}),
        ({"xyzzy": 1}, {"xyzzy"}),
    ],
)
def test_what_is_right_counts_beside_what_is_wrong(
    wrong: dict[str, Any], doubtful: set[str]
) -> None:
    settings, found, sentences = without_wrong({"app_dir": "/srv/site", **wrong})
    assert settings.app_dir == "/srv/site"
    assert set(found) == doubtful
    assert settings.redis_port == (7001 if "xyzzy" not in wrong and len(wrong) == 2 else 6379)
    assert [sentence.split()[0] for sentence in sentences] == [*wrong][:1]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        # Misspelt or wrong, either half of a pair is there all the same.
        (
            {"nginx_certifcate": "/etc/c.pem", "nginx_certificate_key": "/etc/k.pem"},
            ["nginx_certifcate"],
        ),
        (
            {"nginx_certificate": "/etc/c.pem", "nginx_certificate_kye": "/etc/k.pem"},
            ["nginx_certificate_kye"],
        ),
        (
            {"nginx_certificate": "c d", "nginx_certificate_key": "/etc/k.pem"},
            ["nginx_certificate"],
        ),
        ({"backup_restic_repository": 1, "backup_restic_password_file": "/x"}, ["backup_restic"]),
        ({"celery_concurrency": 0, "celery_min_concurrency": 3}, ["celery_concurrency"]),
        # By itself it is wrong.
        (
            {"redis_prot": 1, "nginx_certificate": "/etc/c.pem"},
            ["redis_prot", "nginx_certificate_key"],
        ),
        ({"redis_socket": True, "redis_tls": True}, ["redis_tls"]),
    ],
)
def test_nothing_is_made_of_what_only_contradicts_something_wrong(
    given: dict[str, Any], told: list[str]
) -> None:
    settings, doubtful, sentences = without_wrong(given)
    assert settings == Settings()
    assert len(sentences) == len(told)
    for name in told:
        assert any(sentence.startswith(name) for sentence in sentences), sentences
    assert doubtful >= {name for name in given if name in Settings.model_fields}


# -- what is opened on the machine that deploys

LOCAL = sorted(Settings.local_files())


def test_password_files_are_of_the_type_that_no_pi_is_told() -> None:
    assert {name for name in Settings.model_fields if name.endswith("_password_file")} == set(LOCAL)
    assert LOCAL


@pytest.mark.parametrize("name", Settings.model_fields)
def test_setting_whose_file_is_opened_here_is_of_that_type(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever setting could be a path: where what is opened is it, it is one of those."""
    opened: list[str] = []

    def read_text(path: Path, **_: Any) -> str:
        opened.append(str(path))
        return "x" * 40

    monkeypatch.setattr(Path, "read_text", read_text)
    settings = Settings.model_construct(**{**Settings().model_dump(), name: "/marked"})
    secrets.supplied_problems(settings)
    assert (opened == ["/marked"]) == (name in LOCAL)


def test_nobody_opens_a_file_here_but_by_those_settings() -> None:
    """`supplied` is the one way, and is given nothing else."""
    root = Path(secrets.__file__).parent.parent
    sources = [*root.glob("celery_pi/**/*.py"), *root.glob("tasks/*.py")]
    calls = {
        call.split(")")[0].removeprefix("settings.")
        for source in sources
        for call in source.read_text().split(" supplied(")[1:]
    }
    assert {call for call in calls if not call.startswith("path")} == set(LOCAL)


@pytest.mark.parametrize("name", LOCAL)
def test_it_is_in_no_record_on_no_pi_and_taken_from_none(name: str) -> None:
    site: dict[str, Any] = dict.fromkeys(LOCAL, "/my/own")
    settings = Settings(**site, backup_restic_repository="sftp:nas:/b")
    record = json.loads(begun([], settings).text)
    for told in (record["given"], record["settings"], settings.on_the_pi()):
        assert not set(LOCAL) & set(told)
        assert told["backup_restic_repository"] == "sftp:nas:/b"
    with pytest.raises(CannotGoBack, match=f"its setting {name} is none"):
        data_arguments({name: "/root/.ssh/id_ed25519"})


def test_old_name_of_a_setting_is_accepted_with_a_sentence_and_not_beside_the_new_one() -> None:
    settings, sentences = load_settings({"board": False})
    assert settings == Settings(raspberry_pi=False)
    assert sentences == []
    told = ["the setting board is called raspberry_pi now: rename it"]
    assert with_new_names({"board": False, "flower": True}) == (
        {"raspberry_pi": False, "flower": True},
        told,
    )
    _, sentences = load_settings({"board": False, "raspberry_pi": True})
    assert sentences == ["board is no setting"]
    assert data_arguments({"board": False}) == ["--data", "board=false"], (
        "an older source knows it so"
    )
