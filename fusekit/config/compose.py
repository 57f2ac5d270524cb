"""`extends`: a config made of several files.

Paths are relative to the file that names them; `fusekit:base/tiny.yaml` means the configs that
come with the package. Of several, the later wins, and the file itself wins over all.
"""

import posixpath
from pathlib import Path as FilePath

from fusekit.config.merge import merge
from fusekit.config.scalars import show
from fusekit.config.sections import VERSION
from fusekit.config.source import decode, parse
from fusekit.config.tree import Node
from fusekit.config.validate import DUE
from fusekit.errors import ConfigError, Position, Problem, nearest

PACKAGE = "fusekit:"
CHAIN = 32
"""How many files may extend one another in a row."""


def shipped() -> FilePath:
    """The folder of the configs that come with the package, installed or in a checkout."""
    package = FilePath(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


class Composer:
    """Reads files and what they extend, each once. `problems` holds what was wrong on the way;
    `broken` says that some file could not be read, so that things may be missing."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.files: list[str] = []
        self.broken = False
        self._done: dict[FilePath, Node] = {}

    def fail(self, problem: Problem) -> Node:
        self.problems.append(problem)
        self.broken = True
        return Node({}, problem.position)

    def text(self, text: str, name: str, folder: FilePath | None) -> Node:
        """A config that is not in a file; relative paths start at `folder`."""
        return self._compose(text, name, folder, ())

    def file(
        self,
        path: FilePath,
        name: str,
        *,
        asked: Position | None = None,
        chain: tuple[FilePath, ...] = (),
    ) -> Node:
        """A file with everything that it extends. `name` stands for it in positions."""
        try:
            real = path.resolve()
            there = real.exists()
        except (OSError, RuntimeError):
            real, there = path, True
        except ValueError:
            real, there = path, False
        if real in self._done:
            return self._done[real]
        steps = ("extends",) if asked else ()
        if real in chain:
            names = " -> ".join(file.name for file in (*chain[chain.index(real) :], real))
            return self.fail(
                Problem(steps, "files extend one another in a circle", names, position=asked)
            )
        if len(chain) >= CHAIN:
            message = f"more than {CHAIN} files extend one another"
            return self.fail(Problem(steps, message, position=asked))
        try:
            text = decode(_bytes(real), name)
        except ConfigError as error:
            self.problems += error.problems
            self.broken = True
            return Node({}, asked)
        except OSError:
            return self.fail(
                Problem(
                    steps,
                    "the file cannot be read" if there else "there is no such file",
                    show(name),
                    nearest=_neighbours(real),
                    position=asked,
                )
            )
        node = self._compose(text, name, real.parent, (*chain, real))
        self._done[real] = node
        return node

    def _compose(
        self, text: str, name: str, folder: FilePath | None, chain: tuple[FilePath, ...]
    ) -> Node:
        self.files.append(name)
        reading = parse(text, name)
        self.problems += reading.problems
        root = reading.root
        if root is None:
            self.broken = True
            return Node({}, Position(name, 1, 1))
        if not isinstance(root.value, dict):
            return self.fail(
                Problem(
                    (),
                    "a config is a mapping of sections",
                    show(root.value) if not root.items else "a list",
                    position=root.position,
                )
            )
        self._version(root)
        fields = dict(root.fields)
        extends = fields.pop("extends", None)
        base = Node({}, root.position)
        for entry in self._entries(extends):
            found = self._find(entry, name, folder)
            if found is not None:
                asked = self.file(found[0], found[1], asked=entry.position, chain=chain)
                base = merge(base, asked)
        return merge(base, Node(fields, root.position))

    def _version(self, root: Node) -> None:
        """Every file says for which version of the language it is written."""
        node = root.fields.get("version")
        if node is None or node.value is None:
            message, due = "`version` is missing", f"version: {VERSION}"
            self.problems.append(Problem((), message, expected=due, position=root.position))
        elif node.value != VERSION or type(node.value) is not int:
            found = "a list or mapping" if isinstance(node.value, list | dict) else show(node.value)
            close = nearest(node.value, [str(VERSION)]) if isinstance(node.value, str) else ()
            problem = Problem(("version",), DUE, found, str(VERSION), close, node.position)
            self.problems.append(problem)

    def _entries(self, extends: Node | None) -> list[Node]:
        if extends is None or extends.value is None:
            return []
        entries = extends.items if isinstance(extends.value, list) else [extends]
        if not entries:
            message, due = "names no file", "a path, or a list of paths"
            self.fail(Problem(("extends",), message, "[]", due, position=extends.position))
        for entry in entries:
            if not isinstance(entry.value, str) or not entry.value:
                self.fail(
                    Problem(
                        ("extends",),
                        "a path is due",
                        show(entry.value) if not isinstance(entry.value, dict) else "a mapping",
                        "a path such as base.yaml or fusekit:base/tiny.yaml, or a list of paths",
                        position=entry.position,
                    )
                )
        return [entry for entry in entries if isinstance(entry.value, str) and entry.value]

    def _find(self, entry: Node, name: str, folder: FilePath | None) -> tuple[FilePath, str] | None:
        """The file that an entry of `extends` means, and how to call it."""
        text = str(entry.value)
        problem = Problem(("extends",), "", show(text), position=entry.position)
        if text.startswith(PACKAGE):
            inner = posixpath.normpath(text.removeprefix(PACKAGE))
            if inner.startswith(("/", "..")) or "\0" in inner:
                message = "leaves the configs of the package"
                self.fail(Problem(problem.path, message, show(text), position=entry.position))
                return None
            return shipped() / inner, PACKAGE + inner
        if posixpath.isabs(text) or FilePath(text).is_absolute() or "\0" in text:
            message = "is not a path relative to this file"
            self.fail(Problem(problem.path, message, show(text), position=entry.position))
            return None
        if folder is None:
            message = "a text that is in no file can only extend configs of the package"
            self.fail(Problem(problem.path, message, show(text), position=entry.position))
            return None
        if name.startswith(PACKAGE):
            own = posixpath.dirname(name.removeprefix(PACKAGE))
            shown = PACKAGE + posixpath.normpath(posixpath.join(own, text))
        else:
            shown = posixpath.normpath(posixpath.join(posixpath.dirname(name), text))
        return folder / text, shown


def _bytes(path: FilePath) -> bytes:
    """The contents of an ordinary file; what is longer than a config may be is cut."""
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as stream:
        return stream.read((1 << 20) + 1)


def _neighbours(path: FilePath) -> tuple[str, ...]:
    """Files beside a missing one that resemble it."""
    try:
        names = [file.name for file in path.parent.iterdir() if file.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):
        return ()
    return nearest(path.name, names)
