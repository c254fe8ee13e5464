"""The items of a Rust file: modules, imports, types, functions and `impl` blocks, where they stand and what documents them.

No compiler: what it cannot read it passes over token by token. Code under `#[cfg(test)]` is marked and left out by `shipped`.
"""

from dataclasses import dataclass, field

from .tokens import COMMENT, COMMENTS, INNER, NAME, OUTER, PUNCTUATION, STRING, comment_text

OPEN, CLOSE = "([{", ")]}"
# Words that may stand before `fn`.
QUALIFIERS = ("const", "async", "unsafe", "extern", "default", "safe")


@dataclass
class Item:
    """Something that is declared."""

    kind: str
    name: str
    line: int
    last: int = 0
    # The line of its first attribute, if it has any.
    first: int = 0
    # `pub`, `pub(crate)` and so on, or nothing.
    visibility: str = ""
    docs: list = field(default_factory=list)
    test: bool = False
    attributes: list = field(default_factory=list)
    # Of a function: whether there is a body. Of an `impl`: the trait's path, or nothing.
    body: bool = False
    of_trait: bool = False
    # Of a type, trait, `impl`, module or function: what is declared inside.
    children: list = field(default_factory=list)
    # Of an import: (path, name here or "*"). Of an `impl`: the type's path.
    paths: list = field(default_factory=list)
    # Of an item with a body in braces: the range of its tokens.
    span: tuple = (0, 0)

    @property
    def public(self):
        """Whether it may be seen from outside of the crate, if what it stands in may."""
        return self.visibility == "pub"


