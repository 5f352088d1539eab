"""The plan: what happens to the owner's things comes first, and our own files are counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from pyinfra import host
from pyinfra.api import StringCommand, operation

from celery_pi import plan
from celery_pi.firewall_rules import Opening
from celery_pi.operations import service as service_module
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.env_file import changed_names, env_file
from celery_pi.operations.service import service
from celery_pi.operations.ufw import firewall
from celery_pi.plan import UNTOUCHED, VERBS, Item, Plan, Verb, will
from tests.helpers.fake import ME, Programs, Run, run
from tests.helpers.harness import ROOT


def planned(**items: str) -> Plan:
    """A plan of one thing for each verb, `put_aside` for `put aside`."""
    made = Plan()
    for verb in VERBS:
        if what := items.get(verb.replace(" ", "_")):
            made.add(verb, Item(what, "", is_owners=False))
    return made


def test_plan_of_nothing_says_so_and_no_more() -> None:
    assert Plan().lines("Would") == ["Nothing would change."]
    assert Plan().lines("Will") == ["Nothing will change."]
    assert Plan().count("Would") == ""


def test_each_verb_has_a_line_in_its_turn_and_things_stand_in_one_column() -> None:
    made = planned(**{verb.replace(" ", "_"): f"a {verb}" for verb in VERBS})
    *lines, last = made.lines("Would")
    assert [line.split(":")[0] for line in lines] == [f"Would {verb}" for verb in VERBS]
    assert {line.index(f"a {verb}") for line, verb in zip(lines, VERBS, strict=True)} == {17}
    assert last == UNTOUCHED


def test_line_that_is_too_long_goes_on_in_its_column_and_no_thing_is_broken() -> None:
    made = Plan()
    for number in range(10):
        made.add("restart", Item(f"unit-{number}.service", "a reason of some length", False))
    *lines, _ = made.lines("Will")
    assert len(lines) > 1
    assert all(len(line) <= 100 for line in lines)
    assert all(line.startswith(" " * 14 + "unit-") for line in lines[1:])
    for line in lines:
        assert line.count("(a reason of some length)") == line.count("unit-")


def test_thing_that_is_longer_than_a_line_is_broken_at_its_blanks() -> None:
    made = Plan()
    made.add("change", Item("/srv/site/.env", " ".join(["adds", *["CELERY_BROKER_URL"] * 9]), True))
    assert max(map(len, made.lines("Would"))) <= 100


@pytest.mark.parametrize("verb", ["remove", "stop", "restart", "replace", "put aside"])
def test_what_is_the_owners_is_called_so_and_nothing_is_denied(verb: Verb) -> None:
    made = Plan()
    made.add(verb, Item("a.service", "reads .env", is_owners=True))
    assert made.lines("Would") == [f"Would {verb}: a.service (yours: reads .env)"]


def test_long_lists_are_cut_but_never_what_is_the_owners_nor_what_stops() -> None:
    made = Plan()
    for number in range(40):
        made.add("change", Item(f"file-{number}.", "", is_owners=number >= 30))
        made.add("stop", Item(f"unit-{number}.", "", is_owners=False))
    text = " ".join(made.lines("Would"))
    assert "28 more" in text
    assert all(f"file-{number}. (yours)" in text for number in range(30, 40))
    assert all(f"unit-{number}." in text for number in range(40))


def test_of_what_is_replaced_or_put_aside_nothing_else_is_said() -> None:
    made = planned(change="/etc/a", remove="/etc/b", stop="b.service")
    made.add("replace", Item("/etc/a", "", is_owners=True))
    made.add("put aside", Item("/etc/b", "", is_owners=True))
    assert made.lines("Would") == [
        "Would stop:      b.service",
        "Would replace:   /etc/a (yours)",
        "Would put aside: /etc/b (yours)",
    ]


# -- operations that tell


@operation()
def act(verb: Verb, what: str) -> Generator[StringCommand]:
    """One that tells what it does."""
    will(host, verb, what)
    yield StringCommand("true")


@operation()
def silent() -> Generator[StringCommand]:
    """One that changes something and tells nothing."""
    yield StringCommand("true")


@operation()
def idle() -> Generator[StringCommand]:
    """One that changes nothing."""
    host.noop("there is nothing to do")
    yield from ()


def shown(*tasks: Callable[[], object], dry: bool = True, **how: Any) -> Run:
    """A run of the tasks as a deploy of ours."""

    def whole() -> None:
        plan.begin(host)
        for task in tasks:
            task()
        plan.show()

    return run(whole, dry=dry, **how)


def lines_of(done: Run) -> list[str]:
    """What was told from the plan's first line on."""
    lines = done.shown.splitlines()
    start = max(number for number, line in enumerate(lines) if line.endswith("In short:"))
    return lines[start + 1 :]


