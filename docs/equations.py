"""Equations of the pages: the part of TeX that they use, as MathML, which browsers draw."""

import html
import re
from collections.abc import Iterator

_GREEK = {
    **{"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "varepsilon": "ε", "kappa": "κ"},
    **{"lambda": "λ", "pi": "π", "sigma": "σ", "tau": "τ", "ell": "ℓ", "partial": "∂"},
}
_OPERATORS = {
    **{"cdot": "·", "odot": "⊙", "times": "×", "to": "→", "le": "≤", "ge": "≥", "in": "∈"},
    **{"sim": "∼", "approx": "≈", "ne": "≠", "dots": "…", "leftarrow": "←"},
}
_SPACES = {",": "0.17em", ";": "0.28em", " ": "0.25em", "quad": "1em", "qquad": "2em"}
_WORDS = ("arg", "max", "min", "log", "exp")
_LIMITS = ("sum", "max", "min")
"""What has its index below it, where there is room."""
_ACCENTS = {"bar": "¯", "hat": "^", "tilde": "~"}
_SIZES = {"big": "1.2em", "Big": "1.8em", "bigg": "2.4em"}
_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|\d+(?:\.\d+)?|\S")
_DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE = re.compile(r"(?<![\\$\w])\$(?=[^\s$])((?:[^$\n]|\n(?!\n))+?)(?<=\S)\$(?![\w$])")


def render(markdown: str) -> str:
    r"""Markdown, without code, with `$…$` and `$$…$$` made MathML.

    Raises:
        ValueError: TeX that this module does not know; it is named.
    """

    def display(match: re.Match[str]) -> str:
        return f'\n<div class="equation">{mathml(match[1], display=True)}</div>\n'

    def inline(match: re.Match[str]) -> str:
        return f'<span class="equation">{mathml(match[1])}</span>'

    return _INLINE.sub(inline, _DISPLAY.sub(display, markdown))


def mathml(tex: str, *, display: bool = False) -> str:
    """An element `math`, in one line."""
    tokens = _Tokens(tex)
    body = _row(_nodes(tokens, end=None))
    return f'<math display="{"block" if display else "inline"}">{body}</math>'


class _Tokens:
    def __init__(self, tex: str) -> None:
        self.tex = tex
        # A text keeps its spaces: it is one token.
        texts = re.split(r"\\text\{([^}]*)\}", tex)
        self.left: list[str] = []
        for place, part in enumerate(texts):
            self.left += [f"\\text {part}"] if place % 2 else _TOKEN.findall(part)

    def next(self) -> str:
        if not self.left:
            raise ValueError(f"an equation ends too early: {self.tex}")
        return self.left.pop(0)

    def peek(self) -> str:
        return self.left[0] if self.left else ""


def _nodes(tokens: _Tokens, end: str | None) -> Iterator[str]:
    """Nodes with their indices up to `end`, which is taken."""
    while tokens.left:
        if tokens.peek() == end:
            tokens.next()
            return
        limits = tokens.peek().removeprefix("\\") in _LIMITS
        base, scripts = _node(tokens), {}
        while tokens.peek() in ("_", "^"):
            kind = tokens.next()
            scripts[kind] = _argument(tokens)
        yield _scripted(base, scripts, limits)
    if end is not None:
        raise ValueError(f"an equation has no {end}: {tokens.tex}")


def _scripted(base: str, scripts: dict[str, str], limits: bool) -> str:
    if not scripts:
        return base
    kinds = {"_": "munder", "^": "mover", "_^": "munderover"} if limits else {}
    kinds = kinds or {"_": "msub", "^": "msup", "_^": "msubsup"}
    kind = kinds["".join(sorted(scripts, reverse=True))]
    return f"<{kind}>{base}{scripts.get('_', '')}{scripts.get('^', '')}</{kind}>"


def _row(nodes: Iterator[str]) -> str:
    found = list(nodes)
    return found[0] if len(found) == 1 else f"<mrow>{''.join(found)}</mrow>"


def _argument(tokens: _Tokens) -> str:
    """Of a number without braces its first digit, as in TeX."""
    if len(tokens.peek()) > 1 and tokens.peek()[0].isdigit():
        number = tokens.next()
        tokens.left[:0] = [number[0], number[1:]]
    return _node(tokens)


def _node(tokens: _Tokens) -> str:
    token = tokens.next()
    if token == "{":
        return _row(_nodes(tokens, "}"))
    if not token.startswith("\\"):
        return _character(token)
    name = token[1:]
    if name.startswith("text "):
        return f"<mtext>{_escaped(name.removeprefix('text '))}</mtext>"
    if name in _GREEK:
        return f"<mi>{_GREEK[name]}</mi>"
    if name in _OPERATORS:
        return f"<mo>{_OPERATORS[name]}</mo>"
    if name == "sum":
        return "<mo>∑</mo>"
    if name in _SPACES:
        return f'<mspace width="{_SPACES[name]}"></mspace>'
    if name in _WORDS:
        return f'<mo lspace="0.17em" rspace="0.1em">{name}</mo>'
    if name in _SIZES:
        return f'<mo minsize="{_SIZES[name]}">{_escaped(tokens.next())}</mo>'
    if name in ("mathrm", "mathbb"):
        return _named(tokens, name)
    if name in _ACCENTS:
        return f'<mover accent="true">{_argument(tokens)}<mo>{_ACCENTS[name]}</mo></mover>'
    if name == "frac":
        return f"<mfrac>{_argument(tokens)}{_argument(tokens)}</mfrac>"
    raise ValueError(
        f"an equation has {token}, which docs/equations.py does not know: {tokens.tex}"
    )


def _named(tokens: _Tokens, kind: str) -> str:
    if tokens.next() != "{":
        raise ValueError(f"an equation has no {{ after \\{kind}: {tokens.tex}")
    name = ""
    while tokens.peek() != "}":
        name += tokens.next()
    tokens.next()
    if kind == "mathbb":
        name = {"E": "𝔼", "R": "ℝ"}[name]
    return f'<mi mathvariant="normal">{_escaped(name)}</mi>'


def _character(token: str) -> str:
    if token[0].isdigit():
        return f"<mn>{token}</mn>"
    if token.isalpha():
        return f"<mi>{token}</mi>"
    if token == "'":
        return '<mo lspace="0" rspace="0">′</mo>'
    fence = ' stretchy="false"' if token in "()[]|" else ""
    return f"<mo{fence}>{_escaped({'-': '−'}.get(token, token))}</mo>"


def _escaped(text: str) -> str:
    """As HTML, and with nothing in it that Markdown reads."""
    return re.sub(r"[*_|`\\]", lambda found: f"&#{ord(found[0])};", html.escape(text))
