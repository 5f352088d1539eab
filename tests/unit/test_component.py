"""What a component states of itself, and what follows from it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyinfra import host
from pyinfra.api import DeployError, StringCommand
from pyinfra.api.exceptions import PyinfraError

from celery_pi import component, manifest, settings
from celery_pi.component import Component, Secret, Unit, components, deploys
from celery_pi.firewall_rules import opening
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.remove_units import UNITS
from celery_pi.render import ROOT
from celery_pi.settings import Port, Settings, load_settings
from tests.helpers.fake import mode, run, sh

A = ["644", "root", "root", "1"]
B = ["600", "root", "root", "-"]
A_FILE = {"mode": "644", "owner": "root", "group": "root", "sha256": "1"}
B_FILE = {"mode": "600", "owner": "root", "group": "root", "sha256": None}


def test_every_component_is_deployed_by_deploy_py_or_by_a_task_that_is() -> None:
    text = (ROOT / "deploy.py").read_text()
    called = {
        node.func.value.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
    }
    stating = {
        path.stem for path in (ROOT / "tasks").glob("*.py") if "= Component[" in path.read_text()
    }
    assert stating - called == {"tls"}, "which is redis's"
    assert len({each.name for each in components()}) == len(components())


def test_no_unit_and_no_file_is_stated_by_two_components_but_for_admin_addresses() -> None:
    paths = [path for each in components() for path in each.files]
    assert {path for path in paths if paths.count(path) > 1} == {"/etc/celery-pi/deployers"}
    units = [unit.name for each in components() for unit in each.units]
    assert len(units) == len(set(units))


def test_only_the_sites_ports_are_open() -> None:
    ports = [port for each in components() for port in each.ports]
    assert {opening(text).port for text in ports} == {80, 443}


def test_unit_that_is_not_to_be_as_closed_as_the_others_is_rated_by_what_it_states() -> None:
    loose = {
        unit.name: unit.exposure
        for each in components()
        for unit in each.units
        if unit.daemon and unit.exposure > component.EXPOSURE
    }
    assert loose == {"nginx.service": 4.0, "fail2ban.service": 4.0}


def test_secret_is_stated_with_the_settings_filled_in() -> None:
    secret = Secret("{settings.app_env}", "600", "{settings.app_user}", stays=True)
    stated = secret.stated(Settings(app_dir="/srv/app", app_user="pi"))
    assert stated == {
        **{"path": "/srv/app/.env", "mode": "600", "owner": "pi", "group": "root"},
        "once": True,
    }


THING = Component[Settings](
    "Thing",
    enabled=lambda settings: settings.flower,
    units=(
        Unit("thing.service", "nothing things", drop_ins=("a.conf",)),
        Unit("debians.service", "nothing debs", drop_ins=("b.conf",), debian=True),
    ),
    ports=("7/tcp",),
    secrets=(Secret("/etc/thing.key", "600"), Secret("/etc/theirs", "600", stays=True)),
    writes=("/etc/thing", "/etc/shared"),
)
OTHER = Component[Settings]("Other", writes=("/etc/shared",))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The two components above, beside those of the product, which are imported first."""
    everything = components()
    monkeypatch.setattr(component, "components", lambda: everything)
    monkeypatch.setattr(component.plan, "begin", lambda _: None)
    monkeypatch.setattr(component.plan, "show", lambda: None)
    monkeypatch.setattr(component.run, "begin", lambda *_: None)
    monkeypatch.setattr(component.run, "end", lambda: None)
    return iter(())


def test_component_that_is_off_has_neither_units_nor_ports_but_its_secrets_are_audited() -> None:
    on, off = (THING.stated(Settings(flower=value)) for value in (True, False))
    assert [unit["name"] for unit in on["units"]] == ["thing.service", "debians.service"]
    assert (on["ports"], on["enabled"]) == (["7/tcp"], True)
    assert off == {"enabled": False, "units": [], "ports": [], "secrets": on["secrets"]}


