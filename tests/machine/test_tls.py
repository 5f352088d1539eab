"""TLS: who is let in, who is refused, and certificates that renew themselves."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from cryptography import x509

from tests.helpers.certificates import (
    CA,
    CA_KEY,
    DAY,
    NOW,
    PAIR,
    TLS,
    authority_of,
    days_left,
    other_authority,
    pair,
)
from tests.helpers.harness import APP, deploy, in_app, pids, plan, prove, redis, send, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

SCRIPT = "/usr/local/lib/celery-pi/redis-certificates"
UNIT = "redis-certificates.service"
TIMER = "redis-certificates.timer"
DEAF = f"/run/systemd/system/{TIMER}.d"
DEAF_TO_THE_CLOCK = b"[Timer]\nOnClockChange=no\n"
MAKE = "Redis | TLS | Make the certificates"
CONFIGURE, RENEW = "Redis | TLS | Configure", "Redis | TLS | Renew them in time"
REMOVE = "Redis | TLS | Remove"
SWITCH = {
    *("Redis | Configure", "Redis | Run", "App | Set the broker in .env"),
    *("Worker | Run", "Beat | Run", "Command | Install celery-pi"),
}


@pytest.fixture(scope="module")
def tls(pi: VirtualPi) -> Iterator[VirtualPi]:
    """The machine with TLS switched on; off again for the next module.

    A minute after the boot the timer looks once, and would mend what a test has broken; so it would
    whenever this host's clock is set.
    """
    wait_for("a minute has passed since the boot", lambda: age(pi) > 65, 90)
    pi.run("sh", "-c", f"mkdir -p {DEAF} && cat >{DEAF}/test.conf", input=DEAF_TO_THE_CLOCK)
    pi.run("systemctl", "daemon-reload")
    announced = plan(pi, redis_tls=True).planned
    assert deploy(pi, redis_tls=True).changed == announced == SWITCH | {CONFIGURE, MAKE, RENEW}
    yield pi
    pi.run("sh", "-c", f"rm -r {DEAF} && systemctl daemon-reload")
    assert deploy(pi).status == 0


def age(pi: VirtualPi) -> float:
    """Seconds since systemd came up, in a container with its host's clock."""
    begun = pi.run("systemctl", "show", "-P", "UserspaceTimestampMonotonic").stdout
    return float(pi.run("cat", "/proc/uptime").stdout.split()[0]) - int(begun) / 1e6


def write(pi: VirtualPi, path: str, content: bytes) -> None:
    """Another content; owner and mode stay."""
    pi.run("sh", "-c", f"cat >{path}", input=content)


def serve(pi: VirtualPi, content: bytes) -> None:
    """Have Redis serve another certificate, which lies on the disk as well."""
    write(pi, PAIR, content)
    assert redis(pi, "config", "set", "tls-cert-file", PAIR, "tls-key-file", PAIR) == "OK"


def served(pi: VirtualPi) -> x509.Certificate:
    """What a client gets that trusts everybody."""
    shown = pi.run("openssl", "s_client", "-connect", "127.0.0.1:6380", input=b"", check=False)
    return x509.load_pem_x509_certificate(shown.stdout.encode())


def listening(pi: VirtualPi) -> set[str]:
    """Addresses and TCP ports of Redis."""
    lines = pi.run("ss", "-Htlnp").stdout.splitlines()
    return {line.split()[3] for line in lines if "redis-server" in line}


def ping(pi: VirtualPi, url: str) -> str:
    """What redis-py says to that URL, a Python expression in which `url` is the app's."""
    code = (
        "import redis; from observations_nids import config; url = config.celery.broker_url\n"
        f"try: print(redis.Redis.from_url({url}).ping())\n"
        "except (redis.RedisError, OSError) as error: print(error)"
    )
    return in_app(pi, code)


def app_says(pi: VirtualPi) -> list[str]:
    """What the app's broker and its result store say, with the URL in its .env."""
    code = (
        "from observations_nids import celery_app as app\n"
        "for ask in (app.connection_for_write().connect, app.backend.client.ping):\n"
        "    try: ask(); print('ok')\n"
        "    except Exception as error: print(error)"
    )
    return in_app(pi, code).splitlines()


