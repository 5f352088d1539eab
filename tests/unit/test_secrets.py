"""Secrets: URLs that parse, files that only root reads, and nothing of them in any output."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import string
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from celery import Celery
from kombu import Connection
from kombu.utils.url import parse_url as kombu_url
from kombu.utils.url import url_to_parts
from pyinfra import host
from pyinfra.api.exceptions import PyinfraError
from redis.connection import parse_url as redis_url_parts

from celery_pi import secrets
from celery_pi.operations import secret_files as files
from celery_pi.operations.secret_files import no_old_secrets, secret_files
from celery_pi.secrets import (
    USERS,
    Passwords,
    Stored,
    passwords,
    redis_url,
    renew_passwords,
    supplied_problems,
)
from celery_pi.settings import Settings
from celery_pi_tools.redis_client import SOCKET
from tests.helpers.fake import Run, as_root, inode, mode, run

SEED = 20261122
LONG = "a password of thirty-two letters"
PRINTABLE = [chr(code) for code in range(sys.maxunicode) if chr(code).isprintable()]
NASTY = ["/", "+", "=", "#", "?", "%", "@", ":", "&", " ", "'", '"', "\\", "$", "%41", "é", "✓"]


def hard_ones() -> list[str]:
    chance = random.Random(SEED)
    ascii_ones = ["".join(chance.choices(string.printable[:95], k=32)) for _ in range(200)]
    unicode_ones = ["".join(chance.choices(PRINTABLE, k=32)) for _ in range(200)]
    return [*(nasty * 32 for nasty in NASTY), "".join(NASTY) * 2, *ascii_ones, *unicode_ones]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Pi keeps its secrets; not there yet."""
    directory = tmp_path / "secrets"
    for module in (secrets, files):
        monkeypatch.setattr(module, "DIRECTORY", str(directory))
    return directory


def deploy(
    settings: Settings | None = None,
    *,
    renew: bool = False,
    retire: bool = False,
    dry: bool = False,
) -> tuple[Passwords, Run]:
    """The passwords, and the run that stored them; `retire` as tasks.redis does it."""
    made: list[Passwords] = []

    def task() -> None:
        if renew:
            renew_passwords(host, settings or Settings())
        known = passwords(host, settings or Settings())
        made.append(known)
        secret_files(name="Store the passwords", passwords=known)
        if retire and known.changing:
            no_old_secrets(name="Forget the old ones")

    done = run(task, dry=dry)
    return made[0], done


def stored(store: Path) -> dict[str, str]:
    """Every secret file with its text."""
    return {path.name: path.read_text(encoding="utf-8") for path in store.iterdir()}


def as_stored(known: Passwords) -> dict[str, str]:
    return {f"redis_{user}_password": text for user, text in known.desired.items()}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("reader", ["redis-py", "kombu"])
def test_url_gives_its_readers_exactly_the_password_host_port_and_database(reader: str) -> None:
    settings = Settings(redis_port=7000, redis_database=3)
    wrong = []
    for password in hard_ones():
        url = redis_url(password, settings)
        if reader == "redis-py":
            parts = redis_url_parts(url)  # type: ignore[no-untyped-call]
            login = (parts["username"], parts["password"])
            place = (parts["host"], parts["port"], parts["db"])
        else:
            _, name, port, user, secret, path, query = url_to_parts(url)
            assert query == {}
            login, place = (user, secret), (name, port, int(path))
            assert kombu_url(url)["password"] == password
        if (login, place) != (("celery", password), ("127.0.0.1", 7000, 3)):
            wrong.append((password, login, place))
    assert wrong == []


def test_url_of_the_socket_gives_broker_and_results_login_path_and_database() -> None:
    settings = Settings(redis_socket=True, redis_database=3)
    wrong = []
    for password in hard_ones():
        url = redis_url(password, settings)
        # As kombu's redis transport and Celery's result backend take a socket's URL apart.
        transport, _, address = url.partition("+")
        _, name, port, user, secret, path, query = url_to_parts(address)
        seen = (transport, name, port, user, secret, f"/{path}", query)
        if seen != ("redis", None, None, "celery", password, SOCKET, {"virtual_host": "3"}):
            wrong.append(seen)
    assert wrong == []


