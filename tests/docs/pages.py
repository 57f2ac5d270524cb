"""Fenced blocks of the documentation, with what is said about them just before."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]

_FENCE = re.compile(
    r"^(?P<before>[^\n]*)\n(?P<gap>\n?)```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
_FILE = re.compile(r"^`([\w./-]+)`:$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
      page: where it stands.
      line: of its opening fence.
      language: what the fence names.
      text: its contents.
      before: the last line of text before it, such as `<!-- fragment -->`.
    """

    page: Path
    line: int
    language: str
    text: str
    before: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that the block shows, where the line before names one alone."""
        match = _FILE.match(self.before)
        return match[1] if match else None


def blocks(page: Path) -> list[Block]:
    """Every block of a page, in order."""
    text = "\n\n" + page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) - 1
        before = match["before"].strip()
        found.append(Block(page, line, match["language"], match["text"], before))
    return found
