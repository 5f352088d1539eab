"""Flower behind nginx: the login, what is open, what it shows, and that it goes without a trace."""

from __future__ import annotations

import re
import ssl
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests.helpers.harness import APP, deploy, exposure, fingerprint, in_app, plan, redis, wait_for
from tests.helpers.redis_users import ask as ask_redis
from tests.helpers.site import LOGIN, api, ask, login
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

SOCKET = "/run/celery-flower/flower.sock"
ERRORS = "/var/log/nginx/error.log"
# The expression of fail2ban's own filter nginx-http-auth, its macros filled in.
BANNED = re.compile(
    r'^\S+ \S+ \[error\] \d+#\d+: \*\d+ user "(?:[^"]+|.*?)":? (?:password mismatch|was not found '
    r'in "[^\"]*"), client: (?P<client>\S+), server: \S*, '
    r'request: "\S+ \S+ HTTP/\d+\.\d+", host: "\S+"(?:, referrer: "\S+")?\s*$',
    re.MULTILINE,
)
WEAKER = b"[Service]\nCapabilityBoundingSet=~\nSystemCallFilter=\nProtectSystem=no\n"
# What stays without it, or was never ours.
THEIRS = (
    *(APP, "/usr/share/", "/usr/lib/python3/", "/etc/fail2ban/jail.d/"),
    "/var/lib/celery-pi/started/nginx",
    "/usr/local/lib/celery-pi/guard/",  # the worker's package, of which Flower's app is a module
)
# Every kind of character that a configuration file, a shell or Flower could trip over.
NASTY = "a:b,c'd\"e\\f$g`h i%j{k}#l;m&n|o<p>q!"


@pytest.mark.parametrize("page", ["", "workers", "api/workers", "metrics", "healthcheck", "none"])
def test_nothing_is_shown_without_the_login(pi: VirtualPi, page: str) -> None:
    refused = ask(pi, f"/flower/{page}")
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"] == 'Basic realm="Flower"'
    assert "nginx/" not in refused.headers["Server"] + refused.body


def test_static_files_are_not_shown_either(pi: VirtualPi) -> None:
    style = "/flower/static/css/flower.css"
    assert ask(pi, style).status == 401
    assert ask(pi, style, login(pi)).status == 200


@pytest.mark.parametrize("who", ["flower:wrong", "nobody:wrong", "flower:"])
def test_wrong_password_is_logged_for_a_ban(pi: VirtualPi, who: str) -> None:
    before = pi.run("wc", "-c", ERRORS).stdout.split()[0]
    wrong = ask(pi, "/flower/", who)
    assert wrong.status == 401
    logged = pi.run("tail", "-c", f"+{int(before) + 1}", ERRORS).stdout
    host = pi.run("sh", "-c", "ip route | awk '/^default/ { print $3 }'").stdout.strip()
    assert [found["client"] for found in BANNED.finditer(logged)] == [host]


def test_there_are_two_doors_with_one_key(pi: VirtualPi) -> None:
    """Whoever comes past nginx, as the app's tasks may, needs the password all the same."""
    curl = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", SOCKET)
    page = "http://flower/flower/"
    assert pi.run(*curl, page, user="www-data").stdout == "401"
    assert pi.run(*curl, "-u", login(pi), page, user="www-data").stdout == "200"
    assert pi.run(*curl, page, user="pi", check=False).returncode == 7


def test_a_form_of_another_site_does_nothing(pi: VirtualPi) -> None:
    shutdown = "/flower/api/worker/pool/grow/nobody@nowhere"
    cross, own = (
        ask(pi, shutdown, login(pi), method="POST", Sec_Fetch_Site=site, Content_Length="0").status
        for site in ("cross-site", "same-origin")
    )
    assert (cross, own) == (403, 404)  # the worker is unknown


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("https://raspberrypi.evil.example", 403),
        ("https://raspberrypi evil", 403),
        ("null", 403),
        ("https://raspberrypi", 404),  # the worker is unknown
        ("", 404),
    ],
)
def test_neither_does_one_of_an_older_browser(pi: VirtualPi, origin: str, status: int) -> None:
    shutdown = "/flower/api/worker/pool/grow/nobody@nowhere"
    found = ask(pi, shutdown, login(pi), method="POST", Content_Length="0", Origin=origin)
    assert found.status == status


