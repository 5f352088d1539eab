"""Nothing of the owner's is served by a web server that we install, start or leave behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.harness import APP, deploy, wait_for
from tests.helpers.site import ask, login
from tests.helpers.status_output import ask as ask_status
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

DEFAULT = "/etc/nginx/sites-enabled/default"
AVAILABLE = "/etc/nginx/sites-available/default"
RECORD = "/var/lib/celery-pi/before/installed"
CHECK = "Files of the app over HTTP"
SECRET = "SECRET_KEY=served"  # noqa: S105  what is hunted
PURGE = (
    "systemctl stop nginx; apt-get -q -y purge nginx nginx-common; rm -rf /etc/nginx /var/log/nginx"
)
# Asks each 10 ms; what it has seen it writes when it is ended.
HUNT = """
import http.client, signal, sys, time
seen = set()
def end(*_):
    print(*sorted(seen)); sys.exit()
signal.signal(signal.SIGTERM, end)
print("begun", flush=True)
while True:
    for port in (80, 443):
        there = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            there.request("GET", "/nids/.env", headers={"Host": sys.argv[1]})
            seen.add(there.getresponse().status)
        except (OSError, http.client.HTTPException):
            pass
        there.close()
    time.sleep(0.01)
"""


@pytest.fixture
def hunted(pi: VirtualPi) -> Iterator[VirtualPi]:
    """A machine that has a project where Debian's site of nginx has its root."""
    pi.run("sh", "-c", f"mkdir -p /var/www/html/nids; echo {SECRET} >/var/www/html/nids/.env")
    yield pi
    pi.run("rm", "-rf", "/var/www/html/nids")


def hunt(pi: VirtualPi) -> None:
    """Begin to ask for it without end."""
    pi.run("sh", "-c", "cat >/run/hunt.py", input=HUNT.encode())
    run = ("--quiet", "--unit=hunt", "-p", "StandardOutput=file:/run/hunt.out")
    pi.run("systemd-run", *run, "python3", "/run/hunt.py", "192.0.2.1")
    wait_for("it begins", lambda: "begun" in pi.run("cat", "/run/hunt.out", check=False).stdout)


def seen(pi: VirtualPi) -> set[str]:
    """What came of all questions: statuses."""
    pi.run("systemctl", "stop", "hunt")
    said = pi.run("cat", "/run/hunt.out").stdout.split()
    pi.run("rm", "/run/hunt.out")
    assert said[:1] == ["begun"]
    return set(said[1:])


def state(pi: VirtualPi) -> tuple[str, str]:
    """Whether nginx runs, and whether it will after a boot."""
    asked = [
        pi.run("systemctl", what, "nginx", check=False) for what in ("is-active", "is-enabled")
    ]
    return asked[0].stdout.strip(), asked[1].stdout.strip().replace("not-found", "")


def ours_again(pi: VirtualPi) -> None:
    """The record says again that nginx came by us."""
    pi.run("sh", "-c", f"echo nginx >>{RECORD}; LC_ALL=C sort -o {RECORD} {RECORD}")


def test_debians_site_is_not_served_while_nginx_is_installed_nor_later(hunted: VirtualPi) -> None:
    hunted.run("sh", "-c", PURGE)
    hunt(hunted)
    assert deploy(hunted).status == 0
    assert "200" not in seen(hunted)
    assert "nginx" in hunted.run("cat", RECORD).stdout.split()
    hunted.reboot()
    hunt(hunted)
    wait_for("nginx answers", lambda: ask(hunted, "/flower/", login(hunted)).status == 200)
    assert "200" not in seen(hunted)
    assert ask(hunted, "/nids/.env", name="192.0.2.1", plain=True).status == 301
    assert deploy(hunted).changed == set()


def test_hunt_would_have_seen_it(hunted: VirtualPi) -> None:
    """What Debian's package does by itself, and what it did when we installed it."""
    hunted.run("ln", "-sfT", AVAILABLE, DEFAULT)
    hunt(hunted)
    hunted.run("systemctl", "reload", "nginx")
    wait_for(
        "it is served",
        lambda: ask(hunted, "/nids/.env", name="192.0.2.1", plain=True).status == 200,
    )
    assert "200" in seen(hunted)
    told = deploy(hunted)
    assert told.changed == {"Packages | Keep Debian's default site off", "nginx | Run"}
    assert ask(hunted, "/nids/.env", name="192.0.2.1", plain=True).status == 301


