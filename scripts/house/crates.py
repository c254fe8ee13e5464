"""The crates of the workspace, their files and their modules."""

import functools
import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from .items import Item, Reader
from .tokens import COMMENT, COMMENTS, NAME, PUNCTUATION, tokens_of


class Unreadable(Exception):
    """The tree cannot be read; the text says why, for people."""


class File:
    """One source file."""

    def __init__(self, path, shown):
        self.path, self.shown = path, shown
        self.text = path.read_text(encoding="utf-8")
        self.reader = Reader(tokens_of(self.text))
        self.items = self.reader.items()
        # Every item, also those inside of others, with those that it stands in.
        self.all = list(walk(self.items))
        self.test_lines = set()
        for item, within in self.all:
            if item.test and not any(outer.test for outer in within):
                self.test_lines.update(range(item.first, item.last + 1))

    @functools.cached_property
    def lines(self):
        """How many lines are shipped: those outside of `#[cfg(test)]`."""
        return len(self.text.splitlines()) - len(self.test_lines)

    def shipped(self):
        """The items that are not tests, each with those that it stands in."""
        return [(item, within) for item, within in self.all if not item.test]

    def code(self, tests=False):
        """(line, code) of each line; comments are left out and literals are emptied."""
        lines = {}
        for token in self.reader.tokens:
            if token.kind in COMMENTS or (not tests and token.line in self.test_lines):
                continue
            text = token.text if token.kind not in ("string", "char") else '""'
            lines.setdefault(token.line, []).append(text)
        return [(line, join(words)) for line, words in sorted(lines.items())]

    def comments(self):
        """The shipped lines that are comments, and how many of those document nothing."""
        lines, plain = set(), set()
        for token in self.reader.tokens:
            if token.kind in COMMENTS and token.line not in self.test_lines:
                lines.update(range(token.line, token.last + 1))
                if token.kind == COMMENT:
                    plain.update(range(token.line, token.last + 1))
        code = {token.line for token in self.reader.tokens if token.kind not in COMMENTS}
        return len(lines - code), len(plain - code)


def join(words):
    """Tokens of one line as one would write them, near enough to search in."""
    text = " ".join(words)
    text = re.sub(r" ?(::|\.|!) ?", r"\1", text)
    return re.sub(r" ?([(\[]) ?| ([)\],;])", lambda match: match[1] or match[2], text)


def walk(items, within=()):
    for item in items:
        yield item, within
        yield from walk(item.children, (*within, item))


@dataclass
class Module:
    """A module of a crate: its file, what it declares, what it imports, and the modules in it."""

    name: str
    file: File
    parent: "Module" = None
    children: dict = field(default_factory=dict)
    items: list = field(default_factory=list)
    # The range of the file's code that it takes, without the modules in it that stand in the same file.
    span: tuple = (0, 0)
    docs: bool = False

    @property
    def path(self):
        return f"{self.parent.path}::{self.name}" if self.parent else self.name

    def tree(self):
        yield self
        for child in self.children.values():
            yield from child.tree()


@dataclass
class Target:
    """A library or a program: what the compiler is given."""

    name: str
    root: Module
    is_library: bool


@dataclass
class Crate:
    """A package of the workspace."""

    name: str
    folder: Path
    shown: str
    dependencies: list
    targets: list = field(default_factory=list)
    files: list = field(default_factory=list)

    @property
    def pure(self):
        """Whether clippy refuses the clock in it."""
        file = self.folder / "clippy.toml"
        return file.is_file() and "std::time::Instant::now" in file.read_text(encoding="utf-8")

    def read(self, roots):
        """Reads the modules behind the given (name, root file, whether it is a library)."""
        known = {}

        def load(path):
            if path not in known:
                known[path] = File(path, f"{self.shown}/{path.relative_to(self.folder)}".removeprefix("./"))
            return known[path]

        for name, root, is_library in roots:
            file = load(root)
            module = Module("crate", file, items=file.items, span=(0, len(file.reader.code)), docs=bool(file.reader.inner_docs()))
            self.targets.append(Target(name, module, is_library))
            self.descend(module, root.parent, load)
        self.files = list(known.values())
        return self

    def descend(self, module, folder, load):
        """Adds the modules in a module, and those in them. `folder` is where its files lie."""
        for item in module.items:
            if item.kind != "mod" or item.test:
                continue
            if item.body:
                child = Module(item.name, module.file, module, items=item.children, span=item.span, docs=bool(item.docs))
            else:
                path = self.file_of(item, module, folder)
                file = load(path)
                child = Module(item.name, file, module, items=file.items, span=(0, len(file.reader.code)),
                               docs=bool(item.docs or file.reader.inner_docs()))
            module.children[item.name] = child
            self.descend(child, folder / item.name, load)

    @staticmethod
    def file_of(item, module, folder):
        given = [attribute[-1].text.strip('"') for attribute in item.attributes if attribute[:1] and attribute[0].text == "path"]
        places = [module.file.path.parent / name for name in given] or [folder / f"{item.name}.rs", folder / item.name / "mod.rs"]
        for place in places:
            if place.is_file():
                return place.resolve()
        raise Unreadable(f"{module.file.shown}:{item.line}: there is no file for `mod {item.name}`")


def metadata(folder):
    """What cargo says of the workspace."""
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"]
    try:
        done = subprocess.run([*command, "--offline"], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unreadable("there is no cargo on PATH") from None
    if done.returncode:
        raise Unreadable(f"cargo metadata: {done.stderr.strip()}")
    return json.loads(done.stdout)


def workspace(folder):
    """All crates of the workspace, read."""
    folder = folder.resolve()
    crates = []
    for package in metadata(folder)["packages"]:
        home = Path(package["manifest_path"]).parent
        roots = [(target["name"], Path(target["src_path"]), "bin" not in target["kind"]) for target in package["targets"]
                 if {"lib", "bin", "proc-macro"} & set(target["kind"])]
        dependencies = [entry["name"] for entry in package["dependencies"] if entry["kind"] is None]
        crates.append(Crate(package["name"], home, str(home.relative_to(folder)), dependencies).read(roots))
    return sorted(crates, key=lambda crate: crate.shown)


def test_files(folder, found):
    """(path, path as shown) of the crates' Rust files that no library and no program is made of: tests, benchmarks, examples."""
    shipped = {file.path for crate in found for file in crate.files}
    homes = {crate.folder for crate in found}
    paths = {path for home in homes for path in home.rglob("*.rs")} - shipped
    return [(path, str(path.relative_to(folder))) for path in sorted(paths) if folder / "target" not in path.parents]
