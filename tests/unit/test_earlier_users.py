"""Redis' users from before us: whom the list lets in, and for how long."""

from __future__ import annotations

import pytest

from celery_pi.operations.earlier_users import _others, has_default, without_administration
from celery_pi.secrets import USERS
from celery_pi.settings import Settings
from tasks.redis import acl

NOBODY = "user default on nopass sanitize-payload ~* &* +@all"
CACHE = "user cache on #c0ffee ~cache:* resetchannels -@all +@read +@write"
HASHES = {user: ["5ha"] for user in USERS}


def users(*earlier: str) -> dict[str, str]:
    """Rules of each user of our list, by name; nobody is in it twice."""
    settings = Settings(redis_maxmemory="64mb")
    lines = acl(HASHES, settings, earlier).content.split("\n")
    found = [line.split(" ", 2) for line in lines if line]
    assert len({words[1] for words in found}) == len(found)
    return {words[1]: words[2] for words in found}


def test_without_others_nobody_is_let_in_without_a_name() -> None:
    assert users()["default"].split()[:2] == ["reset", "off"]


def test_who_gives_a_password_alone_or_none_goes_on() -> None:
    assert users(NOBODY)["default"] == "on nopass sanitize-payload ~* &* +@all -@admin"


def test_others_of_the_owners_stay_when_the_default_goes() -> None:
    found = users(CACHE)
    assert found["cache"].startswith("on #c0ffee")
    assert found["default"].split()[:2] == ["reset", "off"]


def test_users_of_our_names_are_ours() -> None:
    assert _others(["user admin on nopass +@all", CACHE, "user x off", "user"]) == [CACHE]


def test_who_was_there_before_administers_no_more() -> None:
    selectors = "user evil on nopass ~* +@all (~a +@all) (~b resetchannels -@all +get)"
    assert users(selectors)["evil"] == (
        "on nopass ~* +@all (~a +@all -@admin) (~b resetchannels -@all +get -@admin) -@admin"
    )


def test_what_only_python_takes_for_a_space_adds_no_word() -> None:
    """Redis allows such in a pattern."""
    line = "user evil on nopass ~x\x1f+@all\u2028user\x1fcelery +get"
    assert without_administration(line) == f"{line} -@admin"
    assert _others([line]) == [line]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [([NOBODY], True), ([CACHE], False), (["user default off"], False), ([], False)],
)
def test_default_lets_in_when_it_is_on(lines: list[str], expected: bool) -> None:
    assert has_default(lines) is expected


def test_hashes_of_passwords_that_somebody_chose_are_shown_in_no_diff() -> None:
    settings = Settings(redis_maxmemory="64mb")
    assert acl(HASHES, settings, [CACHE]).secret
    assert not acl(HASHES, settings).secret