def test_site_works_over_tls_and_no_other_port_is_open(tls: VirtualPi) -> None:
    assert "SUCCESS" in prove(tls)
    url = "from observations_nids import config; print(config.celery.broker_url)"
    assert in_app(tls, url).startswith("rediss://")
    assert send(tls, "add", 2, 3) == "5"
    assert "127.0.0.1:6380" in listening(tls) <= {"127.0.0.1:6380", "[::1]:6380"}


def test_services_use_the_socket_all_the_same(tls: VirtualPi) -> None:
    clients = [line for line in redis(tls, "client", "list").splitlines() if "user=celery" in line]
    assert clients
    assert all("laddr=/run/redis-celery/redis.sock:0" in line for line in clients)


def test_second_deploy_changes_nothing(tls: VirtualPi) -> None:
    assert deploy(tls, redis_tls=True).changed == set()


def test_certificate_is_for_this_pi_for_90_days_and_strict_clients_take_it(tls: VirtualPi) -> None:
    certificate = served(tls)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = {"localhost", "raspberrypi", "raspberrypi.local"}
    assert set(names.get_values_for_type(x509.DNSName)) == hosts
    assert {str(ip) for ip in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1"}
    assert 89 < days_left(certificate) < 90
    assert 3649 < days_left(authority_of(tls).certificate) < 3650
    strict = ("-x509_strict", "-purpose", "sslserver", "-verify_ip", "127.0.0.1")
    assert tls.run("openssl", "verify", *strict, "-CAfile", CA, PAIR).stdout == f"{PAIR}: OK\n"


def test_nobody_else_reads_a_key(tls: VirtualPi) -> None:
    shown = tls.run("find", TLS, "-printf", "%P %m %u:%g\\n").stdout.splitlines()
    assert set(shown) == {
        " 755 root:root",
        "ca.crt 644 root:root",
        "private 700 root:root",
        "private/ca.key 600 root:root",
        "redis.pem 640 root:redis",
    }
    assert "PRIVATE KEY" not in tls.run("journalctl", "-q", "-a").stdout


OURS = f"url.split('?')[0] + '?ssl_cert_reqs=required&ssl_ca_certs={CA}'"
CLIENTS = {
    "the app's": ("url", "True"),
    "with the CA": (OURS, "True"),
    "that asks for the name too": (f"{OURS} + '&ssl_check_hostname=true'", "True"),
    "without the CA": ("url.split('?')[0]", "CERTIFICATE_VERIFY_FAILED"),
    "with another CA": (f"{OURS}.replace('{CA}', '/tmp/other.crt')", "CERTIFICATE_VERIFY_FAILED"),
    "in plain text": ("url.replace('rediss:', 'redis:').split('?')[0]", "Connection"),
    "at the plain port": ("'redis://127.0.0.1:6379'", "refused"),
}


@pytest.mark.parametrize(("url", "said"), CLIENTS.values(), ids=CLIENTS.keys())
def test_client_is_let_in_or_refused(tls: VirtualPi, url: str, said: str) -> None:
    write(tls, "/tmp/other.crt", other_authority(authority_of(tls)).pem)  # noqa: S108
    assert said in ping(tls, url)


def test_other_tools_are_let_in_with_the_ca_alone(tls: VirtualPi) -> None:
    def cli(*options: str) -> str:
        done = tls.run("timeout", "10", "redis-cli", "-p", "6380", *options, "ping", check=False)
        return done.stdout + done.stderr

    assert "NOAUTH" in cli("--tls", "--cacert", CA)
    assert "certificate verify failed" in cli("--tls")
    assert not {"PONG", "NOAUTH"} & set(cli().split())

    def s_client(*options: str) -> int:
        words = ("openssl", "s_client", "-connect", "127.0.0.1:6380", "-verify_return_error")
        return tls.run(*words, *options, input=b"", check=False).returncode

    assert s_client("-CAfile", CA, "-tls1_2") == s_client("-CAfile", CA, "-tls1_3") == 0
    assert s_client() != 0
    assert s_client("-CAfile", CA, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0") != 0


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (NOW - 90 * DAY, NOW - DAY, "certificate has expired"),
        (NOW + DAY, NOW + 90 * DAY, "certificate is not yet valid"),
        (NOW - DAY, NOW + 90 * DAY, "certificate verify failed"),
    ],
    ids=["expired", "not valid yet", "of another CA"],
)
def test_app_refuses_a_bad_certificate_until_the_next_run_has_mended_it(
    tls: VirtualPi, start: datetime, end: datetime, said: str
) -> None:
    authority, before = authority_of(tls), pids(tls)
    if start < NOW < end:
        authority = other_authority(authority)
    serve(tls, pair(authority, start, end))
    assert [said in answer for answer in app_says(tls)] == [True, True]
    assert plan(tls, redis_tls=True).planned == {MAKE}
    tls.run("systemctl", "start", UNIT)
    assert app_says(tls) == ["ok", "ok"]
    assert days_left(served(tls)) > 89
    assert pids(tls) == before


