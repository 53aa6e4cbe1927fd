"""The report as one HTML file: template, style, script and data in one, no network."""

import html
import json
from importlib.resources import files
from typing import Any

# Characters that end a script element, or a line of it, are written as JSON escapes.
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def render(data: dict[str, Any]) -> str:
    """Fill the template.

    Parameters
    ----------
    data : dict
        From `collect`. Text from files is escaped here, and only set as text by the script.

    Returns
    -------
    str
        A complete HTML document that loads nothing.
    """
    parts = {
        "title": html.escape(data["title"]),
        "version": html.escape(data["version"]),
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "notes": "".join(f"<p class='note'>{html.escape(note)}</p>" for note in data["notes"]),
        "summary": _summary(data["summary"]),
        "verdicts": "".join(map(_verdict, data["verdicts"])),
        "data": _json(data),
    }
    page = _asset("template.html")
    # One pass over the template's own marks: what is filled in is never looked at again.
    pieces = page.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        filled += [parts[name], rest]
    return "".join(filled)


def _summary(rows: list[tuple[str, str]]) -> str:
    return "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
        for name, text in rows
    )


def _verdict(verdict: dict[str, str]) -> str:
    name, status, finding, rule = (
        html.escape(verdict[key]).replace(" %", "\u00a0%")
        for key in ("name", "status", "finding", "rule")
    )
    return (
        f"<li class='verdict {status}'><span class='badge'>{status}</span>"
        f"<div><strong>{name}</strong><p>{finding}</p><p class='rule'>{rule}</p></div></li>"
    )


def _json(data: dict[str, Any]) -> str:
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _asset(name: str) -> str:
    return files("sparsecode.report").joinpath(name).read_text(encoding="utf-8")
