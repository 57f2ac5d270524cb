"""Small HLO texts for tests, in the form that XLA prints."""

from textwrap import dedent

HEAD = "HloModule jit_f, is_scheduled=true, num_partitions={}"
SUM = """
%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %x_plus_y = f32[] add(%x, %y)
}
"""


def computation(name: str, *lines: str, entry: bool = False) -> str:
    """A computation of these instructions, of which the last is the root."""
    *first, root = (line.strip() for line in lines)
    body = "\n".join([*(f"  {line}" for line in first), f"  ROOT {root}"])
    return f"\n{'ENTRY ' if entry else ''}%{name} (p: f32[]) -> f32[] {{\n{body}\n}}\n"


def text(*lines: str, before: str = "", devices: int = 1) -> str:
    """A module whose entry has these instructions, of which the last is the root."""
    return HEAD.format(devices) + "\n" + dedent(before) + computation("main", *lines, entry=True)
