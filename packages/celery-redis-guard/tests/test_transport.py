"""What the broker's URL says, as our transport connects."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Connection
from redis import ConnectionPool, Redis

pytestmark = pytest.mark.fast

LOGIN = "celery:s3cret%2Fp%40ss%3Aw%25rd"


@pytest.fixture
def parameters(monkeypatch: pytest.MonkeyPatch) -> Any:
    """With what redis-py would connect. kombu asks Redis first, which is not there."""
    monkeypatch.setattr(Redis, "ping", lambda _: True)

    def connected(url: str, **options: Any) -> dict[str, Any]:
        with Connection(url, transport="celeryredisguard:Transport", **options) as connection:
            given = connection.default_channel._connparams()
        made = ConnectionPool(**given).make_connection()
        shown = {key: given.get(key) for key in ("username", "password", "db", "socket_timeout")}
        place = vars(made)
        return {**shown, "kind": type(made).__name__, "at": place.get("path") or place["port"]}

    return connected


SECRET = {"username": "celery", "password": "s3cret/p@ss:w%rd", "socket_timeout": None}


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("redis://", {}, {"at": 6379, "db": 0, "kind": "Connection", "socket_timeout": None}),
        (f"redis://{LOGIN}@host:7/3", {}, {**SECRET, "at": 7, "db": 3, "kind": "Connection"}),
        (
            f"redis://{LOGIN}@%2Frun%2FThe%20Site.sock/3",
            {},
            {**SECRET, "at": "/run/The Site.sock", "db": 3, "kind": "UnixDomainSocketConnection"},
        ),
        (
            "redis://%2Frun%2Fredis.sock",
            {
                "transport_options": {
                    "socket_timeout": 7,
                    "socket_connect_timeout": 2,
                    "socket_keepalive": True,
                }
            },
            {"at": "/run/redis.sock", "db": 0, "socket_timeout": 7},
        ),
        (
            f"rediss://{LOGIN}@host/3",
            {"ssl": {"ssl_cert_reqs": "required"}},
            {**SECRET, "at": 6379, "db": 3, "kind": "SSLConnection"},
        ),
    ],
)
def test_connection_is_what_the_url_says(
    parameters: Any, url: str, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = parameters(url, **options)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("rediss://host/0", "needs broker_use_ssl"),
        ("amqp://host/0", "must begin with redis"),
    ],
)
def test_no_password_goes_out_in_clear_text_or_to_another_kind_of_broker(
    parameters: Any, url: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        parameters(url)
