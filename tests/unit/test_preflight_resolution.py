"""What pip cannot bring together is known before anything is touched, with the pins to write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.version import Version
from pyinfra.api import QuoteString, StringCommand

from celery_pi.app_packages import locked
from celery_pi.operations import python_packages
from celery_pi.operations.python_packages import Environment, Package
from celery_pi.preflight import resolution
from celery_pi.preflight.requirements import contradictions, required, with_the_owners_versions
from celery_pi.preflight.resolution import chosen, reason, resolution_problems
from celery_pi.settings import Settings
from tests.helpers.fake import sh

PINS = ("celery[redis]==5.5.3", "kombu==5.5.4", "django-celery-results==2.6.0")
FILE = "/srv/birds/requirements.txt"
EMPTY = Environment(ready=False, record="", requirements="digest", installed=frozenset())

# What pip 25.1 says, to the letter.
CONFLICT = """\
Collecting celery==5.5.3
ERROR: Cannot install -r r.txt (line 2), Django==5.2.19 because these package versions conflict.

The conflict is caused by:
    The user requested Django==5.2.19
    django-celery-beat 2.5.0 depends on Django<5.0 and >=2.2

To fix this you could try to:
1. loosen the range of package versions you've specified

ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/
""".splitlines()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("celery==5.6.0\n", ["1 celery==5.6.0"]),
        ("\ufeff# pins\n\ncelery == 5.6.0  # why\n", ["3 celery==5.6.0"]),
        ("celery==5.6.0 \\\n  --hash=sha256:00 \\\n  --hash=sha256:11\nkombu\n", None),
        ("-r base.txt\n-c limits.txt\n--no-binary :all:\n", []),
        ("git+https://host/x.git\n./local\nceler y\n", []),
        ("x @ https://host/x.whl\ncelery==5.6.0 ; python_version < '3'\n", []),
        ("celery==5.6.0 \\", []),
    ],
)
def test_line_of_requirements_is_read_as_pip_reads_it(text: str, found: list[str] | None) -> None:
    read = [f"{line.number} {line.requirement}" for line in required({FILE: text})]
    assert read == (["1 celery==5.6.0", "4 kombu"] if found is None else found)


@pytest.mark.parametrize(
    ("text", "against"),
    [
        ("celery==5.5.3\nDjango==5.2\n", []),
        ("Celery[redis]>=5.5,<6\n", []),
        ("celery==5.6.0\n", ["celery==5.6.0"]),
        ("Kombu>=5.6\n", ["Kombu>=5.6"]),
        ("django_celery_results!=2.6.0\n", ["django_celery_results!=2.6.0"]),
        ("celery==5.5.*\n", []),
    ],
)
def test_line_that_contradicts_a_pin_is_found(text: str, against: list[str]) -> None:
    found = contradictions(PINS, {FILE: text})
    assert [str(line.requirement) for _, line in found] == against


def test_owners_versions_take_the_place_of_ours_and_extras_stay() -> None:
    files = {FILE: "celery==5.6.0\nkombu>=5.6\n"}
    assert with_the_owners_versions(PINS, files) == [
        "celery[redis]==5.6.0",
        "kombu==5.5.4",
        "django-celery-results==2.6.0",
    ]


def test_what_pip_would_install_and_what_is_there_become_pins() -> None:
    there = frozenset({Package("django-celery-results", Version("2.5.1"))})
    now = Environment(ready=True, record="", requirements="", installed=there)
    said = ["Collecting x", "Would install celery-5.6.0 kombu-5.6.1 python-dateutil-2.9"]
    again = resolution.Resolution({}, True, True, said)
    assert chosen(PINS, again, now) == [
        "celery[redis]==5.6.0",
        "kombu==5.6.1",
        "django-celery-results==2.5.1",
    ]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            CONFLICT,
            "The user requested Django==5.2.19; "
            "django-celery-beat 2.5.0 depends on Django<5.0 and >=2.2",
        ),
        (
            ["ERROR: Could not find a version that satisfies the requirement nosuch==3"],
            "Could not find a version that satisfies the requirement nosuch==3",
        ),
        (
            ["WARNING: Retrying (Retry(total=4)) after 'NewConnectionError('", "ERROR: No match"],
            "it does not reach the package index",
        ),
        (["Killed"], "Killed"),
        ([], "it ends without a word"),
    ],
)
def test_reason_is_pips_own_in_one_line(said: list[str], why: str) -> None:
    assert reason(said) == why


class Pip:
    """Answers in turn, and notes with which words it was asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, command: StringCommand) -> list[str]:
        self.asked.append(command.get_raw_value())
        return list(self.answers.pop(0))


