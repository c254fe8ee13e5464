"""Rust source as tokens: comments and literals are told from code, so that nothing is looked for inside them."""

import re
from typing import NamedTuple

# What a token is: code (`name`, `number`, `punctuation`), what only looks like code (`string`, `char`, `lifetime`), or a comment
# (`comment`, `outer` documents what follows, `inner` what it stands in).
NAME, NUMBER, PUNCTUATION, STRING, CHAR, LIFETIME = "name", "number", "punctuation", "string", "char", "lifetime"
COMMENT, OUTER, INNER = "comment", "outer", "inner"
COMMENTS = (COMMENT, OUTER, INNER)


class Token(NamedTuple):
    """One token: its kind, its text, and the lines that it begins and ends on."""

    kind: str
    text: str
    line: int
    last: int


PATTERN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<comment>//[^\n]*)
  | (?P<block>/\*)
  | (?P<raw>(?:br|cr|r)(?P<hashes>\#*)")
  | (?P<string>[bc]?"(?:[^"\\]|\\.)*")
  | (?P<char>b?'(?:[^'\\\n]|\\(?:x[0-9a-fA-F]{2}|u\{[0-9a-fA-F_]+\}|.))')
  | (?P<lifetime>'[^\W\d]\w*)
  | (?P<name>(?:r\#)?[^\W\d]\w*)
  | (?P<number>\d\w*(?:\.\d\w*)?)
  | (?P<punctuation>::|->|=>|.)
    """,
    re.X | re.S,
)


def tokens_of(text):
    """All tokens of a source file, without white space."""
    found, position, line = [], 0, 1
    while position < len(text):
        match = PATTERN.match(text, position)
        kind, end = match.lastgroup, match.end()
        if kind == "block":
            end = end_of_block(text, position)
        elif kind in ("raw", "hashes"):
            kind = STRING
            closing = text.find('"' + match["hashes"], end)
            end = len(text) if closing < 0 else closing + 1 + len(match["hashes"])
        piece = text[position:end]
        last = line + piece.count("\n")
        if kind != "space":
            if kind in ("comment", "block"):
                kind = kind_of_comment(piece)
            found.append(Token(kind, piece.removeprefix("r#") if kind == NAME else piece, line, last))
        position, line = end, last
    return found


def end_of_block(text, position):
    """Where the block comment that begins here ends; such comments nest."""
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, position):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    return len(text)


def kind_of_comment(text):
    """`////` and `/***` are plain comments, and so is `/**/`."""
    if text.startswith(("//!", "/*!")):
        return INNER
    if re.match(r"///(?!/)|/\*\*(?![*/])", text):
        return OUTER
    return COMMENT


def comment_text(token):
    """What a comment says, without its slashes and stars."""
    if token.text.startswith("//"):
        return re.sub(r"^//[/!]?", "", token.text).strip()
    return re.sub(r"^/\*[*!]?|\*/$", "", token.text, flags=re.S).strip()