def test_audit_names_server_and_url_of_what_is_served(pi: VirtualPi) -> None:
    """Debian's site with another root, as an owner may have it; the app lies below."""
    assert CHECK not in ask_status(pi, "audit").names("wrong")
    pi.run(
        "sh",
        "-c",
        f"rm {DEFAULT}; sed 's,root /var/www/html;,root /var/www;,' {AVAILABLE} >{DEFAULT}",
    )
    pi.run("systemctl", "reload", "nginx")
    wait_for(
        "it is served",
        lambda: ask(pi, f"{APP.removeprefix('/var/www')}/.env", name="x", plain=True).status == 200,
    )
    told = ask_status(pi, "audit")
    assert CHECK in told.names("wrong")
    found = told[CHECK]["found"]
    assert "the app's .env" in {each["what"] for each in found}
    assert f"http://{pi.address}/observations_nids/.env" in {each["url"] for each in found}
    text = pi.run("celery-pi", "audit", check=False).stdout
    assert "nginx serves" in text
    assert SECRET.partition("=")[0] not in text
    assert deploy(pi).status == 0, "a site that is the owner's stays"
    assert CHECK in ask_status(pi, "audit").names("wrong")
    pi.run("rm", DEFAULT)
    assert deploy(pi).status == 0
    assert CHECK not in ask_status(pi, "audit").names("wrong")


TUNNEL = (
    "systemd-socket-activate -l 127.0.0.1:5555 /usr/lib/systemd/systemd-socket-proxyd "
    "/run/celery-flower/flower.sock"
)


def test_nginx_is_not_installed_beside_another_server_and_flower_has_its_tunnel(
    hunted: VirtualPi,
) -> None:
    hunted.run("sh", "-c", PURGE)
    server = ("python3", "-m", "http.server", "80", "--directory", "/run/systemd")
    hunted.run("systemd-run", "--quiet", "--unit=his", *server)
    wait_for("it listens", lambda: hunted.run("ss", "-Htln", "sport = :80").stdout)
    told = deploy(hunted, nginx_server=False)
    assert told.status == 0
    assert hunted.run("sh", "-c", "command -v nginx", check=False).stdout == ""
    assert "Flower is reached by an ssh tunnel alone" in told.stderr
    assert deploy(hunted, nginx_server=False).changed == set()
    refused = deploy(hunted)
    assert refused.status == 1
    assert "set nginx_server = False" in refused.stderr
    assert "stop" not in refused.stderr.partition("where nginx is to show Flower")[2]
    hunted.run("systemd-run", "--quiet", "--unit=tunnel", *TUNNEL.split())
    get = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:5555/flower/"
    wait_for("the tunnel is there", lambda: hunted.run("ss", "-Htln", "sport = :5555").stdout)
    assert hunted.run("sh", "-c", get).stdout == "401"
    secret = "$(cat /etc/celery-pi/secrets/flower_login)"  # noqa: S105
    assert hunted.run("sh", "-c", f'{get} -u "{secret}"').stdout == "200"
    assert "nginx" not in hunted.run("celery-pi", "prove").stdout
    assert ask_status(hunted, "status").names("wrong") == set()
    hunted.run("systemctl", "stop", "tunnel", "his")
    assert deploy(hunted).status == 0
    assert state(hunted) == ("active", "enabled")


@pytest.mark.parametrize("settings", [{"flower": False}, {"nginx_server": False}])
def test_nginx_that_we_have_brought_ends_with_its_use(
    pi: VirtualPi, settings: dict[str, object]
) -> None:
    assert state(pi) == ("active", "enabled")
    assert deploy(pi, **settings).status == 0
    assert deploy(pi, **settings).changed == set()
    assert state(pi) == ("inactive", "disabled")
    assert (
        pi.run("ls", "-A", "/etc/nginx/sites-enabled", "/etc/nginx/conf.d").stdout.count("pi") == 0
    )
    assert deploy(pi).status == 0
    assert state(pi) == ("active", "enabled")


@pytest.mark.parametrize("settings", [{"flower": False}, {"nginx_server": False}, {}])
def test_nginx_of_the_owners_goes_on_as_it_was(
    hunted: VirtualPi, settings: dict[str, object]
) -> None:
    """His Debian site too."""
    hunted.run("sed", "-i", "/^nginx$/d", RECORD)
    hunted.run("ln", "-sfT", AVAILABLE, DEFAULT)
    hunted.run("systemctl", "reload", "nginx")
    assert deploy(hunted, **settings).status == 0
    assert state(hunted) == ("active", "enabled")
    assert ask(hunted, "/nids/.env", name="192.0.2.1", plain=True).status == 200
    hunted.run(
        "sh", "-c", f"rm {DEFAULT}; echo nginx >>{RECORD}; LC_ALL=C sort -o {RECORD} {RECORD}"
    )
    assert deploy(hunted).status == 0
    assert ask(hunted, "/nids/.env", name="192.0.2.1", plain=True).status == 301


def test_nginx_that_the_owner_has_switched_off_is_not_started(pi: VirtualPi) -> None:
    pi.run("sed", "-i", "/^nginx$/d", RECORD)
    pi.run("systemctl", "disable", "--now", "nginx")
    refused = deploy(pi)
    assert refused.status == 1
    assert "systemctl enable --now nginx, or set nginx_server = False" in refused.stderr
    assert state(pi) == ("inactive", "disabled")
    assert deploy(pi, nginx_server=False).status == 0
    assert state(pi) == ("inactive", "disabled")
    ours_again(pi)
    assert deploy(pi).status == 0
    assert state(pi) == ("active", "enabled")
