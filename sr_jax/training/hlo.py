"""What a compiled program multiplies and exchanges, loops counted in full.

XLA's own account, `cost_analysis()`, counts the body of a loop once, and the
blocks and frames of the networks here are loops. This one reads a program's
text: as it was written, for what it multiplies, since a TPU's compiler makes
convolutions of other products, with many zeros in them; and of one device after
the compiler's passes, for what it exchanges.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax

#: Kinds of exchange between devices.
COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)

_BITS = {"pred": 8, "s4": 4, "u4": 4, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(
  r"\b(body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Exchange:
  """One kind of exchange.

  Attributes:
    count: How often it happens in a run of the program.
    bytes: What a device hands in, over all of them.
  """

  count: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Cost:
  """What is done in one run of the program: by all devices, or by one.

  Attributes:
    flops: Of convolutions and matrix products, two a product; padding counts
      as the rest, zeros between the pixels of a gradient do not, nor do
      element-wise operations.
    collectives: By kind.
    unknown_loops: Loops whose turns the text does not say: counted once.
  """

  flops: float
  collectives: dict[str, Exchange]
  unknown_loops: int


@dataclasses.dataclass(frozen=True)
class _Op:
  name: str
  type: str
  kind: str
  arguments: str
  attributes: str

  @property
  def operands(self) -> list[str]:
    return re.findall(r"%([\w.\-]+)", self.arguments)


def written(lowered: jax.stages.Lowered) -> str:
  """The text of a program before any pass of a compiler, of all devices."""
  program: Any = lowered.compiler_ir("hlo")
  return program.get_hlo_module().to_string()


def cost(hlo: str) -> Cost:
  """Counts a program.

  Args:
    hlo: `written(lowered)` or `compiled.as_text()`.

  Raises:
    ValueError: it is no program in that form.
  """
  computations, entry = _parse(hlo)
  if entry is None:
    raise ValueError(
      "hlo has no line that begins with 'ENTRY': it is not the text of a "
      "program; give written(lowered) or compiled.as_text()"
    )

  @functools.cache
  def of(name: str) -> collections.Counter:
    ops = computations.get(name, ())
    types = {op.name: op.type for op in ops}
    total: collections.Counter = collections.Counter()
    for op in ops:
      if op.kind in ("convolution", "dot"):
        total["flops"] += _flops(op, types)
        continue
      kind = op.kind.removesuffix("-start")
      if kind in COLLECTIVES:
        total[f"{kind} count"] += 1
        total[f"{kind} bytes"] += sum(
          _size(types.get(operand, "")) for operand in op.operands
        )
        continue
      parts, turns = _called(op), 1
      if op.kind == "while":
        found = _turns(op, computations)
        total["unknown"] += found is None
        turns = found or 1
      if op.kind == "conditional":
        parts = [max(parts, key=lambda part: of(part)["flops"], default="")]
      for part in parts:
        for key, value in of(part).items():
          total[key] += turns * value
    return total

  total = of(entry)
  return Cost(
    flops=float(total["flops"]),
    collectives={
      kind: Exchange(total[f"{kind} count"], total[f"{kind} bytes"])
      for kind in COLLECTIVES
      if total[f"{kind} count"]
    },
    unknown_loops=total["unknown"],
  )


def _parse(hlo: str) -> tuple[dict[str, list[_Op]], str | None]:
  """Operations of each computation, and the name of the main one."""
  computations: dict[str, list[_Op]] = {}
  entry, here = None, None
  for line in hlo.splitlines():
    head = _HEAD.match(line)
    if head:
      here = computations.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif here is not None and (found := _LINE.match(line)):
      op = _op(found[1], found[2])
      if op is not None:
        here.append(op)
  return computations, entry


def _op(name: str, text: str) -> _Op | None:
  """`f32[2,3]{1,0} add(%a, %b), metadata=...`"""
  end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
  found = re.match(r"\s*([\w\-]+)\(", text[end:])
  if not found:
    return None
  opening = end + found.end() - 1
  closing = _closing(text, opening)
  return _Op(
    name=name,
    type=text[:end],
    kind=found[1],
    arguments=text[opening + 1 : closing],
    attributes=text[closing + 1 :],
  )


def _closing(text: str, opening: int) -> int:
  """Where the bracket that opens there is closed."""
  depth = 0
  for i in range(opening, len(text)):
    depth += (text[i] == "(") - (text[i] == ")")
    if depth == 0:
      return i
  return len(text)


def _shape(type_: str) -> Sequence[int]:
  found = _ARRAY.search(type_)
  return [int(n) for n in found[2].split(",") if n] if found else []


def _size(type_: str) -> int:
  """Bytes of an array, or of all arrays of a tuple."""
  bits = 0
  for kind, shape in _ARRAY.findall(type_):
    digits = re.search(r"\d+", kind)
    each = _BITS.get(kind) or (int(digits[0]) if digits else 0)
    bits += each * math.prod(int(n) for n in shape.split(",") if n)
  return bits // 8


def _flops(op: _Op, types: dict[str, str]) -> int:
  products = math.prod(_shape(op.type))
  if op.kind == "dot":
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.attributes)
    summed = [int(i) for i in found[1].split(",") if i] if found else []
    left = _shape(types.get(op.operands[0], ""))
    return 2 * products * math.prod(left[i] for i in summed)
  labels = re.search(r"dim_labels=\w+_(\w+)->", op.attributes)
  kernel = _shape(types.get(op.operands[1], ""))
  if not labels or not kernel:
    return 0
  flops = 2 * products * math.prod(kernel) // kernel[labels[1].index("o")]
  holes = re.search(r"\blhs_dilate=([\dx]+)", op.attributes)
  return flops // math.prod(map(int, holes[1].split("x") if holes else ()))


def _called(op: _Op) -> list[str]:
  """Computations that run as part of an operation."""
  if op.kind not in ("while", "fusion", "call", "conditional", "async-start"):
    return []
  branches = _BRANCHES.search(op.attributes)
  if branches:
    return re.findall(r"%?([\w.\-]+)", branches[1])
  return [name for _, name in _CALLED.findall(op.attributes)]


def _turns(op: _Op, computations: dict[str, list[_Op]]) -> int | None:
  """How often a loop goes round: known, or the number it counts up to."""
  known = re.search(r'known_trip_count":\{"n":"(\d+)"', op.attributes)
  if known:
    return int(known[1])
  condition = re.search(r"\bcondition=%?([\w.\-]+)", op.attributes)
  limits = [
    int(found.arguments)
    for found in computations.get(condition[1] if condition else "", ())
    if found.kind == "constant" and found.type.startswith("s32[]")
  ]
  return max(limits, default=None)