def test_operations_that_tell_nothing_are_named_and_idle_ones_are_not() -> None:
    done = shown(
        lambda: act(name="Start it", verb="start", what="a.service"),
        lambda: silent(name="Make a thing"),
        lambda: idle(name="Rest"),
    )
    assert lines_of(done) == ["Would start: a.service", "Would also:  Make a thing", UNTOUCHED]


def test_plan_that_is_shown_twice_names_each_operation_once() -> None:
    done = shown(lambda: silent(name="Make a thing"), plan.show)
    assert lines_of(done)[-2:] == ["Would also: Make a thing", UNTOUCHED]


def test_run_that_changes_nothing_says_it() -> None:
    assert "Nothing would change." in shown(lambda: idle(name="Rest")).shown


def test_what_replaces_or_puts_aside_is_about_the_owners_things() -> None:
    done = shown(
        lambda: act(name="One", verb="replace", what="/etc/x"),
        lambda: act(name="Two", verb="put aside", what="/etc/y"),
    )
    assert lines_of(done) == ["Would replace:   /etc/x (yours)", "Would put aside: /etc/y (yours)"]


def test_what_is_told_while_it_is_done_is_no_plan() -> None:
    done = shown(lambda: act(name="Stop", verb="stop", what="a.service"), dry=False)
    assert done.shown.count("Would stop") == 1
    assert done.changed == [True]


def test_diffs_come_behind_the_lines_and_new_files_of_ours_are_only_counted(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("# Managed by celery-pi: old words\n")
    files = [
        ConfigFile(f"{tmp_path}/{name}", f"{name} words\n", user=ME, group=ME)
        for name in ("new", "there", "newer")
    ]
    done = shown(
        lambda: config_files(name="Configure", files=files),
        lambda: act(name="Run", verb="restart", what="a.service"),
    )
    first, second, third, *rest = lines_of(done)
    assert [first, second, third] == [
        "Would restart: a.service",
        f"Would change:  {tmp_path}/there",
        UNTOUCHED,
    ]
    assert "old words" in "".join(rest[:-1])
    assert rest[-1] == "and 2 files of celery-pi's own (make plan FULL=1 shows them)"
    assert "new words" not in done.shown


def test_full_plan_shows_the_new_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plan.FULL, "1")
    new = ConfigFile(f"{tmp_path}/new", "new words\n", user=ME, group=ME)
    done = shown(lambda: config_files(name="Configure", files=[new]))
    assert "new words" in done.shown
    assert lines_of(done)[-1] == "and 1 file of celery-pi's own"


def test_library_that_changes_is_counted_and_other_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "LIBRARY", (f"{tmp_path}/lib/",))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/module.py").write_text("old\n")
    file = ConfigFile(f"{tmp_path}/lib/module.py", "new\n", user=ME, group=ME)
    done = shown(lambda: config_files(name="Install", files=[file]))
    assert "Will modify" not in done.shown
    assert lines_of(done)[-1].startswith("and 1 file of")


def test_bare_operation_folds_nothing(tmp_path: Path) -> None:
    new = ConfigFile(f"{tmp_path}/new", "new words\n", user=ME, group=ME)
    assert "new words" in run(lambda: config_files(name="X", files=[new]), dry=True).shown


def test_secrets_are_in_no_line(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("URL=redis://old-hunter2\nSAME=same-hunter2\n")
    variables = {"URL": "redis://new-hunter2", "SAME": "same-hunter2", "MORE": "more-hunter2"}
    secret = ConfigFile(f"{tmp_path}/s", "file-hunter2", user=ME, group=ME, secret=True)
    Path(secret.path).write_text("old-hunter2")
    done = shown(
        lambda: env_file(name="Env", path=str(env), variables=variables, user=ME, group=ME),
        lambda: config_files(name="Secret", files=[secret]),
    )
    assert "hunter2" not in "".join(lines_of(done))
    first = " ".join(" ".join(lines_of(done)[:2]).split())
    assert first.startswith(f"Would change: {env} (yours: sets URL, adds MORE)"), first


def test_names_of_env_are_those_whose_lines_change() -> None:
    before = b"A=1\nexport B=2\nC=3\n"
    assert changed_names(before, {"A": "1", "B": "2", "C": "4", "D": "5"}) == (["B", "C"], ["D"])
    assert changed_names(b"", {}) == ([], [])


@pytest.mark.parametrize(
    ("active", "record", "managed", "told"),
    [
        ("inactive", None, True, "Would start: x.service"),
        ("active", "", True, "Would restart: x.service"),
        ("active", None, True, "Would restart: x.service (yours: {conf} changed since it was star"),
        ("active", "", False, "Would restart: x.service (yours: {conf} changed since it was star"),
    ],
)
def test_unit_that_no_deploy_has_started_is_the_owners(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    active: str,
    record: str | None,
    managed: bool,
    told: str,
) -> None:
    """An empty record is one of a unit that a rollback has to start again."""
    monkeypatch.setattr(service_module, "RECORDS", str(tmp_path))
    state = f"ActiveState={active}\nUnitFileState=enabled\nNeedDaemonReload=no\nJob=0"
    Programs(tmp_path, monkeypatch).add("systemctl", f"printf '{state}\\n'")
    conf = tmp_path / "conf"
    conf.touch()
    if record is not None:
        (tmp_path / "x.service").write_text(record)
    done = shown(lambda: service(name="Run", unit="x.service", watch=[str(conf)], managed=managed))
    assert " ".join(" ".join(lines_of(done)).split()).startswith(told.format(conf=conf))


@pytest.mark.parametrize(
    ("enabled", "reload", "told"),
    [
        ("disabled", "no", "Would change: x.service (runs on, and starts with the machine)"),
        ("enabled", "yes", "Would change: x.service (runs on, by the settings that systemd reads"),
    ],
)
def test_unit_that_runs_on_is_not_said_to_be_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str, reload: str, told: str
) -> None:
    monkeypatch.setattr(service_module, "RECORDS", str(tmp_path))
    state = f"ActiveState=active\nUnitFileState={enabled}\nNeedDaemonReload={reload}\nJob=0"
    Programs(tmp_path, monkeypatch).add("systemctl", f"printf '{state}\n'")
    (tmp_path / "x.service").touch()
    done = shown(lambda: service(name="Run", unit="x.service", watch=["/nowhere"]))
    assert " ".join(lines_of(done)).startswith(told)