def problems(pip: Pip, now: Environment = EMPTY, pins: Sequence[str] = PINS) -> list[str]:
    return list(resolution_problems(pip, now, "/srv/birds/venv", pins, FILE, ()))


def answer(status: str, text: str = "", *said: str) -> list[str]:
    return [json.dumps({FILE: text}), f"pip {status}", *said]


def test_packages_that_go_together_are_no_problem() -> None:
    pip = Pip(answer("0", "celery>=5\n"))
    assert problems(pip) == []
    assert len(pip.asked) == 1
    assert "--dry-run" in pip.asked[0]


def test_nothing_is_asked_where_all_is_installed() -> None:
    there = frozenset(map(python_packages._pinned, PINS))
    now = Environment(ready=True, record="", requirements="", installed=there)
    now = Environment(True, python_packages._digest(PINS, now), "", there)
    pip = Pip()
    assert problems(pip, now) == []
    assert pip.asked == []


def test_contradiction_names_the_line_and_the_pins_to_write() -> None:
    wanted = "Would install celery-5.6.0 kombu-5.6.1 django_celery_results-2.6.0"
    pip = Pip(answer("1", "celery==5.6.0\nkombu==5.6.1\n", *CONFLICT), answer("0", "", wanted))
    (sentence,) = problems(pip)
    assert sentence == (
        f"{FILE} asks for celery==5.6.0 (line 1), kombu==5.6.1 (line 2), where app_pins has "
        'celery[redis]==5.5.3, kombu==5.5.4: set app_pins = ("celery[redis]==5.6.0", '
        '"kombu==5.6.1", "django-celery-results==2.6.0") in group_data/all.py'
    )
    assert "'celery[redis]==5.6.0' kombu==5.6.1" in pip.asked[1]


def test_owners_versions_that_need_others_of_ours_are_resolved_without_pins() -> None:
    wanted = "Would install celery-5.6.0 kombu-5.6.2 django_celery_results-2.6.0"
    bad = answer("1", "celery==5.6.0\n", *CONFLICT)
    pip = Pip(bad, bad, answer("0", "", wanted))
    (sentence,) = problems(pip)
    assert '("celery[redis]==5.6.0", "kombu==5.6.2", ' in sentence
    assert "'celery[redis]' kombu " in pip.asked[2]


def test_requirements_that_contradict_themselves_are_told_with_pips_reason() -> None:
    bad = answer("1", "Django==5.2.19\n", *CONFLICT)
    (sentence,) = problems(Pip(bad, bad, bad))
    assert sentence.startswith("pip finds no set of packages for the app: The user requested Dja")
    assert sentence.endswith(f"; change {FILE}")


def test_without_pip_the_files_tell_what_they_can() -> None:
    assert problems(Pip(answer("none", "Django==5.2\n"))) == []
    (sentence,) = problems(Pip(answer("none", "celery==5.6.0\n")))
    assert 'set app_pins = ("celery[redis]==5.6.0", "kombu==5.5.4", ' in sentence


def test_question_has_the_words_of_the_installation() -> None:
    now = Environment(ready=True, record="", requirements="digest", installed=frozenset())
    words = python_packages.arguments(Settings().app_pins, FILE, now)
    asked = resolution.resolve_command("/srv/venv", words, FILE, locked()).get_raw_value()
    installed = python_packages._installation(
        9, "/srv/venv", Settings().app_pins, FILE, locked(), now
    ).get_raw_value()
    assert python_packages.PIP_WORDS in asked
    assert python_packages.PIP_WORDS in installed
    ours = python_packages.names_of(locked())
    for text in (asked, installed):
        assert text.endswith(" ".join([ours, *words]))


def test_included_files_are_read_and_no_more_than_twenty(tmp_path: Path) -> None:
    first = tmp_path / "requirements.txt"
    first.write_text("-r base.txt\n--constraint=sub/limits.txt\n-r nowhere.txt\nx\n")
    (tmp_path / "base.txt").write_text("-r requirements.txt\ncelery==5.6.0\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/limits.txt").write_text("-r ../base.txt\n-c 0.txt\n")
    for number in range(30):
        (tmp_path / f"sub/{number}.txt").write_text(f"-c {number + 1}.txt\n")
    words = (QuoteString(resolution.COLLECT), QuoteString(str(first)))
    (line,) = sh(StringCommand("python3 -I -S -c", *words))
    found = json.loads(line)
    assert list(found)[:3] == [
        str(first),
        str(tmp_path / "base.txt"),
        str(tmp_path / "sub/limits.txt"),
    ]
    assert len(found) == 20
