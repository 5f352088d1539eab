"""What looks at a site tells of everything that differs, and of nothing else."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.sites import onlooking
from tests.sites.build import SECRETS, SOURCE, Run, get
from tests.sites.client import Tick, report
from tests.sites.hunting import hunt, paths
from tests.sites.picture import BY_ITSELF, Allowed, compare

BEFORE = {"file": {"/etc/a": "file 0644", "/etc/b": "file 0600"}, "unit": {"a.service": "enabled"}}


def test_equal_pictures_do_not_differ() -> None:
    assert compare(BEFORE, BEFORE, ()) == []


@pytest.mark.parametrize(
    ("after", "line"),
    [
        ({"/etc/a": "file 0666"}, "file /etc/a: file 0644 => file 0666"),
        ({"/etc/a": "file 0644", "/etc/c": "link"}, "file /etc/c: absent => link"),
        ({}, "file /etc/a: file 0644 => absent"),
    ],
)
def test_what_has_changed_come_or_gone_differs(after: dict[str, str], line: str) -> None:
    before = {"file": {"/etc/a": "file 0644"}}

    assert compare(before, {"file": after}, ()) == [line]


def test_a_section_that_one_picture_lacks_differs() -> None:
    assert compare(BEFORE, {"file": BEFORE["file"]}, ()) == ["unit a.service: enabled => absent"]


def test_only_what_is_allowed_may_differ_and_nothing_that_begins_like_it() -> None:
    after = {"file": {"/etc/a": "x", "/etc/b": "x", "/etc/a.new": "x"}, "unit": BEFORE["unit"]}
    allowed = [Allowed("file /etc/a", "a test's")]

    assert compare(BEFORE, after, allowed) == [
        "file /etc/a.new: absent => x",
        "file /etc/b: file 0600 => x",
    ]


def test_nothing_may_differ_without_a_reason() -> None:
    with pytest.raises(ValueError, match="without a reason"):
        Allowed("file /etc/a", "")


@pytest.mark.parametrize(
    "name",
    [
        "file /var/www/html/Observations_Nids/.env",
        "file /var/www/html/Observations_Nids/.venv/bin/celery",
        "file /etc/systemd/system/celery-worker.service",
        "file /var/spool/cron/crontabs/root",
        "unit celery-worker.service",
        "unit celery-worker.service (runs)",
        "process redis-server.service",
        "package nginx:amd64",
        "listener tcp *:80",
        "firewall rules",
        "ban sshd",
    ],
)
def test_nothing_of_the_owners_changes_by_itself(name: str) -> None:
    section, _, rest = name.partition(" ")

    assert compare({section: {rest: "a"}}, {section: {rest: "b"}}, BY_ITSELF)


def test_a_file_is_described_by_its_bytes_mode_and_links_target(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("one")
    file.chmod(0o640)
    link.symlink_to("file")
    (tmp_path / "left out").mkdir()
    (tmp_path / "left out/file").touch()
    look = partial(onlooking.files, {str(tmp_path / "left out")}, str(tmp_path))
    first = look()

    file.write_text("two")  # of the same size
    second = look()
    link.unlink()
    link.symlink_to(file)

    assert set(first) == {str(file), str(link)}
    assert first[str(file)].startswith(f"file 0640 {os.getuid()}:{os.getgid()} 3 ")
    assert first[str(file)] != second[str(file)]
    assert look()[str(link)] != second[str(link)]


def tick(what: str, outcome: str, *, excused: bool = False, task: str = "") -> Tick:
    return Tick(0.0, what, outcome, 0.1, excused, task)


def test_a_quiet_time_has_no_troubles() -> None:
    ticks = [tick("http", "200 site"), tick("send", "sent", task="a")]

    told = report(ticks, "200 site", {"a"}, {"a": Run(1, 1)})

    assert told.troubles == {}
    assert told.sent == ["a"]


def test_each_trouble_is_counted() -> None:
    ticks = [
        tick("http", "404 site"),
        tick("https", "no answer: timeout"),
        tick("send", "500 error", task="unsent"),
        *(tick("send", "sent", task=task) for task in ("gone", "cut", "twice", "again", "good")),
    ]
    runs = {"cut": Run(1, 0), "twice": Run(2, 2), "again": Run(2, 1), "good": Run(1, 1)}

    told = report(ticks, "200 site", {"gone", *runs}, runs)

    assert told.troubles == {"other": 2, "unsent": 1, "lost": 2, "twice": 1}
    assert (told.lost, told.twice, told.begun_again) == (["cut", "gone"], ["twice"], ["again"])


def test_a_machine_that_is_away_owes_no_answer_but_the_tasks_that_it_took() -> None:
    ticks = [
        tick("http", "no answer: refused", excused=True),
        tick("send", "no answer: refused", excused=True, task="never taken"),
        tick("send", "sent", excused=True, task="taken"),
    ]

    assert report(ticks, "200 site", {"taken"}, {}).troubles == {"lost": 1}


def test_a_machine_without_an_address_is_not_this_one() -> None:
    with pytest.raises(ConnectionError, match="no address"):
        get("", "/", tls=False)


@contextmanager
def served(directory: Path) -> Iterator[int]:
    """A web server of that directory; yields its port."""
    handler = partial(_Quiet, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_hunt_finds_what_is_served_and_nothing_else(tmp_path: Path) -> None:
    project = tmp_path / "Observations_Nids"
    project.mkdir()
    (project / ".env").write_text("SECRET_KEY=words of the file\n")
    (project / "manage.py").write_text("nobody hunts it\n")
    wanted = {".env": "words of the file", "db.sqlite3": "other words"}

    with served(tmp_path) as port:
        found, answers = hunt(["127.0.0.1"], ["nids.example"], wanted, {"http": port})

    assert "http://127.0.0.1/Observations_Nids/.env as nids.example: 200, .env" in found
    assert {line.rpartition(", ")[2] for line in found} == {".env"}
    assert answers == {"http 127.0.0.1": 3 * len(paths(wanted))}


def test_the_hunt_finds_nothing_where_nothing_is_served(tmp_path: Path) -> None:
    wanted = {".env": "words of the file"}

    with served(tmp_path) as port:
        found, answers = hunt(["127.0.0.1"], ["nids.example"], wanted, {"http": port})
    closed = hunt(["127.0.0.1"], ["nids.example"], wanted, {"http": port})

    assert (found, answers) == ([], {"http 127.0.0.1": 3 * len(paths(wanted))})
    assert closed == ([], {"http 127.0.0.1": 0})


def test_each_hunted_file_is_known_by_words_of_its_own() -> None:
    texts = {
        path: path.read_text()
        for path in SOURCE.rglob("*")
        if path.suffix != ".pyc" and path.is_file()
    }

    for words in SECRETS.values():
        assert sum(words in text for text in texts.values()) <= 1, words
