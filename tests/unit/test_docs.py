"""The documentation: its links lead somewhere, and what it names exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_pi.component import components
from celery_pi.render import ROOT
from celery_pi_tools.cli import build_parser

OWN = ("celery_pi", "docs", "files", "packages", "tasks", "templates", "tests")
DIRECTORIES = (*OWN, "group_data")
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("packages/*/*.md"))
)
LINK = re.compile(r"\]\((?!\w+:)([^)\s#]*)(?:#([^)\s]*))?\)")
SPAN = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(rf"(?:{'|'.join(OWN)})/[\w./*-]+")
DOCUMENT = re.compile(r"(?<![\w/-])docs/[\w/-]+\.md")
MODULE = re.compile(r"[\w/]+\.(?:py|sh|j2|lock)")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")
COMMAND = re.compile(r"\bcelery-pi ([a-z][a-z-]+)")
# A component that stands beside the project, to show how one is added.
EXAMPLE = ROOT / "tests/memcached"


def code(text: str) -> Iterator[str]:
    """What a page sets as code: its blocks and its spans."""
    yield from FENCE.findall(text)
    yield from SPAN.findall(FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """Where a link can lead to in that page, by the rule that GitHub has for headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for path, anchor in LINK.findall(FENCE.sub("", page.read_text())):
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}" if anchor else path)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert broken_links(ROOT / page) == []


def test_broken_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Other\n\n## `a.b`: what, and why\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](gone.md) [b](other.md#no) [c](other.md#ab-what-and-why) [d](https://e.f/g)"
    )
    assert broken_links(page) == ["gone.md", "other.md#no"]


@pytest.mark.parametrize("page", PAGES)
def test_files_of_the_project_that_a_page_names_exist(page: str) -> None:
    named = {path.rstrip(".") for text in code((ROOT / page).read_text()) for path in at(text)}
    assert {path for path in named if not exists(path)} == set()


@pytest.mark.parametrize("page", sorted({*PAGES} - {"CHANGELOG.md"}))
def test_modules_that_a_page_names_exist(page: str) -> None:
    """By their name alone, as in a table of modules. Those of pyinfra are not ours."""
    known = {
        f"/{path.relative_to(ROOT)}" for name in DIRECTORIES for path in (ROOT / name).rglob("*.*")
    }
    known |= {f"/{path.name}" for path in ROOT.glob("*.*")}
    spans = SPAN.findall(FENCE.sub("", (ROOT / page).read_text()))
    named = {span for span in spans if MODULE.fullmatch(span) and not span.startswith("pyinfra")}
    gone = {span for span in named if not any(path.endswith(f"/{span}") for path in known)}
    assert gone == set()


def at(text: str) -> Iterator[str]:
    """Paths in the text that begin at the project's root, not at the Pi's or in another word."""
    for found in PATH.finditer(text):
        if not re.search(r"[\w/.*-]$", text[: found.start()]):
            yield found[0]


def exists(path: str) -> bool:
    return any(any(place.glob(path.rstrip("/"))) for place in (ROOT, EXAMPLE))


def test_pages_that_the_source_names_exist() -> None:
    sources = [ROOT / "Makefile", *ROOT.glob("*.py"), *ROOT.glob("*.md")]
    for directory in OWN:
        sources += [path for path in (ROOT / directory).rglob("*") if path.is_file()]
    missing = set()
    for source in sources:
        if source.suffix in {".pyc", ".png", ".svg"}:
            continue
        named = DOCUMENT.findall(source.read_text(errors="replace"))
        missing |= {f"{source}: {page}" for page in named if not (ROOT / page).is_file()}
    assert missing == set()


def test_every_page_is_on_the_map() -> None:
    text = (ROOT / "docs/README.md").read_text()
    listed = {(ROOT / "docs" / path).resolve() for path, _ in LINK.findall(text)}
    assert set((ROOT / "docs").rglob("*.md")) - listed == {ROOT / "docs/README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_a_page_gives_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(code((ROOT / page).read_text()))
    assert set(MAKE.findall(text)) <= targets
    usage = re.search(r"{([\w,-]+)}", build_parser().format_usage())
    assert usage
    assert set(COMMAND.findall(text)) <= set(usage[1].split(","))


def test_commands_of_the_readmes_blocks_are_run_by_a_test_or_ci() -> None:
    given = set(MAKE.findall("".join(FENCE.findall((ROOT / "README.md").read_text()))))
    runs = (ROOT / ".ci/run").read_text()
    tests = "".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")))
    called = re.findall(r'"make", "([a-z-]+)"|\bmake\("([a-z-]+)"', tests)
    assert given == {"plan", "deploy", "test"}
    assert given <= {name for names in called for name in names} | set(MAKE.findall(runs))


def test_readme_has_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_picture_of_status_shows_no_unit_that_is_gone() -> None:
    shown = (ROOT / "docs/pictures/status.svg").read_text().replace("\N{NO-BREAK SPACE}", " ")
    units = set(re.findall(r">\s+(\S+) +active \(", shown))
    assert units <= {unit.name.removesuffix(".service") for c in components() for unit in c.units}
    assert "celery-worker" in units
