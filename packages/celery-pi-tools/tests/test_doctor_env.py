"""`celery-pi doctor` and the app's `.env`: what differs is told without a secret, and put right."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from shlex import quote
from types import SimpleNamespace
from typing import Any

import pytest

from celery_pi.operations.env_file import HEADING, with_variables
from celery_pi.secrets import redis_url
from celery_pi.settings import Settings
from celery_pi_tools import env_file, redis_client
from celery_pi_tools.checks import env
from celery_pi_tools.privileges import Refused
from celery_pi_tools.redis_url import broker_url
from fake_system import fake_system
from tests.helpers.fake import ME, as_root, mode
from tests.helpers.hostile import put

pytestmark = pytest.mark.fast


PASSWORDS = ["plain-password", "a/b+c=%41:@#?é'\" "]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"redis_port": 7000, "redis_database": 3},
        {"redis_socket": True, "redis_database": 2},
        {"redis_tls": True, "redis_tls_port": 7001},
    ],
)
def test_url_is_the_one_that_a_deploy_writes(settings: dict[str, Any], password: str) -> None:
    on_the_pi = fake_system(**settings).settings
    assert broker_url(password, on_the_pi) == redis_url(password, Settings(**settings))


@pytest.mark.parametrize(
    "text",
    [
        "A=1\nB=old\n# note\nC=3",
        "B=old\r\nC='3'\r\n",
        "export B=old\nB=older\n\n  C = 3\n",
        "A=\x0b\x1c1\nB='it''s'\nC=\n",
        "B=1\nC=2\nD=x\\\n",
    ],
)
def test_env_is_changed_as_a_deploy_changes_it(text: str) -> None:
    wanted = {"B": "redis://u:p@h/0", "C": ""}
    assert env_file.with_variables(text.encode(), wanted) == with_variables(text.encode(), wanted)


def test_what_env_lacks_is_added_at_its_end() -> None:
    for text in ("", "A=1", "A=1\n", "A=1\\\n"):
        ours = with_variables(text.encode(), {"B": "2"}).replace(HEADING + b"\n", b"")
        assert env_file.with_variables(text.encode(), {"B": "2"}) == ours


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project whose `.env` is right, and a look at it."""
    (tmp_path / "redis_celery_password").write_text("s3cret-new")
    monkeypatch.setattr(redis_client, "SECRETS", str(tmp_path))
    system = fake_system(app_dir=str(tmp_path), app_user=ME)
    right = broker_url("s3cret-new", system.settings)
    path = tmp_path / ".env"
    lines = [f"{name}={quote(right)}\n" for name in env.URLS]
    path.write_text("KEEP='é ✓'\n" + "".join(lines) + "CELERY_KEY_PREFIX=\n")
    path.chmod(0o640)
    return SimpleNamespace(system=system, path=path, text=path.read_text())


@as_root
def test_right_env_is_no_problem(site: Any) -> None:
    assert env.leads_elsewhere(site.system) is None
    site.path.write_text(site.text.replace("=redis:", '="redis:').replace("/0\n", '/0"\n'))
    assert env.leads_elsewhere(site.system) is None, "quotes are the owner's choice"


@as_root
def test_old_password_is_right_while_passwords_change(site: Any) -> None:
    (site.path.parent / "redis_celery_password.old").write_text("s3cret-old\n")
    site.path.write_text(site.text.replace("s3cret-new", "s3cret-old"))
    assert env.leads_elsewhere(site.system) is None


@as_root
@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            "s3cret-new",
            "s3cret-other",
            "another password in CELERY_BROKER_URL, CELERY_RESULT_BACKEND, CELERY__",
        ),
        (":6379/0", ":7000/0", "another port"),
        (":6379/0", ":6379/5", "another database"),
        ("127.0.0.1", "10.0.0.1", "another host"),
        ("celery:s3cret-new@127.0.0.1:6379", ":s3cret-new@127.0.0.1", "another user and port"),
        ("redis://", "amqp://", "another scheme"),
        ("CELERY_BROKER_URL=", "#CELERY_BROKER_URL=", "no value in CELERY_BROKER_URL"),
        ("CELERY_KEY_PREFIX=", "CELERY_KEY_PREFIX=birds:", "another value in CELERY_KEY_PREFIX"),
        ("redis://celery", "redis://[", "no URL in CELERY_BROKER_URL, CELERY"),
        ("redis://celery", "none ", "another scheme"),
    ],
)
def test_wrong_env_is_told_without_a_secret_and_written_back(
    site: Any, before: str, after: str, told: str
) -> None:
    site.path.write_text(site.text.replace(before, after))
    found = env.leads_elsewhere(site.system)
    assert told in found.evidence
    assert "s3cret" not in "".join(found[:3])
    found.fix()
    assert env.leads_elsewhere(site.system) is None
    assert "KEEP='é ✓'\n" in site.path.read_text()
    assert mode(site.path) == 0o640
    assert {file.name for file in site.path.parent.iterdir()} == {".env", "redis_celery_password"}