def test_plain_http_and_the_bare_name_lead_to_flower(pi: VirtualPi) -> None:
    plain = ask(pi, "/flower/", plain=True)
    assert (plain.status, plain.headers["Location"]) == (301, "https://raspberrypi/flower/")
    for path in ("/", "/flower"):
        assert ask(pi, path).headers["Location"] == "https://raspberrypi/flower/"
    assert "Strict-Transport-Security" not in ask(pi, "/flower/", login(pi)).headers


def test_debians_site_is_nowhere(pi: VirtualPi) -> None:
    assert ask(pi, "/", name="other.example", plain=True).status == 301
    assert ask(pi, "/index.html", name="other.example").status == 404


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_only_modern_tls_is_spoken(pi: VirtualPi, version: ssl.TLSVersion, taken: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    connection = HTTPSConnection(pi.address, timeout=30, context=context)
    if taken:
        connection.connect()
    else:
        with pytest.raises(ssl.SSLError):
            connection.connect()
    connection.close()


def test_pages_bear_security_headers(pi: VirtualPi) -> None:
    headers = ask(pi, "/flower/", login(pi)).headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


def test_prometheus_with_the_login_reads_the_metrics(pi: VirtualPi) -> None:
    def online() -> bool:
        shown = ask(pi, "/flower/metrics", login(pi)).body
        return 'flower_worker_online{worker="celery@raspberrypi"} 1.0' in shown

    wait_for("the worker is online", online)


def test_queue_lengths_are_shown_also_of_higher_priorities(pi: VirtualPi) -> None:
    pi.run("systemctl", "stop", "celery-worker", "celery-beat")
    code = "[add.apply_async((n, n), priority=3 * n) for n in range(4)]"
    code = f"from observations_nids.tasks import add; {code}"
    in_app(pi, code)
    length = int(redis(pi, "llen", "celery"))
    assert api(pi, "queues/length")["active_queues"] == [{"name": "celery", "messages": length + 3}]
    cell = rf"<td>celery</td>\s*<td[^>]*>{length + 3}</td>"
    assert re.search(cell, ask(pi, "/flower/broker", login(pi)).body)
    pi.run("systemctl", "start", "celery-worker", "celery-beat")


def shown(pi: VirtualPi, task: str) -> bool:
    return bool((api(pi, "tasks") or {}).get(task, {}).get("state") == "SUCCESS")


def finished(pi: VirtualPi) -> str:
    """ID of a task that has just been done."""
    code = "from observations_nids.tasks import add; r = add.delay(2, 40); r.get(timeout=60)"
    return in_app(pi, f"{code}; print(r.id)")


def test_first_task_of_a_worker_is_shown_at_its_time(pi: VirtualPi) -> None:
    """The worker's zone is Django's and another than the Pi's; events are in UTC."""
    pi.run("systemctl", "restart", "celery-worker")
    now = float(pi.run("date", "+%s").stdout)
    task = finished(pi)
    wait_for("it is shown", lambda: shown(pi, task))
    assert abs(api(pi, f"task/info/{task}")["received"] - now) < 60


def test_state_outlives_a_restart_and_a_damaged_one_is_set_aside(pi: VirtualPi) -> None:
    task = finished(pi)
    wait_for("it is shown", lambda: shown(pi, task))
    pi.run("systemctl", "restart", "celery-flower")
    wait_for("it is still shown", lambda: shown(pi, task))
    pi.run("systemctl", "stop", "celery-flower")
    state = "/var/lib/celery-flower/state"
    pi.run(
        "sh", "-c", f"head -c 3000 {state} >{state}.cut; cat {state}.cut >{state}; rm {state}.cut"
    )
    pi.run("systemctl", "start", "celery-flower")
    pi.run("journalctl", "--sync")
    said = pi.run("journalctl", "-u", "celery-flower", "-o", "cat", "-n", "30").stdout
    assert "celery-pi: set the damaged state aside" in said
    assert not shown(pi, task)
    pi.run("rm", f"{state}.damaged")


def test_task_for_which_a_stop_has_waited_is_shown_as_done(pi: VirtualPi) -> None:
    """Its last event comes after the event loop, which sends events, has ended."""
    code = "from observations_nids.tasks import sleep; print(sleep.delay(5).id)"
    task = in_app(pi, code)
    wait_for("it runs", lambda: (api(pi, "tasks") or {}).get(task, {}).get("state") == "STARTED")
    pi.run("systemctl", "stop", "celery-worker")
    wait_for("it is shown as done", lambda: shown(pi, task))
    pi.run("systemctl", "start", "celery-worker")


def test_tasks_are_shown_again_after_redis_was_restarted(pi: VirtualPi) -> None:
    pi.run("systemctl", "restart", "redis-server")
    wait_for("a task is shown", lambda: shown(pi, finished(pi)), 60)


@pytest.mark.parametrize(("unit", "most"), [("celery-flower", 0.4), ("nginx", 3.0)])
def test_sandbox_is_tight(pi: VirtualPi, unit: str, most: float) -> None:
    assert exposure(pi, unit) <= most
    weaker = f"/run/systemd/system/{unit}.service.d"
    pi.run("sh", "-c", f"mkdir -p {weaker}; cat >{weaker}/zz-weaker.conf", input=WEAKER)
    pi.run("systemctl", "daemon-reload")
    assert exposure(pi, unit) > most
    pi.run("rm", "-r", weaker)
    pi.run("systemctl", "daemon-reload")


def test_password_of_the_owners_works_whatever_its_characters(
    pi: VirtualPi, tmp_path: Path
) -> None:
    supplied = tmp_path / "password"
    supplied.write_text(NASTY + "\n")
    before = login(pi)
    wanted = {"flower_password_file": supplied, "flower_user": "Ann@site"}
    assert deploy(pi, **wanted).changed == {
        *("Flower | Store the login", "Flower | Configure", "Flower | Run"),
        *("nginx | Hash the login", "Command | Install celery-pi"),
    }
    assert login(pi) == f"Ann@site:{NASTY}"
    assert ask(pi, "/flower/", login(pi)).status == 200
    assert ask(pi, "/flower/", before).status == 401
    assert deploy(pi, **wanted).changed == set()
    pi.run("sh", "-c", f"printf %s {before} >{LOGIN}")
    assert deploy(pi).status == 0
    assert ask(pi, "/flower/", before).status == 200


def test_removed_it_is_gone_without_a_trace_and_comes_back(pi: VirtualPi) -> None:
    """So are its events, which cost the worker time."""
    before = installed(pi)
    assert len(before) > 10
    planned = plan(pi, flower=False).planned
    assert deploy(pi, flower=False).changed >= planned
    assert {path for path in fingerprint(pi) if is_its(path)} == set()
    assert ask_redis(pi, [["acl", "users"]]) == [
        ["admin", "backup", "celery", "default", "monitor"]
    ]
    assert "no such user" in pi.run("id", "celery-flower", check=False).stderr
    with pytest.raises(ConnectionRefusedError):
        ask(pi, "/flower/")
    with pytest.raises(ConnectionRefusedError):
        ask(pi, "/", plain=True)  # nginx was there for it alone
    assert events_of_a_task(pi) == 0
    assert deploy(pi, flower=False).changed == set()

    assert deploy(pi).status == 0
    assert installed(pi) == before
    wait_for("it shows tasks", lambda: shown(pi, finished(pi)), 60)
    wait_for("its worker sends events", lambda: events_of_a_task(pi) > 0, 60)
    assert deploy(pi).changed == set()


def installed(pi: VirtualPi) -> set[str]:
    """What a deploy puts on the disk, without what Flower itself keeps there."""
    state = "/var/lib/celery-flower/"
    return {path for path in fingerprint(pi) if is_its(path) and not path.startswith(state)}


def is_its(path: str) -> bool:
    ours = re.search(
        r"flower|htpasswd|site_names|site\.pem|zz-celery-pi|nginx.*celery-pi|celery-pi.*nginx", path
    )
    theirs = path.startswith(THEIRS)
    return bool(ours) and not theirs


def events_of_a_task(pi: VirtualPi) -> int:
    code = """
from observations_nids.celery import app
from observations_nids.tasks import add
seen = []
with app.connection() as connection:
    receiver = app.events.Receiver(connection, handlers={"*": lambda e: seen.append(e["type"])})
    with receiver.consumer_context():
        add.delay(1, 1).get(timeout=60)
        try:
            for _ in receiver.consume(limit=8, timeout=3): pass
        except OSError: pass
print(sum(kind.startswith("task-") for kind in seen))
"""
    return int(in_app(pi, code))