def test_renewal_is_served_without_a_restart_and_without_a_failed_task(tls: VirtualPi) -> None:
    serve(tls, pair(authority_of(tls), end=NOW + 10 * DAY))
    assert days_left(served(tls)) < 10
    before = pids(tls)
    # A process each for some of them, so that there are new connections all the time.
    some = (
        "from observations_nids import tasks\n"
        "print(sum(tasks.add.delay(i, 1).get(30) for i in range(50)))"
    )
    with ThreadPoolExecutor(2) as senders:
        sent = [senders.submit(in_app, tls, some) for _ in range(12)]
        wait_for("the first is done", lambda: sent[0].done())
        tls.run("systemctl", "start", UNIT)
        assert not sent[-1].done(), "they were over before the renewal"
        assert [sender.result() for sender in sent] == [str(50 * 51 // 2)] * 12
    assert days_left(served(tls)) > 89
    assert pids(tls) == before


def test_certificate_with_more_than_30_days_is_left_alone(tls: VirtualPi) -> None:
    serve(tls, pair(authority_of(tls), end=NOW + 31 * DAY))
    assert plan(tls, redis_tls=True).planned == set()
    tls.run("systemctl", "start", UNIT)
    assert 30 < days_left(served(tls)) < 31


def test_renewal_that_was_cut_off_before_redis_took_it_is_completed(tls: VirtualPi) -> None:
    write(tls, PAIR, pair(authority_of(tls)))
    before = served(tls)
    assert plan(tls, redis_tls=True).planned == {MAKE}
    assert deploy(tls, redis_tls=True).changed == {MAKE}
    assert served(tls) != before
    assert (
        served(tls).public_key()
        == x509.load_pem_x509_certificate(tls.run("cat", PAIR).stdout.encode()).public_key()
    )


def test_ca_is_renewed_a_year_before_its_end_and_its_old_copies_stay_good(tls: VirtualPi) -> None:
    write(tls, CA, authority_of(tls).until(NOW + 300 * DAY).pem)
    tls.run("cp", CA, "/tmp/old.crt")  # noqa: S108
    before = served(tls)
    tls.run("systemctl", "start", UNIT)
    assert days_left(authority_of(tls).certificate) > 3600
    assert served(tls) == before, "what the CA has signed is still good"
    warned = tls.run("journalctl", "-q", "-o", "cat", "-u", UNIT, "-p", "warning").stdout
    assert "celery-pi: renewed the CA: clients elsewhere need the new" in warned
    serve(tls, pair(authority_of(tls), end=NOW + DAY))
    tls.run("systemctl", "start", UNIT)
    assert ping(tls, OURS) == ping(tls, OURS.replace(CA, "/tmp/old.crt")) == "True"  # noqa: S108


def test_redis_comes_back_when_its_certificate_was_away_at_its_start(tls: VirtualPi) -> None:
    tls.run("rm", PAIR)
    tls.run("systemctl", "restart", "redis-server", check=False)
    tls.run("systemctl", "start", UNIT)
    wait_for("Redis answers", lambda: app_says(tls) == ["ok", "ok"])


DAMAGE = {
    "certificate deleted": f"rm {PAIR}",
    "key of another certificate": (
        f"sed -i '/PRIVATE KEY/,$d' {PAIR}; openssl genpkey -algorithm EC"
        f" -pkeyopt ec_paramgen_curve:P-256 >>{PAIR}"
    ),
    "certificate torn": f"truncate -s 300 {PAIR}",
    "key readable by all": f"chmod 0644 {PAIR}",
    "CA's key readable by all": f"chmod 0644 {CA_KEY}",
    "CA's key given away": f"chown www-data {CA_KEY}",
    "CA's certificate deleted": f"rm {CA}",
    "CA's certificate torn": f": >{CA}; mkdir {TLS}/private/new",
    "CA's key deleted": f"rm {CA_KEY}",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_and_mended(tls: VirtualPi, damage: str) -> None:
    """By the script, which a deploy asks and the timer runs."""
    before = pids(tls)
    tls.run("sh", "-c", damage)
    assert tls.run(SCRIPT, "--check").stdout
    tls.run(SCRIPT)
    assert tls.run(SCRIPT, "--check").stdout == ""
    assert pids(tls) == before
    assert app_says(tls) == ["ok", "ok"]


DRIFTS = {
    "certificates deleted": (f"rm -r {TLS}", {MAKE}),
    "unit edited, timer stopped": (
        f"sed -i /ProtectHome/d /etc/systemd/system/{UNIT}; systemctl stop {TIMER};"
        "systemctl daemon-reload",
        {CONFIGURE, RENEW},
    ),
}


@pytest.mark.parametrize(("break_it", "expected"), DRIFTS.values(), ids=DRIFTS.keys())
def test_drift_is_planned_and_mended(tls: VirtualPi, break_it: str, expected: set[str]) -> None:
    before = pids(tls)
    tls.run("sh", "-c", break_it)
    assert plan(tls, redis_tls=True).planned == expected
    assert deploy(tls, redis_tls=True).changed == expected
    assert plan(tls, redis_tls=True).planned == set()
    assert pids(tls) == before
    assert app_says(tls) == ["ok", "ok"]


def test_key_that_others_could_read_is_not_used_again(tls: VirtualPi) -> None:
    before = served(tls).public_key()
    tls.run("chmod", "0644", PAIR)
    tls.run("systemctl", "start", UNIT)
    assert served(tls).public_key() != before


def test_socket_without_tcp_and_tls_are_refused_together(tls: VirtualPi) -> None:
    outcome = deploy(tls, redis_tls=True, redis_socket=True)
    assert outcome.status == 1
    assert "redis_tls must be off while redis_socket is on" in outcome.stderr


def test_switched_off_nothing_is_left_but_the_certificates(tls: VirtualPi) -> None:
    kept = authority_of(tls).pem
    announced = plan(tls).planned
    # As if a run had been cut off while it removed the units.
    tls.run("rm", f"/etc/systemd/system/{TIMER}")
    assert deploy(tls).changed == announced == SWITCH | {REMOVE}
    assert deploy(tls).changed == set()
    assert "127.0.0.1:6379" in listening(tls) <= {"127.0.0.1:6379", "[::1]:6379"}
    assert "rediss" not in tls.run("cat", f"{APP}/.env").stdout
    assert "SUCCESS" in prove(tls)
    left = ("systemctl", "list-units", "--all", "--plain", "--no-legend", "redis-certificates.*")
    assert tls.run(*left).stdout == ""
    found = tls.run("find", "/etc", "/usr/local", "/var/lib", "-name", "*redis-certificates*")
    assert found.stdout == ""
    assert deploy(tls, redis_tls=True).changed == SWITCH | {CONFIGURE, RENEW}
    assert authority_of(tls).pem == kept, "clients need not learn another CA"