def test_celery_itself_takes_the_url_of_the_socket() -> None:
    url = redis_url("a/b@c:d", Settings(redis_socket=True, redis_database=3))
    assert Connection(url).transport.driver_type == "redis"
    params = Celery("x", backend=url).backend.connparams
    expected = {"path": SOCKET, "username": "celery", "password": "a/b@c:d", "db": 3}
    assert {key: params.get(key) for key in expected} == expected


def test_url_needs_no_quotes_in_any_env_file() -> None:
    safe = set(string.ascii_letters + string.digits + ":/@%._-~+?=")
    both = [Settings(), Settings(redis_socket=True)]
    made = [redis_url(secret, settings) for secret in hard_ones() for settings in both]
    assert {char for url in made for char in url} <= safe


@as_root
def test_generated_passwords_are_long_url_safe_and_of_one_user_and_pi_alone(store: Path) -> None:
    made: set[str] = set()
    for _ in range(3):
        known, _ = deploy()
        assert set(known.desired) == set(USERS)
        for password in known.desired.values():
            assert len(password) >= 32
            assert quote(password, safe="") == password
        made |= set(known.desired.values())
        for path in store.iterdir():
            path.unlink()
    assert len(made) == 3 * len(USERS)


@as_root
def test_first_deploy_stores_every_password_for_root_alone(store: Path) -> None:
    known, done = deploy()
    assert (done.changed, done.error) == ([True], "")
    assert "all passwords are stored" not in done.shown
    assert stored(store) == as_stored(known)
    assert (mode(store), store.owner(), store.group()) == (0o700, "root", "root")
    for file in store.iterdir():
        assert (mode(file), file.owner(), file.group()) == (0o600, "root", "root")


@as_root
def test_later_deploy_keeps_the_passwords_and_changes_nothing(store: Path) -> None:
    first, _ = deploy()
    before = {path: inode(path) for path in store.iterdir()}
    second, done = deploy(retire=True)
    assert second.desired == first.desired
    assert (done.planned, done.changed) == ([False], [False])
    assert {path: inode(path) for path in store.iterdir()} == before


def test_plan_stores_nothing(store: Path) -> None:
    _, done = deploy(dry=True)
    assert done.planned == [True]
    assert not store.exists()


@as_root
def test_plan_of_a_rotation_stores_nothing(store: Path) -> None:
    deploy()
    before = stored(store)
    _, done = deploy(renew=True, retire=True, dry=True)
    assert done.planned == [True, True]
    assert stored(store) == before


def test_one_run_asks_for_the_same_new_passwords_each_time(store: Path) -> None:  # noqa: ARG001
    asked: list[Passwords] = []
    run(lambda: asked.extend(passwords(host, Settings()) for _ in range(3)))
    assert len({id(known) for known in asked}) == 1


@as_root
@pytest.mark.parametrize("change", ["mode", "owner"])
def test_file_that_others_could_read_is_closed_and_keeps_its_value(
    store: Path, change: str
) -> None:
    first, _ = deploy()
    file = store / "redis_flower_password"
    if change == "mode":
        file.chmod(0o644)
    else:
        os.chown(file, 65534, 65534)
    again, done = deploy()
    assert (again.desired, done.changed) == (first.desired, [True])
    assert (mode(file), file.owner(), file.group()) == (0o600, "root", "root")
    assert stored(store) == as_stored(first)
    assert not again.changing


