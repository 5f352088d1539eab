"""The packages that run on the Pi: which files are installed, watched and removed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyinfra.api.exceptions import OperationError

from celery_pi import render
from celery_pi.operations import extra_files
from celery_pi.operations.extra_files import extra_files_absent
from celery_pi.render import ROOT, from_package
from celery_pi.settings import Settings
from tasks import app, flower
from tests.helpers.fake import run

GUARD = ROOT / "packages/celery-redis-guard/src"
URL = "redis://:s3cret@127.0.0.1:6379/0"
LOADED = """
import json, sys
import celery_redis_guard.app, celery_redis_guard.plain, celeryredisguard  # guarded or plain
names = [name for name in sys.modules if name.startswith(("celery_redis_guard", "celeryredis"))]
print(json.dumps([sys.modules[name].__file__ for name in names]))
"""


# -- what is installed


def test_every_module_of_the_source_is_installed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "packages/things/src/things"
    (source / "__pycache__").mkdir(parents=True)
    (source / "part").mkdir()
    for name in ("__init__.py", "b.py", "a.py", "part/__init__.py"):
        (source / name).write_text(f"# {name}\n")
    (source / "__pycache__/a.cpython-313.pyc").write_bytes(b"\0")
    (source.parent.parent / "tests").mkdir()
    (source.parent.parent / "tests/test_a.py").touch()
    monkeypatch.setattr(render, "ROOT", tmp_path)
    files = from_package("things", to="/opt")
    assert [(file.path, file.mode) for file in files] == [
        ("/opt/things/__init__.py", "0644"),
        ("/opt/things/a.py", "0644"),
        ("/opt/things/b.py", "0644"),
        ("/opt/things/part/__init__.py", "0644"),
    ]
    assert files[1].content == "# a.py\n"


# -- what is watched: a service is started again for what it has loaded, and for nothing else


def test_worker_and_beat_watch_the_modules_that_they_load(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(
        f"from celery import Celery\napp = Celery('project', broker={URL!r}, backend={URL!r})\n"
    )
    environment = {"CELERY_PI_APP": "project", "CELERY_BROKER_URL": URL}
    done = subprocess.run(
        [sys.executable, "-B", "-c", LOADED],
        env={
            **{"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{GUARD}"},
            **{"CELERY_RESULT_BACKEND": URL, **environment},
        },
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {f"{app.GUARD}/{Path(path).relative_to(GUARD)}" for path in json.loads(done.stdout)}
    watched = {path for path in app.watched(Settings()) if path.startswith(app.GUARD)}
    assert watched == loaded | {f"{app.PACKAGE}/celery_5_7_0.py"}  # one version alone loads it


def test_flower_watches_the_modules_that_it_loads() -> None:
    """Read and not run: Flower is not installed here."""
    loaded, left = {"__init__"}, ["flower"]
    while left:
        loaded.add(name := left.pop())
        tree = ast.parse((GUARD / f"celery_redis_guard/{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("celery_redis"):
                named = (node.module or "").removeprefix("celery_redis_guard").strip(".")
                left += [named] if named else [each.name for each in node.names]
    assert set(flower.LIBRARY) == {f"{app.PACKAGE}/{name}.py" for name in loaded}


# -- what is removed


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where our packages are: one with two modules that belong there, and their bytecode."""
    monkeypatch.setattr(extra_files, "OURS", tmp_path)
    for name in ("__init__.py", "a.py", "__pycache__/a.cpython-313.pyc"):
        put(tmp_path / "guard/things" / name)
    return tmp_path


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def remove(library: Path) -> list[bool]:
    files = [str(library / "guard/things" / name) for name in ("__init__.py", "a.py")]
    done = run(
        lambda: extra_files_absent(
            name="Remove",
            directory=str(library / "guard"),
            files=files,
            former=[str(library / "handover.py")],
        )
    )
    assert done.error == ""
    return done.changed


def left(library: Path) -> set[str]:
    return {str(path.relative_to(library)) for path in library.rglob("*")}


@pytest.mark.parametrize(
    "name",
    [
        "handover.py",
        "guard/other.py",
        "guard/things/gone.py",
        "guard/things/with a blank.py",
        "guard/things/part/deep/gone.py",
        "guard/things/__pycache__/gone.cpython-313.pyc",
        "guard/things/__pycache__/a.py",
        "guard/part/__pycache__/a.cpython-313.pyc",
    ],
)
def test_what_does_not_belong_to_the_package_is_removed_once(library: Path, name: str) -> None:
    belongs = left(library)
    put(library / name)
    put(library / "beside.py")
    assert remove(library) == [True]
    assert left(library) == belongs | {"beside.py"}
    assert remove(library) == [False]


@pytest.mark.parametrize("name", ["beside.py", "guard-other/x.py", "guard/../beside.py"])
def test_what_is_elsewhere_is_not_removed_whatever_the_machine_answers(
    library: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put(library / "beside.py")
    put(library / "guard-other/x.py")
    before = left(library)
    forged = [str(library / "guard"), f"{library}/{name}"]
    monkeypatch.setattr(extra_files.Paths, "process", lambda *_: forged)
    with pytest.raises(OperationError, match="was found, which is not in"):
        remove(library)
    assert left(library) == before


def test_link_is_removed_and_not_followed(
    library: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere / "kept.py")
    (library / "guard/things/part").symlink_to(elsewhere)
    assert remove(library) == [True]
    assert not (library / "guard/things/part").is_symlink()
    assert (elsewhere / "kept.py").exists()


def test_directory_that_is_not_there_yet_needs_nothing(library: Path) -> None:
    assert (library / "guard").rename(library / "moved")
    assert remove(library) == [False]


@pytest.mark.parametrize(
    "path", ["/etc", "/usr/local/lib/celery-pi", "/usr/local/lib/celery-pi/../x"]
)
def test_directory_of_others_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not below"):
        run(lambda: extra_files_absent(name="Remove", directory=path, files=[]))