class Reader:
    """Reads the items of one file from its tokens."""

    def __init__(self, tokens):
        self.tokens = tokens
        # Comments are no code; documentation is kept beside its place.
        self.code = [index for index, token in enumerate(tokens) if token.kind not in COMMENTS]
        self.pairs = self.match_brackets()

    def match_brackets(self):
        """Position in the code of each opening bracket: that of its closing one."""
        pairs, stack = {}, []
        for position in range(len(self.code)):
            token = self.at(position)
            if token.kind != PUNCTUATION:
                continue
            if token.text in OPEN:
                stack.append(position)
            elif token.text in CLOSE and stack:
                pairs[stack.pop()] = position
        return pairs

    def at(self, position):
        return self.tokens[self.code[position]]

    def text(self, position):
        """The code at a position; nothing beyond the end, and nothing that can be mistaken for code in a literal."""
        if not 0 <= position < len(self.code):
            return ""
        token = self.at(position)
        return token.text if token.kind in (NAME, PUNCTUATION) else f"<{token.kind}>"

    def is_name(self, position):
        return position < len(self.code) and self.at(position).kind == NAME

    def closing(self, position):
        """Of the bracket at a position."""
        return self.pairs.get(position, len(self.code) - 1)

    def docs_before(self, position):
        """Documentation between the code before a position and it."""
        first = self.code[position - 1] + 1 if position else 0
        return [comment_text(token) for token in self.tokens[first:self.code[position]] if token.kind == OUTER]

    def inner_docs(self):
        """What a file says of itself, in `//!`."""
        return [comment_text(token) for token in self.tokens if token.kind == INNER]

    def items(self, start=0, end=None, test=False):
        """The items that begin in a range."""
        end = len(self.code) if end is None else end
        found, position = [], start
        while position < end:
            item, position = self.item(position, end, test)
            if item:
                found.append(item)
        return found

    def item(self, position, end, test):
        """The item that begins here, and where the next may begin."""
        docs, attributes, first = [], [], 0
        while True:
            if position >= end:
                return None, end
            docs += self.docs_before(position)
            inner = self.text(position) == "#" and self.text(position + 1) == "!" and self.text(position + 2) == "["
            if not inner and not (self.text(position) == "#" and self.text(position + 1) == "["):
                break
            bracket = position + (2 if inner else 1)
            close = self.closing(bracket)
            attribute = [self.at(index) for index in range(bracket + 1, close)]
            if inner:
                docs, first = [], 0
            else:
                first = first or self.at(position).line
                attributes.append(attribute)
                if attribute and attribute[0].text == "doc" and attribute[-1].kind == STRING:
                    docs.append(attribute[-1].text.strip('"'))
            position = close + 1
        begin = position
        visibility, position = self.visibility(position)
        kind, name_at = self.kind(position)
        if not kind:
            return None, begin + 1
        item = Item(kind, self.text(name_at), self.at(begin).line, first=first or self.at(begin).line, visibility=visibility, docs=docs,
                    attributes=attributes, test=test or any(is_test(attribute) for attribute in attributes))
        position = getattr(self, f"read_{kind}")(item, name_at, end)
        item.last = self.at(min(position, len(self.code)) - 1).last
        return item, position

    def visibility(self, position):
        if self.text(position) != "pub":
            return "", position
        if self.text(position + 1) == "(" and self.text(position + 2) in ("crate", "super", "self", "in"):
            close = self.closing(position + 1)
            return "pub(" + "".join(self.text(index) for index in range(position + 2, close)) + ")", close + 1
        return "pub", position + 1

    def kind(self, position):
        """What the item at a position is, and where its name stands; nothing where none begins."""
        word, after = self.text(position), self.text(position + 1)
        if word in QUALIFIERS:
            ahead = position
            while self.text(ahead) in QUALIFIERS or self.text(ahead) == "<string>":
                ahead += 1
            if self.text(ahead) == "fn" and self.is_name(ahead + 1):
                return "fn", ahead + 1
            if word == "unsafe" and after in ("impl", "trait"):
                return self.kind(position + 1)
            if word == "extern" and self.text(ahead) == "{":
                return "extern", ahead
            # `*const T` is a type.
            if word == "const" and self.is_name(position + 1) and self.text(position - 1) != "*":
                return "const", position + 1
            return "", position
        if word in ("fn", "struct", "enum", "trait", "mod", "type", "static") and self.is_name(position + 1):
            skip = 2 if word == "static" and after == "mut" else 1
            return word, position + skip
        if word == "union" and self.is_name(position + 1) and self.text(position + 2) in ("{", "<"):
            return "struct", position + 1
        if word == "use" and after != "<":
            return "use", position + 1
        if word == "impl":
            return "impl", position + 1
        if word == "macro_rules" and after == "!":
            return "macro", position + 2
        return "", position

    def until(self, position, end, wanted):
        """The first of some tokens outside of round and square brackets."""
        while position < end and self.text(position) not in wanted:
            position = self.behind(position, ("(", "["))
        return position

    def behind(self, position, brackets=("(", "[", "{")):
        """Where the code goes on behind a token, or behind the whole of what it opens."""
        return self.closing(position) + 1 if self.text(position) in brackets else position + 1

    def generics(self, position):
        """Behind `<…>`, if it stands here."""
        if self.text(position) != "<":
            return position
        depth = 0
        while position < len(self.code):
            text = self.text(position)
            if text in ("(", "[", "{"):
                position = self.closing(position)
            depth += (text == "<") - (text == ">")
            position += 1
            if depth == 0:
                break
        return position

    def block(self, item, position, read=True):
        """A body in braces, with the items in it; where the code goes on."""
        close = self.closing(position)
        item.span = (position + 1, close)
        if read:
            item.children = self.items(position + 1, close, item.test)
        return close + 1

    def read_fn(self, item, position, end):
        position = self.until(position, end, ("{", ";"))
        item.body = self.text(position) == "{"
        return self.block(item, position) if item.body else position + 1

    def read_mod(self, item, position, end):
        item.body = self.text(position + 1) == "{"
        return self.block(item, position + 1) if item.body else position + 2

    def read_struct(self, item, position, end):
        position = self.until(self.generics(position + 1), end, ("{", ";", "("))
        if self.text(position) == "{":
            item.children = self.fields(position + 1, self.closing(position), item.test)
            return self.closing(position) + 1
        if self.text(position) == "(":
            item.children = self.fields(position + 1, self.closing(position), item.test, named=False)
            return self.until(self.closing(position), end, (";",)) + 1
        return position + 1

    def fields(self, position, end, test, named=True):
        """The fields of a struct or of an enum's variant."""
        found = []
        while position < end:
            docs, attributes = [], []
            while self.text(position) == "#" and position < end:
                docs += self.docs_before(position)
                close = self.closing(position + 1)
                attributes.append([self.at(index) for index in range(position + 2, close)])
                position = close + 1
            if position >= end:
                break
            docs += self.docs_before(position)
            line = self.at(position).line
            visibility, position = self.visibility(position)
            name = self.text(position) if named else str(len(found))
            found.append(Item("field", name, line, line, line, visibility, docs,
                              test or any(is_test(attribute) for attribute in attributes), attributes))
            position = self.next_comma(position, end)
        return found

    def next_comma(self, position, end):
        """Behind the comma that ends a field or a variant: one outside of all brackets, angle brackets among them."""
        depth, angles = 0, True
        while position < end:
            text = self.text(position)
            if text in ("(", "[", "{"):
                position = self.closing(position)
            # Behind `=` stands a value, in which they compare and shift.
            angles = angles and text != "="
            depth += angles * ((text == "<") - (text == ">"))
            position += 1
            if text == "," and depth <= 0:
                break
        return position

    def read_enum(self, item, position, end):
        position = self.until(self.generics(position + 1), end, ("{", ";"))
        if self.text(position) != "{":
            return position + 1
        close = self.closing(position)
        variants = self.fields(position + 1, close, item.test)
        self.variant_fields(variants, position + 1, close)
        item.children = variants
        return close + 1

    def variant_fields(self, variants, position, end):
        """Gives each variant its fields."""
        for variant in variants:
            variant.kind = "variant"
            while position < end and not (self.text(position) == variant.name and self.at(position).line == variant.line):
                position = self.behind(position)
            after = self.text(position + 1)
            if after in ("{", "("):
                variant.children = self.fields(position + 2, self.closing(position + 1), variant.test, named=after == "{")
            position = self.next_comma(position, end)

    def read_trait(self, item, position, end):
        position = self.until(self.generics(position + 1), end, ("{", ";"))
        return self.block(item, position) if self.text(position) == "{" else position + 1

    def read_impl(self, item, position, end):
        start = self.generics(position)
        brace = self.until(start, end, ("{", ";"))
        # `impl Trait for Type where …`: `for` of a higher-ranked bound is followed by `<`.
        where = next((index for index in range(start, brace) if self.text(index) == "where"), brace)
        split = [index for index in range(start, where) if self.text(index) == "for" and self.text(index + 1) != "<"]
        item.of_trait = bool(split)
        item.paths = [self.path(split[-1] + 1 if split else start)]
        item.name = item.paths[0][-1] if item.paths[0] else ""
        return self.block(item, brace) if self.text(brace) == "{" else brace + 1

    def path(self, position):
        """`a::b::C` as a tuple, without generics, references and so on in front."""
        while self.text(position) in ("&", "mut", "dyn", "(", "[", "<lifetime>", "*", "const"):
            position += 1
        segments = []
        if self.text(position) == "::":
            position += 1
        while self.is_name(position):
            segments.append(self.text(position))
            if self.text(position + 1) != "::" or not self.is_name(position + 2):
                break
            position += 2
        return tuple(segments)

    def read_use(self, item, position, end):
        stop = self.until(position, end, (";",))
        if self.text(position) == "::":
            # A path of the 2018 edition that names another crate for certain.
            return stop + 1
        self.use_tree(item.paths, (), position)
        item.name = ""
        return stop + 1

    def use_tree(self, paths, prefix, position):
        """Adds what a tree of imports brings in; where it ends."""
        segments = prefix
        while True:
            text = self.text(position)
            if text == "{":
                close, inner = self.closing(position), position + 1
                while inner < close:
                    inner = self.use_tree(paths, segments, inner)
                    inner += self.text(inner) == ","
                return close + 1
            if text == "*":
                paths.append((segments, "*"))
                return position + 1
            if not self.is_name(position):
                return position + 1
            # `a::{self}` brings in `a`.
            if not (text == "self" and segments):
                segments = (*segments, text)
            position += 1
            if self.text(position) == "as":
                paths.append((segments, self.text(position + 1)))
                return position + 2
            if self.text(position) != "::":
                paths.append((segments, segments[-1]))
                return position
            position += 1

    def read_const(self, item, position, end):
        stop = position
        while stop < end and self.text(stop) != ";":
            stop = self.behind(stop)
        return stop + 1

    read_static = read_type = read_const

    def read_macro(self, item, position, end):
        bracket = position + 1
        close = self.closing(bracket)
        return close + 1 + (self.text(close + 1) == ";")

    def read_extern(self, item, position, end):
        return self.block(item, position)


def is_test(attribute):
    """Whether an attribute says that something is compiled for tests alone."""
    words = [token.text for token in attribute if token.kind == NAME]
    if words[:1] == ["cfg"]:
        return "test" in words and "not" not in words and "any" not in words
    return words[-1:] == ["test"] and all(token.kind == NAME or token.text == "::" for token in attribute)


def plain_comments(tokens):
    """Comments that document nothing."""
    return [token for token in tokens if token.kind == COMMENT]
