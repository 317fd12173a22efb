"""Chapters as HTML without scripts: words and tables as elements, the rest as SVG."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from boli.trace.view.parts import Bars, Facts, Film, Formula, Grid, Heading, Part, Prose, Ruler, Table
from boli.trace.view.picture import draw, stylesheet

# Colours are those of the page around; lines are grey enough for light and dark.
_STYLE: Final = """
.boli-trace{font:14px/1.5 ui-sans-serif,system-ui,'Segoe UI','Noto Sans','PingFang SC',
'Microsoft YaHei',sans-serif;max-width:960px}
.boli-trace h3{font-size:17px;margin:22px 0 8px}.boli-trace h4{font-size:14px;margin:16px 0 6px}
.boli-trace p{margin:6px 0;max-width:48em}.boli-trace .faint{opacity:.7;font-size:13px}
.boli-trace .scroll{overflow-x:auto}.boli-trace svg{max-width:100%;height:auto;display:block;margin:6px 0}
.boli-trace table{border-collapse:collapse;margin:8px 0;font-variant-numeric:tabular-nums}
.boli-trace td,.boli-trace th{padding:2px 14px 2px 0;text-align:left;background:none;
border-bottom:1px solid rgba(128,128,128,.3);white-space:pre-wrap}
.boli-trace .n{text-align:right}.boli-trace .strong{font-weight:600}
.boli-trace dl{display:grid;grid-template-columns:max-content auto;gap:2px 18px;margin:8px 0}
.boli-trace dt{font-weight:600}.boli-trace dd{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
.boli-trace .formula{font-family:ui-monospace,'Cascadia Mono',Menlo,monospace;margin:6px 0 6px 16px}
.boli-trace details{margin:10px 0;border-left:3px solid rgba(128,128,128,.3);padding-left:12px}
.boli-trace summary{cursor:pointer;font-weight:600}
"""


def fragment(inside: str) -> str:
    """What stands in a page or notebook, with the styles that it needs."""
    return f'<div class="boli-trace"><style>{_STYLE}{stylesheet()}</style>{inside}</div>'


def rendered(parts: Iterable[Part]) -> str:
    """Parts one after the other; the last heading names the pictures below it."""
    pieces, title = [], "trace"
    for part in parts:
        if isinstance(part, Heading):
            title = part.text
        pieces.append(_part(part, title))
    return "".join(pieces)


def folded(title: str, inside: str) -> str:
    """Something to be opened by who wants to see it."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def _part(part: Part, title: str) -> str:
    match part:
        case Heading(text, level):
            name = "h3" if level == 1 else "h4"
            return f"<{name}>{escape(text)}</{name}>"
        case Prose(text, faint):
            return f"<p{' class=faint' if faint else ''}>{escape(text)}</p>"
        case Formula(text, source):
            below = f'<div class="faint">{escape(source)}</div>' if source else ""
            return f'<div class="formula">{escape(text)}{below}</div>'
        case Facts(rows):
            inside = "".join(f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in rows)
            return f"<dl>{inside}</dl>"
        case Table():
            return _table(part)
        case Film() | Grid() | Bars() | Ruler():
            picture = draw(part, title)
            return f'<div class="scroll">{picture.embedded()}</div>' if picture else ""


def _table(table: Table) -> str:
    kinds = [' class="n"' if column.numeric else "" for column in table.columns]
    head = "".join(f"<th{k}>{escape(c.title)}</th>" for k, c in zip(kinds, table.columns, strict=True))
    rows = []
    for number, row in enumerate(table.rows):
        strong = ' class="strong"' if number in table.strong else ""
        cells = "".join(f"<td{k}>{escape(cell)}</td>" for k, cell in zip(kinds, row, strict=True))
        rows.append(f"<tr{strong}>{cells}</tr>")
    body = "".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
