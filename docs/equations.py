"""Typeset equations of docstrings: from their plain notation to MathML, which browsers draw without a script.

    L = |y - H(x)|^2 / (2 dim y) + lambda sum_{i < n} <p_i, x^>,    x <- x - eta grad L

A block is typeset only if each of its lines is clearly an equation; otherwise, it remains a code block. Subscripts and
superscripts are `x_t`, `x_{t+1}` and `x^2`; accents are `x^`, `x~` and `abar`; two spaces separate the parts of a line.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from html.entities import html5

SYMBOLS = {name[:-1]: sign for name, sign in html5.items() if "Α" <= sign <= "ω"}  # noqa: RUF001
SYMBOLS |= {"lam": "λ", "eps": "ε", "inf": "∞", "grad": "∇"}
"""Names of the Greek letters, and of three more symbols."""
SIGNS = {"<-": "←", "->": "→", "<=": "≤", ">=": "≥", "!=": "≠", "*": "·", "...": "…", "..": "…", "||": "‖"}
SIGNS |= {"~": "\N{TILDE OPERATOR}", "-": "\N{MINUS SIGN}"}
LIMITS = {"sum": "∑", "prod": "∏", "int": "∫", "min": "min", "max": "max", "argmin": "argmin", "argmax": "argmax"}
FUNCTIONS = ("log", "exp", "mean", "div", "dim", "sg", "stopgrad", "det", "diag", "softmax", "logsumexp", "std")
RELATIONS = ("=", "<-", "->", "<=", ">=", "!=", "~", "<", ">")
FACTORS = ("atom", "bracket", "function")
PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}
BRACKETS = {"<": "⟨", ">": "⟩", "||": "‖"}
SPACE = '<mspace width="0.17em"/>'
TOKEN = re.compile(
    r"( *)(\d*\.?\d+|[A-Za-z]{2,}(?:-[A-Za-z]{2,})+|[A-Za-z]+|"
    r"\.\.+|<-|->|<=|>=|!=|\|\||[-+*/=<>~^_|()\[\]{},;:.'])( |$)?"
)
CODE = re.compile(r"[^_{]*\w=\w|.*[a-z]{2}\.[a-z]{2}")
"""Keyword arguments and attributes of Python."""
MOST_WORDS = 14
"""Number of words in a line above which the line is prose."""


class Doubt(ValueError):
    """The text is not clearly an equation."""


@dataclass
class Node:
    """A part of an equation, and whether a space (or the end) is before and after it in the text.

    `kind` is atom, word, function, limits, bracket, operator or relation. `inner` holds what is within brackets.
    """

    kind: str
    text: str
    before: bool
    after: bool
    xml: str = ""
    inner: "list[Node]" = field(default_factory=list)
    below: str = ""
    above: str = ""


def typeset(block: str) -> str | None:
    """Convert a block of plain notation to MathML, a row per line. Return None if a line is not clearly an equation."""
    lines: list[str] = []
    for line in block.splitlines():
        if lines and (line.lstrip().startswith(("+ ", "- ")) or _is_open(lines[-1])):
            lines[-1] += " " + line.strip()
        elif line.strip():
            lines.append(line.strip())
    try:
        rows = [f"<mtr><mtd>{_row(line)}</mtd></mtr>" for line in lines]
    except Doubt:
        return None
    return f'<math display="block"><mtable displaystyle="true">{"".join(rows)}</mtable></math>'


def _is_open(line: str) -> bool:
    return any(line.count(one) > line.count(PAIRS[one]) for one in "([{")


def _row(line: str) -> str:
    """Convert a line. Some of its parts may be text, but not all."""
    parts = [_parse(list(_tokens(part))) for part in re.split(r" {2,}", line)]
    shown = '<mspace width="2em"/>'.join(_render(part) for part in parts)
    words = " ".join(re.findall("<mtext>(.*?)</mtext>", shown)).count(" ") + 1 if "<mtext>" in shown else 0
    related = any(node.kind in ("relation", "limits") for part in parts for node in part)
    if CODE.match(line) or words > MOST_WORDS or not (related or (words == 0 and "<msu" in shown)):
        raise Doubt(line)
    return shown


def _tokens(text: str) -> Iterator[Node]:
    """Yield the tokens of a text as nodes."""
    end, before = 0, True
    while end < len(text):
        if not (match := TOKEN.match(text, end)):
            raise Doubt(text)
        end, after = match.end(), match[3] is not None
        yield _leaf(match[2], before or match[1] != "", after)
        before = after


def _leaf(text: str, before: bool, after: bool) -> Node:
    kind, xml = "operator", f"<mo>{escape(SIGNS.get(text, text))}</mo>"
    if text[-1].isdigit():
        kind, xml = "atom", f"<mn>{text}</mn>"
    elif text in LIMITS:
        kind, xml = "limits", f"<mo>{LIMITS[text]}</mo>"
    elif text in SYMBOLS or (len(text) == 1 and text.isalpha()):
        kind, xml = "atom", f"<mi>{SYMBOLS.get(text, text)}</mi>"
    elif barred := re.fullmatch("([a-z])bar", text):
        kind, xml = "atom", _accented(f"<mi>{barred[1]}</mi>", "¯")
    elif differential := re.fullmatch("d([A-Zs-z])", text):
        kind, xml = "atom", f"<mi>d</mi><mi>{differential[1]}</mi>"
    elif text.replace("-", "").isalpha():
        kind, xml = "function" if text in FUNCTIONS else "word", f'<mi mathvariant="normal">{text}</mi>'
    elif text in RELATIONS:
        kind = "relation"
    elif text == "." and not (before or after):
        xml = "<mo>·</mo>"
    return Node(kind, text, before, after, xml)


def _accented(xml: str, accent: str) -> str:
    return f'<mover accent="true"><mrow>{xml}</mrow><mo stretchy="false">{accent}</mo></mover>'


def _parse(tokens: list[Node], closing: str = "") -> list[Node]:
    """Read tokens up to a closing bracket, and remove them from the list."""
    found: list[Node] = []
    while tokens:
        token = tokens.pop(0)
        if token.text == closing and not (closing == ">" and token.before and token.after):
            if closing and found:
                found[-1].after = found[-1].after or token.before
            return _in_bars(found)
        if found and not token.before and token.text in ("_", "^", "'", "~"):
            _attach(found[-1], token, tokens)
        elif token.text == "*" and found and not token.before and token.after:
            found[-1].above, found[-1].after = "<mo>*</mo>", True
        elif token.text in PAIRS and not (token.text == "<" and _is_relation(token, found)):
            inner = _parse(tokens, PAIRS[token.text])
            found.append(Node("bracket", token.text, token.before, False, inner=inner))
        elif token.text in (")", "]", "}", "_", "^", "'"):
            raise Doubt(token.text)
        else:
            found.append(token)
    if closing:
        raise Doubt(closing)
    return _in_bars(found)


def _is_relation(token: Node, found: Sequence[Node]) -> bool:
    """Return whether `<` compares, and does not begin an inner product."""
    return token.after or (not token.before and bool(found) and found[-1].kind not in ("operator", "relation"))


def _attach(base: Node, token: Node, tokens: list[Node]) -> None:
    """Add a script, an accent or a prime to a node."""
    if base.kind in ("operator", "relation") and base.text not in ("|", "||"):
        raise Doubt(token.text)
    base.kind = "function" if base.kind == "word" else base.kind
    following = tokens[0].text if tokens and not token.after else ""
    if token.text == "~" or (token.text == "^" and not re.match(r"[^\W_]|[{(*+-]", following)):
        base.xml = _accented(base.xml, token.text)
    elif token.text == "'":
        base.xml += '<mo lspace="0" rspace="0">′</mo>'  # noqa: RUF001
    elif token.text == "_":
        base.below += _script(base, tokens)
    else:
        base.above += _script(base, tokens)


def _script(base: Node, tokens: list[Node]) -> str:
    """Read a script: a group, a sign with a number, or letters and digits without a space."""
    first = tokens.pop(0)
    if first.text in ("{", "("):
        return _render(_parse(tokens, PAIRS[first.text]), fractions=False)
    parts = [first]
    while not parts[-1].after and tokens and (tokens[0].text.isalnum() or tokens[0].text == "*"):
        parts.append(tokens.pop(0))
    if base.kind == "function" and first.kind == "word" and len(first.text) > 2:
        raise Doubt("the name of a variable of a program")
    if first.kind == "limits":
        first.xml = f'<mi mathvariant="normal">{first.text}</mi>'
    if first.kind == "word" and len(first.text) == 2 and first.text.islower():
        first.xml = "".join(f"<mi>{letter}</mi>" for letter in first.text)
    return "".join(part.xml for part in parts)


def _in_bars(nodes: list[Node]) -> list[Node]:
    """Turn pairs of bars into brackets; a single bar stays an operator, as in p(x | y)."""
    for bar in ("|", "||"):
        places = [i for i, node in enumerate(nodes) if node.text == bar and node.kind == "operator"]
        if len(places) > 1 and len(places) % 2:
            raise Doubt(bar)
        for first, last in reversed([*zip(places[::2], places[1::2], strict=False)]):
            end = nodes[last]
            inner = Node("bracket", bar, nodes[first].before, end.after, inner=nodes[first + 1 : last])
            inner.below, inner.above = end.below, end.above
            nodes[first : last + 1] = [inner]
    return nodes


def _render(nodes: Sequence[Node], fractions: bool = True) -> str:
    """Return the MathML of a sequence of nodes."""
    for decide in (_as_function, _as_word):
        nodes = [decide(*each) for each in zip(nodes, [None, *nodes[:-1]], [*nodes[1:], None], strict=True)]
    shown, i = "", 0
    while i < len(nodes):
        node, before = nodes[i], nodes[i - 1] if i else None
        if node.kind == "word":
            end = next((j for j in range(i, len(nodes)) if nodes[j].kind != "word"), len(nodes))
            words = " ".join(each.text for each in nodes[i:end])
            first, last = (each and each.kind in FACTORS for each in (before, nodes[end] if end < len(nodes) else None))
            shown += f"<mtext>{'&nbsp;' * bool(first)}{words}{'&nbsp;' * bool(last)}</mtext>"
            i = end
        elif fractions and (cut := _fraction(nodes, i)):
            above, below = (_render(_bare(nodes[slice(*each)])) for each in (cut[:2], cut[2:]))
            shown += f"<mfrac><mrow>{above}</mrow><mrow>{below}</mrow></mfrac>"
            i = cut[3]
        elif node.text == "sqrt" and i + 1 < len(nodes) and nodes[i + 1].text == "(":
            root = f"<msqrt>{_render(nodes[i + 1].inner, fractions)}</msqrt>"
            shown += _scripted(nodes[i + 1], root)
            i += 2
        else:
            if before and before.kind in FACTORS and (node.before or node.kind == "function"):
                shown += SPACE * ("function" in (before.kind, node.kind))
            shown += _scripted(node, _bracketed(node, before, fractions) if node.kind == "bracket" else node.xml)
            i += 1
    return shown


def _as_function(node: Node, before: Node | None, after: Node | None) -> Node:
    """Turn a word before a bracket into a function."""
    applied = node.kind == "word" and after and after.kind == "bracket" and not after.before
    return replace(node, kind="function") if applied else node


def _as_word(node: Node, before: Node | None, after: Node | None) -> Node:
    """Decide by its neighbours whether `in` is a relation, and whether `a` or `sum` is a word."""
    if node.text == "in" and before and after and before.kind in FACTORS and after.kind != "word":
        return replace(node, kind="relation", xml="<mo>∈</mo>")
    if node.text in ("a", *LIMITS) and not (node.below or node.above) and after and after.kind == "word":
        return replace(node, kind="word")
    return node


def _scripted(node: Node, xml: str) -> str:
    """Add the scripts of a node."""
    under = node.kind == "limits" and node.text != "int"
    scripts = [f"<mrow>{each}</mrow>" for each in (node.below, node.above) if each]
    if not scripts:
        return xml
    tags = ("munder", "mover", "munderover") if under else ("msub", "msup", "msubsup")
    tag = tags[2] if len(scripts) == 2 else tags[0] if node.below else tags[1]
    return f"<{tag}><mrow>{xml}</mrow>{''.join(scripts)}</{tag}>"


def _bracketed(node: Node, before: Node | None, fractions: bool) -> str:
    """Render what is within brackets, which grow with fractions. A fraction that is a factor needs no brackets."""
    inner, closing = _render(node.inner, fractions), PAIRS.get(node.text, node.text)
    factor = node.before or before is None or before.kind in ("operator", "relation")
    if factor and node.text == "(" and re.fullmatch(r"<mfrac>(?:(?!<mfrac>).)*</mfrac>", inner) and not node.above:
        return inner
    tall = "true" if "<mfrac>" in inner or "<munder" in inner else "false"
    one, other = (
        f'<mo stretchy="{tall}" form="{form}">{BRACKETS.get(sign, sign)}</mo>'
        for form, sign in (("prefix", node.text), ("postfix", closing))
    )
    return f"<mrow>{one}<mrow>{inner}</mrow>{other}</mrow>"


def _bare(nodes: Sequence[Node]) -> Sequence[Node]:
    """Leave out round brackets around a numerator or denominator."""
    alone = len(nodes) == 1 and nodes[0].text == "(" and not (nodes[0].above or nodes[0].below)
    return nodes[0].inner if alone else nodes


def _fraction(nodes: Sequence[Node], start: int) -> tuple[int, int, int, int] | None:
    """Find a fraction that begins at a node: return where its numerator and denominator begin and end.

    `a b / c` is a fraction if only factors are before the slash, and an operator or nothing is behind the denominator.
    In `a/b c` without spaces, only the neighbours of the slash belong to the fraction.
    """
    slash = next((i for i in range(start, len(nodes)) if nodes[i].text == "/"), 0)
    if not start < slash < len(nodes) - 1:
        return None
    spaced = nodes[slash].before
    factors = range(start, slash)
    first = start == 0 or nodes[start - 1].kind in ("operator", "relation")
    if any(not _is_factor(nodes, i) for i in factors) or (spaced and not first):
        return None
    if not spaced and any(nodes[i].before or nodes[i].kind != "bracket" for i in range(start + 1, slash)):
        return None
    end = slash + 2
    while end < len(nodes) and nodes[end].kind == "bracket" and not nodes[end].before:
        end += 1
    if not all(_is_factor(nodes, i) for i in range(slash + 1, end)):
        return None
    if spaced and end < len(nodes) and nodes[end].kind not in ("operator", "relation", "word"):
        return None
    return start, slash, slash + 1, end


def _is_factor(nodes: Sequence[Node], i: int) -> bool:
    """Return whether a node is a factor of a product: a letter, a bracket, or a function with brackets behind it."""
    applied = i + 1 < len(nodes) and nodes[i + 1].kind == "bracket" and not nodes[i + 1].before
    return nodes[i].kind in ("atom", "bracket") or (nodes[i].kind == "function" and applied)
