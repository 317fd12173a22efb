"""An account as one HTML file: pictures, tables, and behind each number its formula. No scripts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from boli import __version__
from boli.weigh.account import Account
from boli.weigh.picture_account import pictures
from boli.weigh.views import LEGEND, Section, Table
from boli.weigh.views_account import Shown, view

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1d2026;--faint:#666c77;--ground:#fff;--line:#e3e5e8;
--shade:#f6f7f8}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--faint:#9aa0aa;--ground:#15171b;
--line:#2a2d33;--shade:#1c1f24}}
body{margin:0 auto;max-width:1008px;padding:24px;background:var(--ground);color:var(--ink);
font:15px/1.5 ui-sans-serif,system-ui,'Segoe UI','Noto Sans','PingFang SC','Microsoft YaHei',sans-serif}
h1{font-size:26px;margin:8px 0 2px}h2{font-size:18px;margin:40px 0 10px}
p,li,footer{color:var(--faint)}nav a{margin-right:16px}a{color:inherit}
.scroll{overflow-x:auto}.picture{margin:0 -24px}svg{max-width:100%;height:auto;display:block}
table{border-collapse:collapse;margin:10px 0;font-variant-numeric:tabular-nums;font-size:14px}
td,th{padding:3px 14px 3px 0;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}
td:last-child{white-space:normal;min-width:16em}td.n:last-child{min-width:0}th{color:var(--faint);font-weight:600}.n{text-align:right}
dl{display:grid;grid-template-columns:max-content auto;gap:2px 20px;margin:10px 0}
dt{color:var(--faint)}dd{margin:0;font-variant-numeric:tabular-nums}
details{margin:10px 0;background:var(--shade);border-radius:8px;padding:8px 14px}
summary{cursor:pointer;color:var(--faint)}
code{font:13px/1.6 ui-monospace,'Cascadia Mono',Menlo,monospace;overflow-wrap:anywhere}
.formula{margin:6px 0}.formula b{font-weight:600}
"""


def page(account: Account) -> str:
    """The page, complete in itself: nothing is loaded from elsewhere."""
    name = escape(account.model.name)
    sections = view(account, Shown(formats=True, training=True))
    drawings = "".join(f'<div class="scroll picture">{picture.svg()}</div>' for picture in pictures(account))
    missing = dict.fromkeys(line for section in sections for line in section.not_modelled)
    links = "".join(f'<a href="#{_anchor(each)}">{escape(each.title)}</a>' for each in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name}, weighed by boli</title><style>{_STYLE}</style></head><body>"
        f"<h1>{name}</h1><p>weighed by boli {__version__} before it was downloaded. "
        f"Marks: {escape(LEGEND)}</p>"
        f"<nav>{links}</nav>{drawings}{''.join(map(_section, sections))}"
        f"<h2>Not modelled</h2>{_list(missing)}"
        "<footer>Every number was computed by the formula that is shown for it.</footer></body></html>\n"
    )


def _section(section: Section) -> str:
    facts = "".join(f"<dt>{escape(name.strip())}</dt><dd>{escape(text)}</dd>" for name, text in section.facts)
    return (
        f'<h2 id="{_anchor(section)}">{escape(section.title)}</h2>'
        + (f"<dl>{facts}</dl>" if facts else "")
        + "".join(map(_table, section.tables))
        + (_list(section.notes) if section.notes else "")
        + _formulas(section)
    )


def _anchor(section: Section) -> str:
    return escape(section.title.lower().replace(" ", "-"))


def _table(table: Table) -> str:
    kinds = [' class="n"' if column.numeric else "" for column in table.columns]
    head = "".join(
        f"<th{kind}>{escape(column.title)}</th>" for kind, column in zip(kinds, table.columns, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in table.rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _formulas(section: Section) -> str:
    """The formulas of a section, folded away."""
    if not section.explained:
        return ""
    shown = "".join(
        f'<div class="formula"><b>{escape(name.strip())}</b> <code>{escape(value.formula)}</code><br>'
        f"<code>= {escape(value.explain())}</code> ({value.certainty})"
        + (f" {escape(value.note)}" if value.note else "")
        + "</div>"
        for name, value in section.explained
    )
    return f"<details><summary>How each number was computed</summary>{shown}</details>"


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
