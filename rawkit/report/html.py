"""Self-contained HTML pages: no request leaves the file, and its policy forbids any."""

from __future__ import annotations

import base64
import html
import io
import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

#: Look of all our pages.
STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fdfdfc; --line: #d8d8d4; --soft: #6b6b66; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --paper: #1b1c1e; --line: #3a3b3d; --soft: #a3a19b; } }
body { margin: 0 auto; max-width: 64rem; padding: 1rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.25rem; }
p.note, figcaption { color: var(--soft); font-size: 0.9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
table.text { width: 100%; } table.text td { overflow-wrap: anywhere; }
table.text td:first-child { overflow-wrap: normal; min-width: 3.5rem; }
@media (max-width: 40rem) { td:first-child { white-space: normal; min-width: 9rem; } }
table.text th, table.text td { text-align: left; white-space: normal; vertical-align: top; }
figure { margin: 1.5rem 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 1.25rem; }
.grid figure { margin: 0.75rem 0; min-width: 0; }
details { border-top: 1px solid var(--line); margin-top: 1.5rem; padding-top: 0.5rem; }
summary { cursor: pointer; font-size: 1.2rem; font-weight: bold; padding: 0.4rem 0; }
summary small { color: var(--soft); font-weight: normal; font-size: 0.9rem; }
figure svg { max-width: 100%; height: auto; background: #fff; }
.compare { position: relative; display: inline-block; max-width: 100%; --cut: 50%; }
.compare img { display: block; max-width: 100%; image-rendering: pixelated; }
.compare img.after { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--cut)); }
.compare::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--cut); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }
.compare input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; }
.compare:focus-within { outline: 3px solid #3b82f6; outline-offset: 2px; }
fieldset.choice { border: 0; padding: 0; margin: 0 1.25rem 0.5rem 0; display: inline-block; vertical-align: top; }
.choice legend { float: left; padding: 0.35rem 0.5rem 0.35rem 0; color: var(--soft); font-size: 0.9rem; }
.choice label { display: inline-block; cursor: pointer; }
.choice input { position: absolute; opacity: 0; }
.choice span { display: block; padding: 0.35rem 0.7rem; border: 1px solid var(--line); margin-left: -1px; }
.choice input:checked + span { background: var(--ink); color: var(--paper); }
.choice input:focus-visible + span { outline: 3px solid #3b82f6; outline-offset: 2px; }
"""

_SCRIPT = """
for (const slider of document.querySelectorAll('.compare input'))
  slider.addEventListener('input', () => slider.parentElement.style.setProperty('--cut', slider.value + '%'));
"""


def page(title: str, blocks: Sequence[str]) -> str:
    """A whole HTML document from its blocks."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>{html.escape(title)}</h1>\n"
        + "\n".join(blocks)
        + f"\n<script>{_SCRIPT}</script>\n</body></html>\n"
    )


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def subheading(text: str) -> str:
    return f"<h3>{html.escape(text)}</h3>"


def grid(blocks: Sequence[str]) -> str:
    """Figures in as many columns as fit."""
    return '<div class="grid">' + "\n".join(blocks) + "</div>"


def section(title: str, note: str, blocks: Sequence[str], *, opened: bool = True) -> str:
    """A part of the page that can be folded away; ``note`` follows the title in small letters."""
    return (
        f"<details{' open' if opened else ''}><summary>{html.escape(title)} <small>{html.escape(note)}</small>"
        "</summary>\n" + "\n".join(blocks) + "</details>"
    )


def paragraph(text: str, *, note: bool = False) -> str:
    return f"<p{' class=note' if note else ''}>{html.escape(text)}</p>"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, wrap: bool = False) -> str:
    """A table of ready text; the first column names the row.  ``wrap`` is for columns of sentences."""
    head = "".join(f"<th>{html.escape(h)}</th>" for h in headers)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    kind = " class=text" if wrap else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure_block(figure: Figure, caption: str) -> str:
    """A matplotlib figure as inline SVG."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    prefix = f"f{zlib.crc32(svg.encode()):08x}-"  # ids of several figures on one page must differ
    svg = re.sub(r'(id="|href="#|url\(#)', lambda m: m.group(1) + prefix, svg)
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def choice(title: str, name: str, options: Sequence[tuple[str, str]]) -> str:
    """Buttons (value, text) of which one is pressed; the first at the start."""
    buttons = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{" checked" if i == 0 else ""}>'
        f"<span>{html.escape(text)}</span></label>"
        for i, (value, text) in enumerate(options)
    )
    return f'<fieldset class="choice"><legend>{html.escape(title)}</legend>{buttons}</fieldset>'


def data_uri(image: np.ndarray, *, full_chroma: bool = False) -> str:
    """A (H, W) or (H, W, 3) uint8 picture inside an address.

    WebP, which halves the resolution of color; ``full_chroma``: JPEG without that, for pictures that are magnified.
    """
    from PIL import Image

    buffer = io.BytesIO()
    if full_chroma:
        Image.fromarray(image).save(buffer, format="JPEG", quality=92, subsampling=0)
    else:
        Image.fromarray(image).save(buffer, format="WEBP", quality=92, method=4)
    kind = "jpeg" if full_chroma else "webp"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def comparison(before: np.ndarray, after: np.ndarray, caption: str) -> str:
    """Two (H, W, 3) uint8 pictures of one size under a slider: before on the left, after on the right."""
    if before.shape != after.shape:
        raise ValueError(f"before {before.shape} and after {after.shape} must have one size.")
    height, width = before.shape[:2]
    size = f'width="{width}" height="{height}" style="height:auto"'
    return (
        f'<figure><div class="compare"><img {size} alt="before: noisy" src="{data_uri(before)}">'
        f'<img class="after" {size} alt="after: denoised" src="{data_uri(after)}">'
        '<input type="range" min="0" max="100" step="0.5" value="50" aria-label="share of the noisy picture shown">'
        "</div>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
