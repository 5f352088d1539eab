"""A manifest as a deploy of everything writes it, for tests of the tools that read it."""

from __future__ import annotations

import ast
from importlib import import_module
from typing import Any

from celery_pi.component import Component, components
from celery_pi.manifest import merged
from celery_pi.render import ROOT
from celery_pi.settings import Settings


def manifest_text(without: tuple[str, ...] = (), **settings: Any) -> str:
    """Its text, with every component but those `without`, and no files."""
    given = Settings(**settings)
    return merged({}, {each.name: stated(each, given) for each in in_order(without)}, {})


def stated(component: Component[Any], settings: Settings) -> dict[str, Any]:
    """What it states while it is switched on, without a look at a machine."""
    return {
        "enabled": True,
        "units": [unit.stated() for unit in component.units],
        "ports": list(component.ports),
        "secrets": [secret.stated(settings) for secret in component.secrets],
    }


def in_order(without: tuple[str, ...]) -> list[Component[Any]]:
    """The components as `deploy.py` has them, the last call of each counting."""
    calls = [
        node.func.value.id
        for node in ast.walk(ast.parse((ROOT / "deploy.py").read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
    ]
    places = {module: place for place, module in enumerate(calls) if module != "redis"}
    places["redis"] = calls.index("redis")  # the other call retires passwords
    found = {each.name: each for each in components() if each.name not in without}
    modules = {each.name: module(each) for each in found.values()}
    return sorted(found.values(), key=lambda each: places.get(modules[each.name], len(calls)))


def module(component: Component[Any]) -> str:
    """Name of the module of `tasks/` that states it."""
    names = [path.stem for path in (ROOT / "tasks").glob("[a-z]*.py")]
    return next(
        name for name in names if component in vars(import_module(f"tasks.{name}")).values()
    )
