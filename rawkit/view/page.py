"""The page: one document with everything in it (``page.html``), and the policy that lets it load nothing else."""

from __future__ import annotations

from pathlib import Path

from rawkit.report.html import STYLE, choice

_PAGE = Path(__file__).with_name("page.html")
_VIEWS = (("before", "Before"), ("after", "After"), ("residual", "Residual"))


def page(nonce: str) -> str:
    """HTML document.

    Parameters
    ----------
    nonce : str
        Number that its style and script carry, another one for every answer.
    """
    parts = {"{{nonce}}": nonce, "{{style}}": STYLE, "{{views}}": choice("View", "view", _VIEWS)}
    text = _PAGE.read_text(encoding="utf-8")
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text


def policy(nonce: str) -> str:
    """Content Security Policy of the page: its own style and script, pictures inside answers, this server."""
    return (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
