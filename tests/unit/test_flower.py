"""Flower's login and nginx' helpers, without a Pi."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pyinfra import host

from celery_pi.operations import flower_login as module
from celery_pi.operations.flower_login import flower_login, login_file
from celery_pi.render import from_file
from celery_pi.secrets import supplied_problems
from celery_pi.settings import Settings
from tests.helpers.fake import Programs, Run, as_root, mode, run


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Pi keeps the login; not there yet."""
    path = tmp_path / "secrets" / "flower_login"
    monkeypatch.setattr(module, "DIRECTORY", str(path.parent))
    monkeypatch.setattr(module, "PATH", str(path))
    return path


def store(dry: bool = False, **settings: str) -> Run:
    def task() -> None:
        login = flower_login(host, Settings(**settings))  # type: ignore[arg-type]
        login_file(name="Store the login", login=login)

    return run(task, dry=dry)


@as_root
def test_login_is_generated_once_and_only_roots(stored: Path) -> None:
    assert store().changed == [True]
    name, _, password = stored.read_text().partition(":")
    assert (name, len(password), mode(stored)) == ("flower", 43, 0o600)
    assert store().changed == [False]
    stored.chmod(0o644)
    assert store().changed == [True]
    assert stored.read_text() == f"{name}:{password}"
    assert mode(stored) == 0o600


@as_root
def test_other_name_keeps_the_password_and_neither_is_shown(stored: Path) -> None:
    store()
    password = stored.read_text().partition(":")[2]
    done = store(flower_user="Ann")
    assert stored.read_text() == f"Ann:{password}"
    assert password not in done.shown


@as_root
@pytest.mark.parametrize(
    ("password", "is_kept"), [("1234", False), ("x" * 15, False), ("x" * 16, True)]
)
def test_password_that_could_be_guessed_is_replaced(
    stored: Path, password: str, is_kept: bool
) -> None:
    store()
    stored.write_text(f"flower:{password}")
    assert store().changed == [not is_kept]
    assert (stored.read_text() == f"flower:{password}") is is_kept


@as_root
def test_owners_password_is_taken_from_his_file(stored: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("a:b,c d'e\"f\\g$h%41\n")
    store(flower_password_file=str(own))
    assert stored.read_text() == "flower:a:b,c d'e\"f\\g$h%41"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x" * 15, "holds 15 characters, and 16 are the least"),
        ("é" * 16, "holds a character that is not ASCII"),
        ("x" * 16 + "\t", "cannot be printed"),
    ],
)
def test_password_that_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str) -> None:
    own = tmp_path / "own"
    own.write_text(text)
    (problem,) = supplied_problems(Settings(flower_password_file=str(own)))
    assert said in problem
    assert text not in problem


class Helper:
    """A script of ours on paths of a directory's own."""

    def __init__(self, name: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = from_file(f"/usr/local/lib/celery-pi/{name}").content
        for path in ("/etc/celery-pi/secrets", "/etc/celery-pi", "/etc/nginx"):
            text = text.replace(f"{path}/", f"{directory}/")
        self.script = directory / name
        self.script.write_text(text)
        programs = Programs(directory, monkeypatch)
        programs.add("chown")
        # The owner of what is here cannot be root and www-data.
        programs.add("stat", "echo 640:root:www-data")

    def run(self, *arguments: str) -> str:
        command = ["sh", str(self.script), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_login_is_hashed_once_for_nginx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = Helper("nginx-login", tmp_path, monkeypatch)
    login, hashed = tmp_path / "flower_login", tmp_path / "celery-pi.htpasswd"
    login.write_text("ann:a:b'c\"d\\e$f g")
    assert "nginx has none" in helper.run("--check")
    assert not hashed.exists()
    helper.run()
    first = hashed.read_text()
    assert first.startswith("ann:$6$rounds=1000$")
    assert mode(hashed) == 0o640
    assert helper.run("--check") == ""
    helper.run()
    assert hashed.read_text() == first
    login.write_text("ann:another")
    assert "or another" in helper.run("--check")
    helper.run()
    assert helper.run("--check") == ""


def test_certificate_signs_itself_and_is_made_again_for_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = Helper("nginx-certificate", tmp_path, monkeypatch)
    names, pair = tmp_path / "site_names", tmp_path / "site.pem"
    names.write_text("a.example b.example\n")
    assert "missing" in helper.run("--check")
    helper.run()
    assert mode(pair) == 0o600
    assert helper.run("--check") == ""
    names.write_text("c.example\n")
    assert "for other names than c.example" in helper.run("--check")
    helper.run()
    shown = ["openssl", "x509", "-in", str(pair), "-noout", "-ext", "subjectAltName"]
    said = subprocess.run(shown, check=True, capture_output=True, text=True).stdout
    assert said.split()[-1] == "DNS:c.example"
    pair.write_text(pair.read_text()[:200])
    assert "missing or damaged" in helper.run("--check")
