"""A figure as SVG: a bar for each competitor's median, a dot for each run, a line over their range.

Transparent, with colours for a light and a dark page.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from tests.bench.figure import Figure

WIDTH, LEFT, RIGHT, TOP, ROW = 760, 180, 110, 40, 34
BAR = 18
SPAN = WIDTH - LEFT - RIGHT  # pixels of the longest run
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.bar { fill: #54aeff }
.range { stroke: #0a3069; stroke-width: 1.5 }
.run { fill: #0a3069; fill-opacity: .7 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .bar { fill: #1f6feb }
  .range { stroke: #cae8ff }
  .run { fill: #cae8ff }
}
"""


def draw(figure: Figure) -> str:
    """The figure as a whole SVG document; bars begin at 0, so lengths are to each other as the
    medians are."""
    height = TOP + ROW * len(figure.runs) + 6
    scale = SPAN / max(value for runs in figure.runs.values() for value in runs)
    rows = (_row(figure, name, TOP + ROW * n, scale) for n, name in enumerate(figure.runs))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">\n'
        f"<style>{_STYLE}</style>\n"
        f'<text class="title" x="4" y="20">{escape(figure.title)} ({escape(figure.unit)})</text>\n'
        f"{''.join(rows)}</svg>\n"
    )


def number(value: float) -> str:
    """Three digits that count, and no more zeros than those: `0.0123`, `4.57`, `12,300`."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:#.3g}"


def _row(figure: Figure, name: str, top: int, scale: float) -> str:
    runs, middle = figure.runs[name], top + ROW / 2
    length, first, last = (value * scale for value in (figure.median(name), min(runs), max(runs)))
    dots = "".join(
        f'<circle class="run" cx="{LEFT + run * scale:.1f}" cy="{middle}" r="3"/>\n' for run in runs
    )
    return (
        f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>\n'
        f'<rect class="bar" x="{LEFT}" y="{middle - BAR / 2}" width="{length:.2f}" '
        f'height="{BAR}"/>\n'
        f'<line class="range" x1="{LEFT + first:.1f}" y1="{middle}" '
        f'x2="{LEFT + last:.1f}" y2="{middle}"/>\n'
        f'{dots}<text x="{LEFT + max(length, last) + 8:.1f}" y="{middle + 4}">'
        f"{number(figure.median(name))}</text>\n"
    )
