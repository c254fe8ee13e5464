"""Which module uses what of which other module of its crate, and the circles that this makes.

Edges go between modules with the same parent: `a` uses `b` when something in `a`, or in a module inside of it, names something that
is declared in `b`, or inside of it. Who names a re-export, in lib.rs or elsewhere, uses the module that declares the thing. That a
module and the modules inside of it use each other is no circle.
"""

from .tokens import NAME

# Where it ends to follow re-exports of re-exports.
DEPTH = 12


class Scope:
    """The names in one module."""

    def __init__(self, module):
        self.module = module
        self.declared, self.imported, self.globs = {}, {}, []
        for item in module.items:
            if item.test:
                continue
            if item.kind == "use":
                for path, name in item.paths:
                    if name == "*":
                        self.globs.append(path)
                    else:
                        self.imported[name] = path
            elif item.kind not in ("impl", "mod", "extern"):
                self.declared[item.name] = item


class Names:
    """Finds what a path means."""

    def __init__(self, root):
        self.root = root
        self.scopes = {id(module): Scope(module) for module in root.tree()}

    def scope(self, module):
        return self.scopes[id(module)]

    def find(self, module, path, depth=0):
        """The modules that a path leads through, in order, and the name of what it ends in, if that is not a module.

        The last module is the one that declares the thing. Nothing where the path leads out of the crate.
        """
        if not path or depth > DEPTH:
            return None
        head, rest = path[0], path[1:]
        if head == "crate":
            return self.follow(self.root, rest, [], depth)
        if head == "self":
            return self.follow(module, rest, [], depth)
        if head == "super":
            return self.follow(module.parent, rest, [], depth, up=True) if module.parent else None
        return self.follow(module, path, [], depth, first=True)

    def follow(self, module, path, passed, depth, up=False, first=False):
        if not path:
            return [*passed, module], None
        head, rest = path[0], path[1:]
        if up and head == "super":
            return self.follow(module.parent, rest, passed, depth, up=True) if module.parent else None
        if head in module.children:
            child = module.children[head]
            return self.follow(child, rest, [*passed, child] if rest else passed, depth)
        scope = self.scope(module)
        if head in scope.declared:
            return [*passed, module], head
        if head in scope.imported:
            target = scope.imported[head]
            # `use serde;` in which the name means itself: another crate.
            found = None if first and target[0] == head else self.find(module, target, depth + 1)
            return self.onwards(found, rest, passed, depth)
        for glob in scope.globs:
            found = self.find(module, glob, depth + 1)
            if found and found[1] is None and found[0][-1] is not module:
                inner = self.follow(found[0][-1], path, [*passed, *found[0]], depth + 1)
                if inner and (inner[1] is not None or len(inner[0]) > len(passed) + len(found[0])):
                    return inner
        return None

    def onwards(self, found, rest, passed, depth):
        """From what an import means to what is named inside of it."""
        if found is None:
            return None
        modules, name = found
        if name is None and rest:
            return self.follow(modules[-1], rest, [*passed, *modules], depth + 1)
        return [*passed, *modules], name


def uses(names, module):
    """(line, modules, name) for everything of its crate that a module names in imports and in code."""
    scope = names.scope(module)
    for item, within in own_items(module):
        if item.kind == "use":
            for path, name in item.paths:
                found = names.find(module, path)
                if found:
                    yield item.line, *found
    for line, path in paths_in(module):
        # What an import has brought in was counted there; a name behind it may lead further.
        if len(path) == 1 and (path[0] in scope.declared or path[0] in scope.imported or not scope.globs):
            continue
        found = names.find(module, path)
        if found:
            yield line, *found


def own_items(module):
    """The items of a module, those inside of functions too, without those of the modules in it."""
    def inside(items, within):
        for item in items:
            if item.test:
                continue
            yield item, within
            if item.kind != "mod":
                yield from inside(item.children, (*within, item))
    return inside(module.items, ())


def paths_in(module):
    """(line, path) of all names in the code of a module."""
    reader = module.file.reader
    left_out = [item.span for item in module.items if item.kind == "mod" and item.body]
    tests = module.file.test_lines
    position, end = module.span
    while position < end:
        skip = next((last for first, last in left_out if first <= position < last), None)
        if skip is not None:
            position = skip
            continue
        token = reader.at(position)
        if token.kind != NAME or token.line in tests or reader.text(position - 1) in (".", "::"):
            position += 1
            continue
        path = [token.text]
        while reader.text(position + 1) == "::" and reader.is_name(position + 2):
            position += 2
            path.append(reader.text(position))
        yield token.line, tuple(path)
        position += 1


def ancestors(module):
    """A module and those that it stands in, from the innermost."""
    while module:
        yield module
        module = module.parent


def edges(root):
    """{parent: {(user, used): "where and what"}} for the modules of one target."""
    names, found = Names(root), {}
    for module in root.tree():
        above = list(ancestors(module))
        for line, modules, name in uses(names, module):
            for target in modules:
                for outer in ancestors(target):
                    user = next((own for own in above if own.parent is outer.parent), None)
                    if user is not None and user is not outer and outer.parent is not None:
                        what = f"{target.path}::{name}" if name and target is modules[-1] else target.path
                        where = f"{module.file.shown}:{line}: {user.name} uses {what}"
                        found.setdefault(outer.parent.path, {}).setdefault((user.name, outer.name), where)
    return found


def circles(pairs):
    """The groups of nodes that reach each other, from (from, to) pairs."""
    nodes = sorted({node for pair in pairs for node in pair})
    reach = {node: {to for start, to in pairs if start == node} for node in nodes}
    changed = True
    while changed:
        changed = False
        for node in nodes:
            further = set().union(*(reach[to] for to in reach[node])) - reach[node] if reach[node] else set()
            if further:
                reach[node] |= further
                changed = True
    groups = {frozenset(to for to in reach[node] if node in reach[to]) for node in nodes if node in reach[node]}
    return sorted((sorted(group) for group in groups), key=lambda group: (-len(group), group))


def cycles(crate):
    """(target, parent module, members, the uses that close the circle) of a crate."""
    found = []
    for target in crate.targets:
        for parent, pairs in sorted(edges(target.root).items()):
            for group in circles(pairs):
                inside = [where for (user, used), where in sorted(pairs.items()) if user in group and used in group]
                found.append((target.name, parent, group, inside))
    return found
