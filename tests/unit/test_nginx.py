"""Whose nginx is there, when one is needed at all, and what keeps us from starting it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from celery_pi import before
from celery_pi.facts import nginx as nginx_facts
from celery_pi.facts.nginx import Nginx, NginxState, is_needed, problems
from celery_pi.operations import idle_service as module
from celery_pi.operations.idle_service import idle_service
from celery_pi.preflight import machine
from celery_pi.settings import Settings
from tests.helpers.fake import Programs, run, sh

OURS = Nginx(installed=True, installed_by_us=True, runs=True, default="ours")
HIS = Nginx(installed=True, runs=True, default="debian")
IN_OURS = Nginx(
    installed=True, installed_by_us=True, runs=True, owners_files=("/etc/nginx/sites-enabled/his",)
)


@pytest.mark.parametrize(
    ("nginx", "with_server", "without"),
    [(Nginx(), True, False), (OURS, True, False), (HIS, True, True), (IN_OURS, True, True)],
)
def test_nginx_is_needed_for_flower_by_our_block_or_by_one_of_his(
    nginx: Nginx, with_server: bool, without: bool
) -> None:
    assert is_needed(Settings(), nginx) is with_server
    assert is_needed(Settings(nginx_server=False), nginx) is without
    assert is_needed(Settings(flower=False), nginx) is False


def test_nginx_that_he_has_switched_off_takes_no_flower_in() -> None:
    stopped = Nginx(installed=True)
    assert not is_needed(Settings(nginx_server=False), stopped)


def test_only_what_is_ours_alone_may_stop() -> None:
    assert OURS.may_stop
    assert not HIS.may_stop
    assert not IN_OURS.may_stop
    assert not Nginx().may_stop


@pytest.mark.parametrize(
    ("nginx", "ends"),
    [
        (Nginx(), True),
        (Nginx(installed=True, installed_by_us=True, default="debian"), True),
        (Nginx(installed=True, installed_by_us=True, default="owner"), False),
        (HIS, False),
    ],
)
def test_debians_site_is_ours_to_end_where_we_bring_nginx(nginx: Nginx, ends: bool) -> None:
    assert nginx.default_is_ours_to_end is ends


def test_what_he_has_switched_off_or_removed_is_not_served_again() -> None:
    (said,) = problems(Settings(), Nginx(installed=True))
    assert said.endswith("systemctl enable --now nginx, or set nginx_server = False")
    (said,) = problems(Settings(), Nginx(owners_files=("/etc/nginx/sites-enabled/his",)))
    assert "/etc/nginx/sites-enabled/his would be served again" in said
    for settings in (Settings(nginx_server=False), Settings(flower=False)):
        assert not list(problems(settings, Nginx(installed=True)))
    for fit in (
        Nginx(),
        OURS,
        HIS,
        IN_OURS,
        Nginx(default="debian"),
        Nginx(True, installed_by_us=True),
    ):
        assert not list(problems(Settings(), fit))


def test_who_has_apache_is_told_what_to_write_and_not_to_stop_it() -> None:
    (said,) = machine._web_problems({"web": "apache2 nginx"})
    assert said.startswith("apache2 listens on port 80 or 443")
    assert "nginx_server = False" in said
    assert "flower = False" in said
    assert "stop" not in said


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nginx as Debian has it, installed, with our files in it, and running."""
    conf = tmp_path / "nginx"
    for name in ("conf.d", "sites-available", "sites-enabled"):
        (conf / name).mkdir(parents=True)
    (conf / "nginx.conf").write_text("http {\n}\n")
    (conf / "sites-available/default").write_text("server { root /var/www/html; }\n")
    (conf / "conf.d/celery-pi.conf").write_text(f"{nginx_facts.MARK}: it is ours\n")
    sums = [
        f" {conf / name} {hashlib.md5((conf / name).read_bytes()).hexdigest()}"
        for name in ("nginx.conf", "sites-available/default")
    ]
    programs = Programs(tmp_path, monkeypatch)
    told = "\n".join(["nginx installed", "nginx-common installed", *sums])
    programs.add("dpkg-query", f"cat <<'END'\n{told}\nEND")
    programs.add("systemctl", "printf 'ActiveState=active\\nUnitFileState=disabled\\n'")
    monkeypatch.setattr(nginx_facts, "CONF", str(conf))
    monkeypatch.setattr(nginx_facts, "DEFAULT", str(conf / "sites-enabled/default"))
    monkeypatch.setattr(before, "INSTALLED", str(tmp_path / "installed"))
    monkeypatch.setattr(before, "HISTORY", str(tmp_path / "history"))
    (tmp_path / "installed").write_text("nginx-extras\nnginx\n")
    (conf / "sites-enabled/default").symlink_to(conf / "sites-available/default")
    return conf


