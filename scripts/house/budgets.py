"""The budgets inside a crate, and who is over them."""

import re
from dataclasses import dataclass

from .imports import Names, ancestors, cycles

FILE_LINES, FUNCTION_LINES, STRUCT_FIELDS = 600, 80, 15


@dataclass(frozen=True)
class Offence:
    """Something over a budget."""

    rule: str
    path: str
    name: str
    text: str

    @property
    def key(self):
        return f"{self.rule} {self.path} {self.name}".rstrip()


@dataclass(frozen=True)
class Function:
    """A function with a body."""

    path: str
    name: str
    line: int
    lines: int


def functions(crate):
    """All shipped functions."""
    for file in crate.files:
        for item, within in file.shipped():
            if item.kind == "fn" and item.body:
                owner = next((outer.name for outer in reversed(within) if outer.kind in ("impl", "trait", "mod")), "")
                yield Function(file.shown, f"{owner}::{item.name}" if owner else item.name, item.line, item.last - item.line + 1)


def structs(crate):
    """(file, name, line, number of fields) of all shipped structs, and of the variants of enums."""
    for file in crate.files:
        for item, within in file.shipped():
            if item.kind in ("struct", "variant"):
                name = f"{within[-1].name}::{item.name}" if item.kind == "variant" else item.name
                yield file, name, item.line, sum(field.kind == "field" and not field.test for field in item.children)


def homes(crate):
    """{(file, type): the files with `impl` blocks of its own} for the types of a crate."""
    found = {}
    for target in crate.targets:
        names = Names(target.root)
        for module in target.root.tree():
            for item in module.items:
                if item.kind != "impl" or item.of_trait or item.test or not item.paths[0]:
                    continue
                where = names.find(module, item.paths[0])
                if where and where[1]:
                    found.setdefault((where[0][-1].file.shown, where[1]), set()).add(module.file.shown)
    return found


def public_items(crate):
    """(file, name, line, documentation) of everything that is `pub`, of what public traits promise and of public enums' variants."""
    seen = set()
    for target in crate.targets:
        for module in target.root.tree():
            if module.parent and id(module.file) not in seen:
                declared = next(item for item in module.parent.items if item.kind == "mod" and item.name == module.name)
                if declared.public:
                    inner = [] if declared.body else module.file.reader.inner_docs()
                    yield module.parent.file, module.name, declared.line, [*declared.docs, *inner]
            if id(module.file) in seen:
                continue
            seen.add(id(module.file))
            for item, within in module.file.shipped():
                if promises(item, within):
                    name = "::".join([outer.name for outer in within if outer.name] + [item.name])
                    yield module.file, name, item.line, item.docs


def promises(item, within):
    """Whether an item is one that others are told about."""
    if item.kind in ("impl", "use", "mod", "extern", "macro") or any(outer.kind == "fn" for outer in within):
        return False
    if item.kind == "variant" or (within and within[-1].kind == "trait"):
        return within[-1].public
    if item.kind == "field" and item.name.isdigit():
        return False
    if item.kind == "field" and within[-1].kind == "variant":
        return within[-2].public
    return item.public


def words(docs):
    return re.findall(r"\w+", " ".join(docs))


def offences(crate, exceptions):
    """Everything of a crate that is over a budget. `exceptions` are the functions that may be long: "path name"."""
    for _, parent, group, uses in cycles(crate):
        text = f"{', '.join(group)} of {parent} use each other in a circle:\n" + "\n".join(f"    {line}" for line in uses)
        yield Offence("cycle", crate.shown, f"{parent}:{','.join(group)}", text)
    for file in crate.files:
        if file.lines > FILE_LINES:
            yield Offence("file", file.shown, "", f"{file.shown} has {file.lines} lines without its tests, over {FILE_LINES}")
    for function in functions(crate):
        if function.lines > FUNCTION_LINES and f"{function.path} {function.name}" not in exceptions:
            yield Offence("function", function.path, function.name,
                          f"{function.path}:{function.line}: {function.name} has {function.lines} lines, over {FUNCTION_LINES}")
    for file, name, line, count in structs(crate):
        if count > STRUCT_FIELDS:
            yield Offence("struct", file.shown, name, f"{file.shown}:{line}: {name} has {count} fields, over {STRUCT_FIELDS}")
    for (path, name), files in sorted(homes(crate).items()):
        if len(files) > 1:
            yield Offence("spread", path, name, f"{path}: the methods of {name} lie in {len(files)} files: {', '.join(sorted(files))}")
    for file, name, line, docs in public_items(crate):
        if len(words(docs)) < 2:
            told = f"says only '{' '.join(docs)}'" if docs else "has no documentation"
            yield Offence("docs", file.shown, name, f"{file.shown}:{line}: {name} {told}")