def task(what: Component[Settings], monkeypatch: pytest.MonkeyPatch, *paths: str, on: bool) -> Any:
    """Units and files that are removed by a run of the component, which writes these files."""
    removed: dict[str, Any] = {}
    monkeypatch.setattr(component, "components", lambda: (THING, OTHER))
    monkeypatch.setattr(component, "preflight", lambda _: Settings(flower=on))
    monkeypatch.setattr(component, "remove_units", lambda **told: removed.update(told))

    def writes(_: Settings) -> None:
        config_files(name="Configure", files=[ConfigFile(path, "x") for path in paths])

    run(deploys(what)(writes), answers={}, dry=True)
    return removed


def test_component_that_is_switched_off_leaves_what_is_debians_the_owners_and_anothers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    removed = task(THING, monkeypatch, on=False)
    assert removed["units"] == ["thing.service"]
    assert set(removed["files"]) == {
        *(f"{UNITS}/thing.service.d/a.conf", f"{UNITS}/debians.service.d/b.conf"),
        *("/etc/thing.key", "/etc/thing"),
    }
    assert task(THING, monkeypatch, on=True) == {}


@pytest.mark.parametrize(
    "path", ["/etc/thing", f"{UNITS}/thing.service", f"{UNITS}/thing.service.d/a.conf"]
)
def test_what_a_component_writes_and_does_not_state_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    task(THING, monkeypatch, path, on=True)
    with pytest.raises(DeployError, match="Thing does not state that it writes /etc/else"):
        task(THING, monkeypatch, path, "/etc/else", on=True)
    task(OTHER, monkeypatch, "/etc/else", on=True)  # it cannot be switched off


def test_file_of_a_task_that_it_calls_is_that_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component, "components", lambda: (THING, OTHER))
    monkeypatch.setattr(component, "preflight", lambda _: Settings())

    def write(path: str) -> None:
        config_files(name="Configure", files=[ConfigFile(path, "x")])

    inner = deploys(OTHER)(lambda _: write("/etc/else"))

    def outer(_: Settings) -> None:
        inner()
        write("/etc/thing")

    assert run(deploys(THING)(outer), answers={}, dry=True).planned == [True, True]


# -- the manifest


def text(old: str, components: dict[str, Any], files: dict[str, Any], whole: bool = False) -> str:
    """The manifest after a run on a machine whose older deploys had a component `Old`."""

    def update() -> str:
        host.connector_data[manifest.ALL] = {"Old": {"units": []}}
        for name, stated in components.items():
            manifest.note(host, name, stated)
        return manifest.update(host, old, files, whole)

    found = []
    run(lambda: found.append(update()), answers={})
    return str(found[0])


def test_run_of_one_component_forgets_no_other_and_a_whole_one_what_is_no_more() -> None:
    whole = text("", {"A": {"units": [1]}, "B": {"units": []}}, {"/b": B, "/a": A}, whole=True)
    assert json.loads(whole) == {
        "components": {"A": {"units": [1]}, "B": {"units": []}},
        "files": {"/a": A_FILE, "/b": B_FILE},
    }
    assert text(whole, {"A": {"units": [1]}}, {"/a": A}) == whole, "to the byte"
    assert text(whole, {}, {"/no": None}) == whole
    alone = json.loads(text(whole, {"A": {"units": [2]}}, {"/a": B, "/b": None}))
    assert alone["components"] == {"A": {"units": [2]}, "B": {"units": []}}
    assert list(alone["components"]) == ["A", "B"], "in their order"
    assert alone["files"] == {"/a": B_FILE}
    again = json.loads(text(whole, {"B": {}}, {"/b": B}, whole=True))
    assert (again["components"], again["files"]) == ({"B": {}}, {"/b": B_FILE})


