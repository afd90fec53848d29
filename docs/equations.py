"""Equations of the pages, as MathML, which browsers draw without a script."""

import re

from latex2mathml.converter import convert

_DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE = re.compile(r"(?<![\\$\w])\$(?=[^\s$])((?:[^$\n]|\n(?!\n))+?)(?<=\S)\$(?![\w$])")

_WORD = re.compile(r"\\mathrm\{(\w+)\}|\\(arg)\b")
"""What the converter would space letter by letter, or does not know."""


def render(markdown: str) -> str:
    r"""Markdown, without code, with `$…$` and `$$…$$` made MathML.

    Raises:
        ValueError: TeX that is not known, or not whole; it is named.
    """

    def display(match: re.Match[str]) -> str:
        return f'\n<div class="equation">{mathml(match[1], display="block")}</div>\n'

    def inline(match: re.Match[str]) -> str:
        return f'<span class="equation">{mathml(match[1])}</span>'

    return _INLINE.sub(inline, _DISPLAY.sub(display, markdown))


def mathml(tex: str, *, display: str = "inline") -> str:
    """An element `math`, in one line."""
    words = _WORD.sub(r"\\text{\1\2}", " ".join(tex.split()))
    try:
        written: str = convert(words, display=display)
    except Exception as error:  # the converter's errors have no class in common
        raise ValueError(f"an equation that is not whole: {tex}") from error
    if tex.count("{") != tex.count("}") or "\\" in written:
        raise ValueError(f"an equation that is not whole, or has an unknown command: {tex}")
    return written
