"""The main job: a deploy from nothing, the same again, and a plan that changes no byte."""

from __future__ import annotations

import re

from celery_pi.deploys.run import CLOSE, TAKE
from tests.helpers.harness import (
    APP,
    Outcome,
    deploy,
    fingerprint,
    in_app,
    pids,
    plan,
    prove,
    pyinfra,
    wait_for,
)
from tests.helpers.site import ask, login
from tests.machine.test_virtual_pi import MACHINES
from tests.virtual_pi import VirtualPi


def test_make_deploy_ends_with_a_task_that_the_deployed_worker_ran(
    first_deploy: Outcome, platform: str
) -> None:
    shown = first_deploy.output
    assert re.search(
        rf"machine +{MACHINES[platform]}, Debian GNU/Linux 13 \(trixie\), raspberrypi", shown
    )
    for unit in ("redis-server", "celery-worker", "celery-beat"):
        assert re.search(rf"{unit} +active \(running\), pid [1-9]", shown)
    assert re.search(r"task +celery\.accumulate\[.*\] SUCCESS in .* by celery@raspberrypi", shown)


def test_flowers_page_comes_through_nginx(pi: VirtualPi) -> None:
    page = ask(pi, "/flower/", login(pi))
    assert page.status == 200
    assert "Flower</title>" in page.body
    assert ask(pi, "/flower/").status == 401


def test_second_run_changes_nothing(pi: VirtualPi) -> None:
    before = pids(pi)
    again = deploy(pi)
    assert again.changed == set()
    totals = again.result["results"]["totals"]
    assert totals["no_change"] == totals["hosts"] > 10
    assert pids(pi) == before


def test_plan_of_a_settled_machine_is_empty_and_changes_no_byte(pi: VirtualPi) -> None:
    before = fingerprint(pi)
    assert plan(pi).planned == set()
    assert fingerprint(pi) == before


def test_plan_with_diff_names_a_change_and_makes_none(pi: VirtualPi) -> None:
    before = fingerprint(pi)
    shown = pyinfra(pi, "--dry", "--diff", "--data", "redis_port=7000", "inventory.py", "deploy.py")
    assert shown.status == 0
    assert "- port 6379" in shown.output
    assert "+ port 7000" in shown.output
    assert "Will restart redis-server.service" in shown.output
    assert fingerprint(pi) == before


def test_one_component_can_be_deployed_alone(pi: VirtualPi) -> None:
    alone = pyinfra(pi, "--json", "-y", "inventory.py", "tasks.redis.deploy")
    assert alone.changed == set()
    named = [step["name"].split(" | ") for step in alone.result["plan"]]
    assert {words[0] for words in named if len(words) > 1} == {"Redis"}
    assert [words for words in named if len(words) == 1] == [[TAKE], [CLOSE]]


def test_a_host_can_be_named_without_the_inventory(pi: VirtualPi) -> None:
    named = pyinfra(pi, "--json", "-y", f"@docker/{pi.name}", "deploy.py")
    assert named.changed == set()


def test_plan_of_a_fresh_machine_tells_all_and_changes_no_byte(fresh_pi: VirtualPi) -> None:
    before = fingerprint(fresh_pi)
    announced = plan(fresh_pi).planned
    assert {"Packages | Install", "Worker | Run", "Beat | Run"} <= announced
    assert fingerprint(fresh_pi) == before


def test_proof_fails_when_a_service_is_down(pi: VirtualPi) -> None:
    assert "SUCCESS" in prove(pi)
    pi.run("systemctl", "stop", "celery-beat")
    assert pi.run("celery-pi", "prove", check=False).returncode == 1
    pi.run("systemctl", "start", "celery-beat")
    pi.run("systemctl", "stop", "celery-worker")
    failed = pi.run("celery-pi", "prove", check=False)
    assert failed.returncode == 1
    assert "not sent: celery-worker must be active" in failed.stdout


def test_proof_is_of_the_deployed_worker_and_of_no_other(pi: VirtualPi) -> None:
    """One that somebody has started by hand takes tasks too."""
    stranger = (
        f"{APP}/venv/bin/celery -A observations_nids worker --loglevel=INFO -n celery-stranger@%h"
    )
    owned = ("-p", "User=www-data", "-p", f"WorkingDirectory={APP}", "--setenv=PYTHONPATH=.")
    pi.run("systemd-run", "--unit=stranger", *owned, *stranger.split())
    pi.run("systemctl", "start", "celery-worker")
    journal = ("journalctl", "--no-pager", "-u", "stranger")
    wait_for("the stranger works", lambda: "ready" in pi.run(*journal).stdout, 120)
    # Its first answer takes longer than others; nobody waits for one who is not known.
    asked = "from observations_nids.celery import app; print(app.control.ping(timeout=10))"
    wait_for("it answers", lambda: "celery-stranger" in in_app(pi, asked), 120)
    failed = pi.run("celery-pi", "prove", check=False)
    assert failed.returncode == 1
    assert "a worker that was not deployed answers: celery-stranger@raspberrypi" in failed.stdout
    pi.run("systemctl", "stop", "stranger")