def test_task_that_begins_early_and_ends_late_has_the_place_of_its_end() -> None:
    def noted() -> None:
        for name in ("Worker", "Redis", "Worker"):
            manifest.note(host, name, {})
        found.extend(manifest.noted(host))

    found: list[str] = []
    run(noted, answers={})
    assert found == ["Redis", "Worker"]


def test_first_run_of_one_component_on_a_pi_of_older_deploys_knows_what_those_left() -> None:
    lines = "".join("\t".join([path, *state]) + "\n" for path, state in (("/a", A), ("/b", B)))
    alone = json.loads(text(lines, {"New": {}}, {"/b": A}))
    assert alone["components"] == {"Old": {"units": []}, "New": {}}
    assert alone["files"] == {"/a": A_FILE, "/b": A_FILE}
    assert json.loads(text("", {"New": {}}, {}))["components"] == {"New": {}}, "on a bare Pi"


def test_damaged_manifest_is_told_and_a_whole_run_writes_it_anew() -> None:
    damaged = '{"components": {"Old"'
    with pytest.raises(PyinfraError, match=r"is damaged .*; `make deploy` writes it anew"):
        text(damaged, {"A": {}}, {})
    assert json.loads(text(damaged, {"A": {}}, {}, whole=True))["components"] == {"A": {}}


def test_manifest_takes_the_place_of_the_list_of_older_deploys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "FILE", str(tmp_path / "etc/manifest.json"))
    monkeypatch.setattr(manifest, "LEGACY", str(tmp_path / "declared"))
    assert sh(manifest.read()) == []
    (tmp_path / "declared").write_text("/a\t644\n")
    assert sh(manifest.read()) == ["/a\t644"]
    sh(StringCommand("echo '{}' | (", manifest.write(), ")"))
    assert sh(manifest.read()) == ["{}"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["etc", "manifest.json"]
    assert mode(tmp_path / "etc/manifest.json") == 0o600


# -- settings that are stated beside a component


@pytest.fixture
def stating(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of `tasks/` that states these settings; it is gone afterwards."""

    def state(default: bool = True, **fields: Any) -> type[Settings]:
        values = dict.fromkeys(fields, 7) if default else {}
        stated = {"__module__": "tasks.own", "__annotations__": fields, **values}
        made.append(type("Own", (Settings,), stated))
        return made[-1]

    made: list[type[Settings]] = []
    monkeypatch.setattr(settings, "_stated", lambda: tuple(made))
    settings.model.cache_clear()
    yield state
    settings.model.cache_clear()


def test_settings_of_a_component_are_given_like_all_others(stating: Any) -> None:
    own = stating(thing_port=Port, things=int | None)
    found, sentences = load_settings({"thing_port": "7000", "things": None, "redis_port": 7001})
    assert sentences == []
    assert isinstance(found, own)
    assert found.on_the_pi(exclude_unset=True) == {
        **{"thing_port": 7000, "things": None, "redis_port": 7001},
    }


def test_settings_of_a_component_are_refused_like_all_others(stating: Any) -> None:
    stating(thing_port=Port)
    assert load_settings({"thing_prot": 7000})[1][:1] == [
        "thing_prot is no setting; did you mean thing_port?"
    ]
    (sentence,) = load_settings({"thing_port": 80})[1]
    assert sentence == "thing_port should be greater than or equal to 1024 (it is 80)"


@pytest.mark.parametrize("name", ["thing_port", "redis_port"])
def test_name_that_two_have_is_refused(stating: Any, name: str) -> None:
    stating(thing_port=Port)
    stating(**{name: Port})
    with pytest.raises(TypeError, match=f"two settings of the name {name}"):
        settings.model()


def test_setting_of_a_component_has_a_default(stating: Any) -> None:
    stating(default=False, thing_port=Port)
    with pytest.raises(TypeError, match="a setting without a default: thing_port"):
        settings.model()


def test_components_of_the_product_state_their_settings_in_one_place() -> None:
    assert settings.model() is Settings
