"""Parts of pages: escaped text, tables, the page around them."""

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2rem auto;padding:0 1rem;color:#1c2730}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #ddd}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13px}
td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #eee}
td{overflow-wrap:break-word;max-width:40rem}
code,pre{background:#f3f5f6;padding:.1rem .3rem;overflow-wrap:anywhere}pre{white-space:pre-wrap;padding:.6rem}
svg{max-width:100%;height:auto;font:11px system-ui,sans-serif}.note{color:#8a4b00}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page, which needs no other file."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what is under it; empty if there is nothing."""
    content = "".join(parts)
    return f"<h2>{escape(title)}</h2>{content}" if content else ""


def paragraph(text: str, *, is_note: bool = False) -> str:
    """A paragraph; a note stands out."""
    return f"<p{' class=note' if is_note else ''}>{escape(text)}</p>"


def command(text: str) -> str:
    """A command to copy."""
    return f"<pre>{escape(text)}</pre>"


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """A table whose columns are the keys of all rows, in their order. Empty without rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def text(value: object) -> str:
    """A value as a cell shows it."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
