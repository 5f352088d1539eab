"""Settings that are wrong add no false problems of the machine: the others count as they are."""

from __future__ import annotations

from typing import Any

import pytest
from celery_pi.assumed import assumed, undoubted
from pyinfra.api import DeployError

from celery_pi.settings import Settings
from tests.fake import run
from tests.test_preflight_fast import answers, thing

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("data", "known", "doubtful"),
    [
        ({"redis_prot": 7000, "app_dir": "/srv/x"}, {"app_dir": "/srv/x"}, {"redis_port"}),
        ({"app_dri": "/srv/x", "redis_port": 7000}, {"redis_port": 7000}, {"app_dir"}),
        ({"redis_port": 80, "app_user": "birds"}, {"app_user": "birds"}, {"redis_port"}),
        ({"nginx_certificate_key": "/x.pem", "app_user": "b"}, {"app_user": "b"}, set()),
    ],
)
def test_what_is_right_stays_and_what_may_be_meant_is_doubtful(
    data: dict[str, Any], known: dict[str, Any], doubtful: set[str]
) -> None:
    settings, found = assumed(data)
    assert settings == Settings(**known)
    assert doubtful <= found
    assert not found & known.keys()


@pytest.mark.parametrize(
    ("doubtful", "left"),
    [
        (set(), ["a", "b", "c", "d"]),
        ({"app_dir"}, ["c", "d"]),
        ({"app_module"}, ["a", "c", "d"]),
        ({"nginx_server"}, ["a", "b", "d"]),
    ],
)
def test_sentence_that_hangs_on_a_doubtful_setting_is_not_said(
    doubtful: set[str], left: list[str]
) -> None:
    sentences = {
        "a": "there is no Django project in /var/www/observations_nids (app_dir): deploy it",
        "b": "/var/www/observations_nids has no Python module x (app_module)",
        "c": "apache2 listens on port 80: stop it, or set flower = False",
        "d": "/var has 10 MiB free",
    }
    said = list(undoubted(sentences.values(), Settings(), doubtful))
    assert said == [sentences[key] for key in left]


def test_misspelt_setting_adds_no_false_problem() -> None:
    """The right one says the same of the machine as the deploy would."""
    facts = {"web": "apache2", "app": None, "module": None, "venv": None}
    with pytest.raises(DeployError) as refused:
        run(thing, answers=answers(**facts), data={"nginx_servr": False, "app_dri": "/srv/x"})
    assert [line.split()[1] for line in str(refused.value).splitlines()[1:]] == [
        "nginx_servr",
        "app_dri",
    ]
    with pytest.raises(DeployError, match="apache2 listens on port 80"):
        run(thing, answers=answers(**facts), data={"redis_prot": 1})