def found() -> Nginx:
    fact = NginxState()
    return fact.process(sh(fact.command()))


def test_debians_site_is_debians_until_it_is_changed(conf: Path) -> None:
    assert found() == Nginx(installed=True, installed_by_us=True, runs=True, default="debian")
    default = conf / "sites-enabled/default"
    (conf / "sites-available/default").write_text("server { root /srv; }\n")
    assert (found().default, found().owners_files) == ("owner", (str(default),))
    default.unlink()
    default.write_text(f"{nginx_facts.MARK}: off\n")
    assert (found().default, found().owners_files) == ("ours", ())
    default.unlink()
    assert (found().default, found().owners_files) == ("", ())


def test_each_file_of_his_that_nginx_would_read_is_his(conf: Path, tmp_path: Path) -> None:
    site, snippet = conf / "sites-enabled/a site", conf / "conf.d/his.conf"
    snippet.write_text("gzip on;\n")
    (tmp_path / "elsewhere").write_text(f"{nginx_facts.MARK}\n")
    site.symlink_to(tmp_path / "elsewhere")
    (conf / "conf.d/his.txt").write_text("not read")
    assert set(found().owners_files) == {str(site), str(snippet)}
    (conf / "nginx.conf").write_text("http {\n  gzip on;\n}\n")
    assert set(found().owners_files) == {str(site), str(snippet)}, "no site is in it"
    (conf / "nginx.conf").write_text("http {\n  server {\n  }\n}\n")
    assert str(conf / "nginx.conf") in found().owners_files


def test_pipe_in_the_place_of_a_site_is_not_waited_for(conf: Path) -> None:
    os.mkfifo(conf / "sites-enabled/pipe")
    assert found().owners_files == (str(conf / "sites-enabled/pipe"),)


@pytest.mark.usefixtures("conf")
def test_nginx_that_was_there_or_is_gone_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed").write_text("nginx-extras\n")
    assert not found().installed_by_us
    (tmp_path / "again").mkdir()
    programs = Programs(tmp_path / "again", monkeypatch)
    programs.add("dpkg-query", "echo nginx config-files")
    programs.add("systemctl", "printf 'ActiveState=inactive\\nUnitFileState=\\n'")
    seen = found()
    assert (seen.installed, seen.runs, seen.default) == (False, False, "owner")
    programs.add("dpkg-query", "exit 1")
    assert not found().installed


def test_service_that_nobody_needs_is_stopped_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    said = tmp_path / "state"
    said.write_text("ActiveState=inactive\nUnitFileState=enabled\n")
    programs.add(
        "systemctl",
        f"case $1 in show) cat {said} ;; disable) echo ActiveState=inactive >{said} ;; esac",
    )
    monkeypatch.setattr(module, "RECORDS", str(tmp_path))
    (tmp_path / "nginx.service").write_text("")
    assert run(lambda: idle_service(name="Stop it", unit="nginx.service")).changed == [True]
    assert "systemctl disable --quiet --now nginx.service" in programs.calls()
    assert not (tmp_path / "nginx.service").exists()
    assert run(lambda: idle_service(name="Stop it", unit="nginx.service")).changed == [False]
    assert not [call for call in programs.calls() if "disable" in call]
