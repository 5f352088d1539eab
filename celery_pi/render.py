"""Files for the target: from `files/` and `templates/`, which mirror its root, and `packages/`."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from pyinfra.api import DeployError

from celery_pi.operations.config_files import ConfigFile

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Environment(
    loader=FileSystemLoader(ROOT / "templates"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def from_file(path: str, mode: str = "0644", check: str = "") -> ConfigFile:
    """The file that lies at the same path below `files/`."""
    content = (ROOT / "files" / path.lstrip("/")).read_text(encoding="utf-8")
    return ConfigFile(path, content, mode=mode, check=check)


def from_package(name: str, to: str) -> list[ConfigFile]:
    """Every module of `packages/<name>`, below the directory `to`, as they lie below its `src/`."""
    source = ROOT / "packages" / name / "src"
    return [
        ConfigFile(f"{to}/{path.relative_to(source)}", path.read_text(encoding="utf-8"))
        for path in sorted(source.rglob("*.py"))
    ]


def from_template(
    path: str,
    *,
    mode: str = "0644",
    group: str = "root",
    secret: bool = False,
    check: str = "",
    **variables: object,
) -> ConfigFile:
    """What the template at the same path (and `.j2`) below `templates/` renders to.

    Rendered here and now, so that a template that does not render ends the run while it is still
    a plan, also with `-y`: DeployError, before anything is touched.
    """
    try:
        content = TEMPLATES.get_template(f"{path.lstrip('/')}.j2").render(variables)
    except TemplateError as error:
        raise DeployError(f"templates{path}.j2 does not render: {error}") from error
    return ConfigFile(path, content, mode=mode, group=group, secret=secret, check=check)