@as_root
def test_env_behind_a_link_is_written_where_it_is(site: Any) -> None:
    shared = site.path.parent / "shared"
    shared.mkdir()
    real = site.path.rename(shared / ".env")
    shutil.chown(real, "daemon", "mail")
    site.path.symlink_to(real)
    real.write_bytes(site.text.replace("s3cret-new", "x").encode() + b"LATIN=\xe9\n")
    env.leads_elsewhere(site.system).fix()
    assert site.path.is_symlink()
    assert real.read_bytes() == site.text.encode() + b"LATIN=\xe9\n"
    assert (real.owner(), real.group()) == ("daemon", "mail")


@as_root
def test_env_behind_a_link_that_the_app_can_only_read_is_told_and_left(site: Any) -> None:
    """As /etc/app/.env of root's: root is not led there by a link of others."""
    for place in (site.path.parent, *site.path.parent.parents[:3]):
        place.chmod(place.stat().st_mode | 0o005)
    app, etc = site.path.parent / "app", site.path.parent / "etc"
    app.mkdir(mode=0o755)
    etc.mkdir(mode=0o755)
    real = site.path.rename(etc / ".env")
    real.chmod(0o644)
    (app / ".env").symlink_to(real)
    shutil.chown(app, "daemon")
    site.system.settings.update(app_dir=str(app), app_user="daemon")
    assert env.leads_elsewhere(site.system) is None
    real.write_text(site.text.replace("6379", "7000"))
    with pytest.raises(Refused, match="may not write"):
        env.leads_elsewhere(site.system).fix()
    assert "7000" in real.read_text()


@as_root
@pytest.mark.parametrize("what", ["fifo", "device", "sparse file", "directory", "link to a secret"])
def test_env_that_is_no_such_file_is_told_at_once_and_left(site: Any, what: str) -> None:
    site.path.unlink()
    secret = site.path.parent / "secret"
    secret.write_text("of root's")
    if what == "link to a secret":
        site.path.symlink_to(secret)
    else:
        put(site.path, what)
    if what == "link to a secret":
        for place in (site.path.parent, *site.path.parent.parents[:3]):
            place.chmod(place.stat().st_mode | 0o001)
        secret.chmod(0o600)
        shutil.chown(site.path.parent, "daemon")
        site.system.settings["app_user"] = "daemon"
    begun = time.monotonic()
    found = env.leads_elsewhere(site.system)
    assert time.monotonic() - begun < 2
    assert found.fix is None
    assert "of root's" not in "".join(found[:3])


@as_root
def test_env_that_becomes_a_link_is_not_written_through(site: Any, tmp_path: Path) -> None:
    """The app's user has the directory: what he names, root neither reads nor writes for him."""
    target = tmp_path / "root's"
    target.mkdir(mode=0o755)
    (target / "profile").write_text("as it was")
    directory = site.path.parent / "app"
    directory.mkdir()
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(place.stat().st_mode | 0o001)
    shutil.chown(directory, "daemon", "daemon")
    (directory / ".env").symlink_to(target / "profile")
    with pytest.raises(Refused):
        env.write(f"{directory}/.env", {"A": "chosen"}, "daemon")
    assert (target / "profile").read_text() == "as it was"
    assert [file.name for file in target.iterdir()] == ["profile"]


@as_root
def test_env_that_is_missing_is_not_made_up(site: Any) -> None:
    site.path.unlink()
    found = env.leads_elsewhere(site.system)
    assert "is missing" in found.evidence
    assert found.fix is None