@as_root
@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_owners_password_replaces_a_generated_one_without_its_line_end(
    store: Path, tmp_path: Path, ending: str
) -> None:
    first, _ = deploy()
    own = tmp_path / "own"
    text = "  pass wörd ✓ " * 4
    own.write_bytes((text + ending).encode())
    settings = Settings(redis_password_file=str(own))
    known, done = deploy(settings)
    assert known.desired == {**first.desired, "celery": text}
    assert done.changed == [True]
    old = {"redis_celery_password.old": first.desired["celery"]}
    assert stored(store) == {**as_stored(known), **old}
    assert deploy(settings)[1].changed == [False]


# -- rotation


@as_root
def test_rotation_renews_every_password_and_keeps_the_old_ones_beside_them(store: Path) -> None:
    first, _ = deploy()
    second, done = deploy(renew=True)
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert not set(first.desired.values()) & set(second.desired.values())
    old = {f"{name}.old": text for name, text in as_stored(first).items()}
    assert stored(store) == {**as_stored(second), **old}
    assert {(mode(file), file.owner()) for file in store.iterdir()} == {(0o600, "root")}


@as_root
def test_rotation_keeps_the_password_that_the_owner_supplies(store: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("of the owner's choice " * 2)
    settings = Settings(redis_password_file=str(own))
    first, _ = deploy(settings)
    second, _ = deploy(settings, renew=True)
    assert second.desired["celery"] == own.read_text()
    assert not {first.desired[user] == second.desired[user] for user in USERS[1:]} - {False}
    assert "redis_celery_password.old" not in stored(store)


@as_root
def test_old_passwords_stay_valid_over_rotations_until_they_are_forgotten(store: Path) -> None:
    rotations = [deploy(renew=bool(count))[0] for count in range(4)]
    history = [known.desired["backup"] for known in rotations]
    assert (store / "redis_backup_password.old").read_text().split("\n") == history[:3]
    assert rotations[3].valid("backup") == [history[3], history[2], history[0], history[1]]
    last, done = deploy(retire=True)
    assert last.hashes["backup"] == [sha256(history[at]) for at in (3, 0, 1, 2)]
    assert last.desired_hashes["backup"] == [sha256(history[3])]
    assert done.changed == [False, True]
    assert stored(store) == as_stored(rotations[3])
    assert not deploy(retire=True)[0].changing


@as_root
def test_rotation_that_died_before_the_new_password_was_stored_loses_none(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = deploy()
    write = files._write

    def dies(name: str, lines: list[str]) -> Any:
        return write(name, lines) if name.endswith(".old") else files.StringCommand("false")

    monkeypatch.setattr(files, "_write", dies)
    assert deploy(renew=True)[1].error
    monkeypatch.undo()
    for module in (secrets, files):
        monkeypatch.setattr(module, "DIRECTORY", str(store))
    old = {"redis_celery_password.old": first.desired["celery"]}
    assert stored(store) == {**as_stored(first), **old}
    # What is stored is what Redis and every service still use; the next run clears up.
    second, done = deploy(retire=True)
    assert second.desired == first.desired
    assert second.hashes == second.desired_hashes
    assert done.changed == [False, True]
    assert stored(store) == as_stored(first)


@as_root
def test_directory_that_others_can_enter_is_closed(store: Path) -> None:
    deploy()
    store.chmod(0o755)
    _, done = deploy()
    assert (done.changed, mode(store)) == ([True], 0o700)
    assert deploy()[1].changed == [False]


@as_root
def test_rotation_that_died_between_two_users_is_completed_by_the_next_deploy(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = deploy()
    write = files._write

    def dies(name: str, lines: list[str]) -> Any:
        return files.StringCommand("false") if "flower" in name else write(name, lines)

    monkeypatch.setattr(files, "_write", dies)
    half, done = deploy(renew=True)
    assert done.error
    monkeypatch.undo()
    for module in (secrets, files):
        monkeypatch.setattr(module, "DIRECTORY", str(store))
    known, done = deploy(retire=True)
    assert done.error == ""
    assert known.desired == {**first.desired, "celery": half.desired["celery"]}
    assert known.valid("celery") == [half.desired["celery"], first.desired["celery"]]
    assert stored(store) == as_stored(known)


@pytest.mark.parametrize(
    ("wanted", "current", "old", "valid"),
    [
        ("a", "a", "", ["a"]),
        ("a", "", "", ["a"]),
        ("b", "a", "", ["b", "a"]),
        ("b", "b", "a", ["b", "a"]),
        ("c", "b", "a\nb", ["c", "b", "a"]),
        ("a", "b", "a", ["a", "b"]),
        ("b", "b", "a\n\n", ["b", "a"]),
        ("é", "é", "", ["é"]),
    ],
)
def test_valid_passwords_are_the_new_one_and_each_old_one_once(
    wanted: str, current: str, old: str, valid: list[str]
) -> None:
    found = Stored()
    for user in USERS:
        found[f"redis_{user}_password"] = ("600:root:root", current)
        found[f"redis_{user}_password.old"] = ("600:root:root", old)
    known = Passwords(found, dict.fromkeys(USERS, wanted))
    assert [known.valid(user) for user in USERS] == [valid] * len(USERS)
    assert known.hashes == {user: [sha256(text) for text in valid] for user in USERS}
    assert known.desired_hashes == {user: [sha256(wanted)] for user in USERS}
    assert known.changing == (len(valid) > 1 or bool(old))


@as_root
@pytest.mark.parametrize("renew", [False, True])
def test_password_that_came_meanwhile_is_never_replaced(store: Path, renew: bool) -> None:
    other = store / "redis_monitor_password"
    if renew:
        deploy()

    def task() -> None:
        if renew:
            renew_passwords(host, Settings())
        secret_files(name="Store", passwords=passwords(host, Settings()))
        store.mkdir(exist_ok=True)
        other.write_text("of another deploy")

    done = run(task)
    assert "redis_monitor_password was set by another deploy: run this one again" in done.error
    assert other.read_text() == "of another deploy"
    assert not other.with_name(f"{other.name}.old").exists()


@as_root
def test_same_password_that_came_meanwhile_is_no_conflict(store: Path) -> None:
    made: list[Passwords] = []

    def task() -> None:
        made.append(passwords(host, Settings()))
        secret_files(name="Store", passwords=made[0])
        store.mkdir()
        (store / "redis_celery_password").write_text(made[0].desired["celery"])

    assert run(task).error == ""
    assert stored(store) == as_stored(made[0])


# -- nothing of them shows


def forms(known: Passwords) -> list[str]:
    """What would give a password away."""
    texts = [text for user in USERS for text in known.valid(user)]
    encoded = [base64.b64encode(text.encode()).decode() for text in texts]
    return [*texts, *encoded, *(sha256(text) for text in texts)]


@as_root
def test_passwords_show_neither_in_commands_nor_in_any_output(store: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("s3cret-" * 6)
    owned = Settings(redis_password_file=str(own))
    runs = [deploy(), deploy(), deploy(owned), deploy(renew=True), deploy(retire=True)]
    assert store.exists()
    for known, done in runs:
        assert "Store the passwords" in done.shown
        assert not done.error
        for form in forms(known):
            assert form not in done.shown
            assert not [command for command in done.commands if form in command]


def test_passwords_do_not_show_in_their_repr() -> None:
    found = Stored({"redis_celery_password": ("600:root:root", "s3cret-found")})
    assert "s3cret" not in repr(Passwords(found, {"celery": "s3cret-wanted"}))


@as_root
def test_passwords_do_not_show_when_they_cannot_be_stored_or_read(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_text("in the way")  # a file where the directory should be
    known, done = deploy()
    assert done.error
    assert not [form for form in forms(known) if form in done.shown + done.error]
    store.unlink()
    known, _ = deploy()
    monkeypatch.setattr(secrets, "READ", secrets.READ + "exit 1\n")
    with pytest.raises(PyinfraError) as failed:
        deploy()
    assert not [form for form in forms(known) if form in str(failed.value)]


def sentence_on(path: Path) -> str:
    (sentence,) = supplied_problems(Settings(redis_password_file=str(path)))
    assert sentence.startswith(f"redis_password_file {path} ")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds 0 characters, and 32 are the least"),
        (b"s3cret" * 5 + b"\n\n", "holds 30 characters, and 32 are the least"),
        ("é".encode() * 31, "holds 31 characters, and 32 are the least"),
        (b"s3cret" * 6 + b"\ns3cret", "holds a character that cannot be printed, or more than"),
        (b"s3cret" * 6 + b"\t", "holds a character that cannot be printed, or more than"),
        (b"s3cret" * 6 + b"\0", "holds a character that cannot be printed, or more than"),
        (b"s3cret" * 6 + b"\xff", "cannot be read: UnicodeDecodeError"),
    ],
)
def test_unusable_password_is_refused_in_one_sentence_that_does_not_show_it(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    own = tmp_path / "own"
    own.write_bytes(content)
    said = sentence_on(own)
    assert reason in said
    assert "s3cret" not in said


def test_password_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert sentence_on(tmp_path / "missing").endswith("cannot be read: FileNotFoundError")
    assert sentence_on(tmp_path).endswith("cannot be read: IsADirectoryError")


@pytest.mark.parametrize("content", ["x" * 32, "x" * 32 + "\r\n", " ✓" * 16])
def test_usable_password_has_no_problem(tmp_path: Path, content: str) -> None:
    own = tmp_path / "own"
    own.write_bytes(content.encode())
    assert supplied_problems(Settings(redis_password_file=str(own))) == []
    assert supplied_problems(Settings()) == []


# -- what lies on the Pi


def put(store: Path, text: str, old: str) -> None:
    """The app's password on the Pi, and what is on its way out."""
    store.mkdir()
    for name, content in (("redis_celery_password", text), ("redis_celery_password.old", old)):
        (store / name).write_bytes(content.encode())
        (store / name).chmod(0o600)


@as_root
def test_empty_file_on_the_pi_is_no_password_and_no_old_one(store: Path) -> None:
    put(store, "", "")
    known, done = deploy()
    assert len(known.desired["celery"]) >= 32
    assert known.valid("celery") == [known.desired["celery"]]
    assert done.error == ""
    assert stored(store) == {**as_stored(known), "redis_celery_password.old": ""}


@as_root
@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_line_end_that_an_editor_left_is_no_part_of_a_password(store: Path, ending: str) -> None:
    put(store, f"{LONG}{ending}", f"two\nthree{ending}")
    known, _ = deploy()
    assert known.valid("celery") == [LONG, "two", "three"]
    assert len(set(known.desired.values())) == len(USERS)  # those that were missing are their own
    assert (store / "redis_celery_password").read_text() == f"{LONG}{ending}"


@as_root
def test_all_that_the_shell_reads_of_a_password_is_part_of_it(store: Path) -> None:
    put(store, f" {LONG}  b\t\r\n", " c \nd ")
    known, _ = deploy()
    assert known.valid("celery") == [f" {LONG}  b\t\r", " c ", "d "]


@as_root
@pytest.mark.parametrize(("weak", "is_kept"), [("1234", False), (LONG[1:], False), (LONG, True)])
def test_password_that_could_be_guessed_is_replaced(store: Path, weak: str, is_kept: bool) -> None:
    put(store, weak, "")
    (store / "redis_celery_password.old").unlink()
    known, done = deploy(retire=True)
    assert (known.desired["celery"] == weak) is is_kept
    assert known.valid("celery")[-1] == weak  # until the services have the new one
    assert weak not in done.shown
    assert stored(store) == as_stored(known)


@as_root
def test_files_of_others_beside_the_passwords_are_left_alone(store: Path) -> None:
    deploy()
    (store / "redis_celery_password.old").mkdir()
    (store / "of the owner").write_bytes(b"\xff\0")
    (store / "key.bin").write_bytes(b"\xff\0")
    known, done = deploy()
    assert (known.changing, done.changed, done.error) == (False, [False], "")
