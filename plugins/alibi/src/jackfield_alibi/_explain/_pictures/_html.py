"""A page as HTML: one file, images inside, everything escaped, no scripts."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from jackfield_alibi._explain._pictures._page import Note, Plot, Table, Words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jackfield_alibi._explain._pictures._page import Block, Page

# nothing from elsewhere is loaded, and no script runs, even where a browser were to find one
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light; }
body { margin: 2rem auto; max-width: 860px; padding: 0 1rem; background: #fff; color: #1f2328;
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #d8dee4; }
dl { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 0 0 1rem; }
dl div { display: flex; gap: .4rem; }
dt { color: #59636e; } dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
figure { margin: .5rem 0; } img { width: 100%; max-width: 840px; height: auto; display: block; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #59636e; padding-bottom: .25rem; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #d8dee4;
  overflow-wrap: anywhere; vertical-align: top; }
th { color: #59636e; font-weight: 600; }
tr.marked td { background: #fff1e5; } tr.marked td:first-child { font-weight: 600; }
mark { background: #ffd8a8; color: inherit; padding: .1em .15em; border-radius: .2em;
  text-decoration: underline; text-decoration-thickness: 2px; }
blockquote { margin: .5rem 0; padding: .5rem 1rem; border-left: 3px solid #d8dee4;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 1.1rem; line-height: 1.9; }
details { margin: .5rem 0; } summary { cursor: pointer; color: #59636e; }
p { margin: .4rem 0; }
"""


def render_html(page: Page) -> bytes:
    """Write a page; UTF-8."""
    return "\n".join(_lines(page)).encode("utf-8", "replace")


def _lines(page: Page) -> Iterator[str]:
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(page.title)}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{escape(page.title)}</h1>"
    yield "<dl>"
    for name, value in page.facts:
        yield f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
    yield "</dl>"
    for section in page.sections:
        if section.title:
            yield f"<h2>{escape(section.title)}</h2>"
        for block in section.blocks:
            yield from _block(block)
    yield "</body></html>"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Note):
        yield f"<p>{escape(block.text)}</p>"
    elif isinstance(block, Words):
        pieces = (
            f"<mark>{escape(text)}</mark>" if is_marked else escape(text)
            for text, is_marked in block.pieces
        )
        yield f"<blockquote>{''.join(pieces)}</blockquote>"
    elif isinstance(block, Plot):
        from jackfield_alibi._explain._pictures._canvas import encode_png, paint

        data = base64.b64encode(encode_png(paint(block))).decode()
        source = f"data:image/png;base64,{data}"
        yield f'<figure><img src="{source}" alt="{escape(block.says)}"></figure>'
    elif block.is_detail:
        yield f"<details><summary>{escape(block.caption or 'numbers')}</summary>"
        yield from _table(block, caption="")
        yield "</details>"
    else:
        yield from _table(block, caption=block.caption)


def _table(table: Table, *, caption: str) -> Iterator[str]:
    yield "<table>"
    if caption:
        yield f"<caption>{escape(caption)}</caption>"
    yield "<thead><tr>" + "".join(f"<th>{escape(each)}</th>" for each in table.columns)
    yield "</tr></thead><tbody>"
    for index, row in enumerate(table.rows):
        kind = ' class="marked"' if index in table.marked else ""
        yield f"<tr{kind}>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>"
    yield "</tbody></table>"
