"""nginx beside a site of the owner's: his certificate, his server block, his mistakes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.harness import deploy, fingerprint, pids, wait_for
from tests.helpers.site import ask, login, served
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

THEIRS = "/etc/nginx/sites-enabled/theirs"
CERTIFICATES = "/etc/letsencrypt/live/nids.example"
MAKE = (
    "mkdir -p {0} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc "
    "-days 90 -subj /CN=nids.example -keyout {0}/key.{1} -out {0}/chain.{1} 2>&1"
)
SITE = """
server {
    listen 443 ssl;
    server_name %s;
    ssl_certificate /etc/celery-pi-test.pem;
    ssl_certificate_key /etc/celery-pi-test.pem;
    include %s;
    location ~ \\.(js|css)$ { return 410; }
    location / { return 200 theirs; }
}
"""


@pytest.fixture
def site(pi: VirtualPi) -> Iterator[VirtualPi]:
    """A machine on which the owner may have a site of his own, for as long as a test lasts."""
    pi.run("sh", "-c", MAKE.format("/root/pair", "1"))
    pi.run("sh", "-c", "cat /root/pair/*.1 >/etc/celery-pi-test.pem")
    yield pi
    pi.run("sh", "-c", f"rm -rf {THEIRS} /root/pair /etc/celery-pi-test.pem /etc/letsencrypt")
    assert deploy(pi).status == 0
    assert ask(pi, "/flower/", login(pi)).status == 200


def theirs(pi: VirtualPi, name: str, include: str = "snippets/celery-pi-*.conf") -> None:
    pi.run("sh", "-c", f"cat >{THEIRS}", input=(SITE % (name, include)).encode())
    pi.run("nginx", "-t")
    pi.run("systemctl", "reload", "nginx")


def test_owners_certificate_is_served_and_so_is_its_successor(site: VirtualPi) -> None:
    """Certbot's are links that are made to lead elsewhere."""
    archive = "/etc/letsencrypt/archive"
    site.run("sh", "-c", MAKE.format(archive, "1") + " && " + MAKE.format(archive, "2"))
    lead = f"mkdir -p {CERTIFICATES} && cd {CERTIFICATES} && for f in key chain; do ln -sfT "
    lead += f"{archive}/$f.N $f; done"
    site.run("sh", "-c", lead.replace("N", "1"))
    own = {
        "nginx_certificate": f"{CERTIFICATES}/chain",
        "nginx_certificate_key": f"{CERTIFICATES}/key",
        "nginx_names": "nids.example",
    }
    running = pids(site)["nginx"]
    assert deploy(site, **own).status == 0
    assert served(site) == print_of(site, f"{archive}/chain.1")
    assert deploy(site, **own).changed == set()
    site.run("sh", "-c", lead.replace("N", "2"))
    wanted = print_of(site, f"{archive}/chain.2")
    wait_for("the new one is served", lambda: served(site) == wanted)
    assert ask(site, "/flower", name="nids.example").status == 301
    assert running != pids(site)["nginx"], "another block listens since then"


def print_of(pi: VirtualPi, path: str) -> str:
    return pi.run(
        "openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", path
    ).stdout.strip()


def test_owners_server_block_takes_flower_in_and_outlives_it(site: VirtualPi) -> None:
    # Before: an nginx of ours that shows no site of his is stopped.
    theirs(site, "nids.example")
    assert deploy(site, nginx_server=False).status == 0
    before = fingerprint(site)[THEIRS]
    style = "/flower/static/css/flower.css"
    for path, who, status in (
        ("/", "", 200),
        ("/app.css", "", 410),
        ("/flower/", "", 401),
        (style, login(site), 200),
    ):
        assert ask(site, path, who, name="nids.example").status == status, path
    assert deploy(site, nginx_server=False).changed == set()
    assert deploy(site, flower=False).status == 0
    assert ask(site, "/flower/", name="nids.example").body == "theirs"
    assert fingerprint(site)[THEIRS] == before


def test_location_that_the_site_cannot_do_without_is_not_removed(site: VirtualPi) -> None:
    theirs(site, "nids.example", "/etc/nginx/snippets/celery-pi-flower.conf")
    kept = login(site)
    failed = deploy(site, flower=False)
    assert failed.status == 1
    assert "celery-pi-flower.conf" in failed.stderr
    site.run("nginx", "-t")
    assert ask(site, "/", name="nids.example").body == "theirs"
    assert kept


def test_name_that_is_the_owners_is_refused(site: VirtualPi) -> None:
    theirs(site, "nids.example")
    failed = deploy(site, nginx_names="nids.example")
    assert failed.status == 1
    assert "Another server block has the name nids.example" in failed.stderr
    assert ask(site, "/", name="nids.example").body == "theirs"


def test_broken_configuration_of_the_owners_leaves_nginx_running(site: VirtualPi) -> None:
    running = pids(site)["nginx"]
    site.run("sh", "-c", f"echo 'server {{ nonsense; }}' >{THEIRS}")
    failed = deploy(site, nginx_names="nids.example")
    assert failed.status == 1
    assert 'unknown directive "nonsense"' in failed.stderr
    assert pids(site)["nginx"] == running
    assert ask(site, "/flower/", login(site)).status == 200


def test_port_that_another_server_has_is_refused(pi: VirtualPi) -> None:
    pi.run("systemctl", "stop", "nginx")
    server = ("python3", "-m", "http.server", "443")
    pi.run("systemd-run", "--quiet", "--unit=apache", *server)
    wait_for("it listens", lambda: pi.run("ss", "-Htln", "sport = :443").stdout)
    refused = deploy(pi)
    assert refused.status == 1
    assert "python3 listens on port 80 or 443, where nginx is to show Flower" in refused.stderr
    pi.run("systemctl", "stop", "apache")
    assert deploy(pi).changed == {"nginx | Run"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"nginx_certificate": "/etc/no.pem", "nginx_certificate_key": "/etc/no.key"},
            "it has no file /etc/no.pem /etc/no.key (nginx_certificate, nginx_certificate_key)",
        ),
        ({"nginx_certificate": "/etc/no.pem"}, "must be given together with nginx_certificate"),
        ({"flower_user": "a:b"}, "flower_user should match"),
        ({"flower_password_file": "/nonexistent"}, "flower_password_file /nonexistent cannot be"),
    ],
)
def test_bad_setting_is_refused(pi: VirtualPi, settings: dict[str, object], said: str) -> None:
    before = fingerprint(pi)
    refused = deploy(pi, **settings)
    assert refused.status == 1
    assert said in refused.stderr
    assert fingerprint(pi) == before