def test_package_that_apt_would_take_away_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("apt-get", "echo 'Remv iptables-persistent [1.0]'; echo 'Inst ufw (1)'")
    programs.add("dpkg-query", "exit 1")
    done = shown(lambda: debian_packages(name="Install", packages=["ufw"]))
    assert lines_of(done) == [
        "Would install: ufw",
        "Would remove:  iptables-persistent (yours: apt takes it away for what is installed)",
    ]
    (call,) = [call for call in programs.calls() if call.startswith("apt-get")]
    assert call.endswith(" --simulate install ufw")


def test_ports_are_opened_and_closed_in_words() -> None:
    nothing: dict[str, list[str]] = {"### tuple": [], "": []}
    done = shown(
        lambda: firewall(
            name="Close", openings=[Opening(80, "tcp"), Opening(9100, "tcp", "192.168.1.0/24")]
        ),
        answers=nothing,
    )
    assert lines_of(done)[:2] == [
        "Would open:  22/tcp, 80/tcp, 9100/tcp from 192.168.1.0/24",
        "Would close: every other port",
    ]


# -- with pyinfra's own command line

DEPLOY = """
from pyinfra import host
from celery_pi import plan
from celery_pi.operations.config_files import ConfigFile, config_files

plan.begin(host)
me = {me!r}
config_files(name="Configure", files=[ConfigFile({path!r}, "text", user=me, group=me)])
"""


def pyinfra(directory: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    path = str(directory / "file")
    (directory / "deploy.py").write_text(text.replace("{me!r}", repr(ME)).format(path=path))
    return subprocess.run(
        [Path(sys.executable).with_name("pyinfra"), *options, "@local", "deploy.py"],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_run_without_a_plan_tells_the_same_before_its_first_operation(tmp_path: Path) -> None:
    done = pyinfra(tmp_path, DEPLOY + "plan.show()\n", "-y", "--json")
    assert json.loads(done.stdout)["results"]["totals"]["success"] == 1
    before, _, after = done.stderr.partition("Beginning operation run")
    assert "and 1 file of celery-pi's own\n" in before
    assert after
    assert "own" not in after
    again = pyinfra(tmp_path, DEPLOY + "plan.show()\n", "-y", "--json")
    assert "Nothing will change." in again.stderr
    assert json.loads(again.stdout)["results"]["totals"]["no_change"] == 1


def test_what_the_plan_finds_wrong_ends_the_run_before_anything_is_changed(tmp_path: Path) -> None:
    wrong = """
from pyinfra.api import OperationError, operation

@operation()
def refuse():
    raise OperationError("the reason")
    yield

refuse(name="Refuse")
"""
    done = pyinfra(tmp_path, DEPLOY + wrong + "plan.show()\n", "-y")
    assert done.returncode == 1
    assert "the reason" in done.stderr
    assert not (tmp_path / "file").exists()
    control = pyinfra(tmp_path, DEPLOY + wrong, "-y")
    assert control.returncode == 1
    assert (tmp_path / "file").exists()


def test_deploy_file_that_does_not_show_its_plan_has_it_shown_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")  # no word says that it is ours
    done = pyinfra(tmp_path, DEPLOY, "--dry", "--diff")
    assert done.returncode == 0
    assert "As far as it was planned:" in done.stderr
    assert f"Would replace: {tmp_path}/file (yours:" in " ".join(done.stderr.split())
    assert "- old" in done.stderr
