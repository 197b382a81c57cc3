"""What the pages that medray writes are made of: one HTML file each, with its pictures inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from matplotlib.figure import Figure

__all__ = ["COLOURS", "bare", "image", "page", "table"]

COLOURS = ("#3b82c4", "#e8a13a", "#d6453d", "#4fa36c", "#8d6bb8", "#7a8794")
STYLE = """
:root{color-scheme:light dark;--ink:#1b2733;--soft:#5a6b7b;--line:#d8e0e7;--page:#fbfcfd;--card:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa8b5;--line:#30404f;--page:#10171e;--card:#17212b}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:0 auto;max-width:980px;
padding:2rem 1.2rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}p{margin:.5rem 0}.soft{color:var(--soft)}
img{width:100%;height:auto;border-radius:8px;border:1px solid var(--line)}
table{border-collapse:collapse;width:100%;background:var(--card)}
th,td{text-align:right;padding:.35rem .7rem;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}th{font-weight:600;color:var(--soft)}
.two{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem}
@media(max-width:700px){.two{grid-template-columns:1fr}}
.note{border-left:4px solid #e8a13a;padding:.4rem .9rem;background:var(--card)}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Put parts, already HTML, under a title."""
    name = html.escape(title)
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{name}</title><style>{STYLE}</style>"
    return f"{head}<body><h1>{name}</h1>{''.join(parts)}</body></html>"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Make a table; cells are text."""
    top = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def image(figure: Figure, alt: str) -> str:
    """Embed a figure as PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor=figure.get_facecolor())
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{html.escape(alt)}' src='data:image/png;base64,{data}'>"


def bare(*several: Any) -> None:
    """Take the frame off axes and lay a light grid behind."""
    for axes in several:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
