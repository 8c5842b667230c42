"""Pickles of plain data, read by a machine that can do nothing else.

A pickle is a program for a small stack machine. This one knows the instructions
that plain data is made of and the names that PyTorch's tensors need; any other
name is refused, so nothing is imported and nothing is called.
"""

import dataclasses
import io
import pickletools
from collections.abc import Iterable
from typing import Any

# Of 10,000 tensors, which no network has, and so few that they are run in a
# second or two and make no more than tens of megabytes of objects.
_MAX_INSTRUCTIONS = 500_000
_TENSOR_COST = 8
_MAX_AXES = 8
_MAX_SIZE = 1 << 62
_MAX_NAME = 1000

_ORDERED_DICT = "collections.OrderedDict"
# The second of each is what PyTorch wrote until 2018 (0.3 and earlier).
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETERS = (
  "torch._utils._rebuild_parameter",
  "torch.nn.parameter.Parameter",
)
_NAMES = (_ORDERED_DICT, *_TENSORS, *_PARAMETERS)
#: What the elements of a storage are, but for their byte order.
STORAGES = {
  "torch.FloatStorage": "f4",
  "torch.DoubleStorage": "f8",
  "torch.HalfStorage": "f2",
  "torch.BFloat16Storage": "u2",  # the upper half of a float32
  "torch.LongStorage": "i8",
  "torch.IntStorage": "i4",
  "torch.ShortStorage": "i2",
  "torch.CharStorage": "i1",
  "torch.ByteStorage": "u1",
  "torch.BoolStorage": "u1",
}

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
  (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
  )
)


class RefusedError(ValueError):
  """What the pickle wants is not done; the file itself may be whole."""


@dataclasses.dataclass(eq=False, slots=True)
class _Global:
  name: str


@dataclasses.dataclass(eq=False, slots=True)
class Storage:
  """Bytes beside the pickle, named in it."""

  kind: str
  key: str
  size: int  # in elements


@dataclasses.dataclass(eq=False, slots=True)
class Tensor:
  """A view of a storage."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]  # in elements, as offset


class Machine:
  """Runs a pickle of plain data; tensors are noted, not yet made."""

  def __init__(self):
    self.instructions = 0
    self.storages: dict[str, Storage] = {}
    self._memo: dict[int, Any] = {}
    self._stack: list[Any] = []
    self._outer: list[list[Any]] = []  # the stacks below each mark

  def run(self, stream: io.BytesIO) -> Any:
    """The value of one pickle; the stream is left behind it."""
    for op, arg, _ in pickletools.genops(stream):
      self.instructions += 1
      if self.instructions > _MAX_INSTRUCTIONS:
        raise RefusedError(f"it takes over {_MAX_INSTRUCTIONS} instructions")
      if op.name in _LITERALS:
        self._stack.append(arg)
      elif op.name in _CONSTANTS:
        self._stack.append(_CONSTANTS[op.name])
      elif op.name == "STOP":
        return self._stack.pop()
      else:
        self._step(op.name, arg)
    raise ValueError("the pickle has no end")

  def _step(self, op: str, arg: Any) -> None:
    stack = self._stack
    match op:
      case "PROTO" | "FRAME":
        pass
      case "MARK":
        self._outer.append(stack)
        self._stack = []
      case "POP":
        stack.pop()
      case "POP_MARK":
        self._marked()
      case "PUT" | "BINPUT" | "LONG_BINPUT":
        self._memo[arg] = stack[-1]
      case "MEMOIZE":
        self._memo[len(self._memo)] = stack[-1]
      case "GET" | "BINGET" | "LONG_BINGET":
        stack.append(self._memo[arg])
      case "EMPTY_DICT":
        stack.append({})
      case "EMPTY_LIST":
        stack.append([])
      case "EMPTY_TUPLE":
        stack.append(())
      case "TUPLE1" | "TUPLE2" | "TUPLE3":
        stack[-int(op[-1]) :] = [self._last(int(op[-1]))]
      case "TUPLE" | "LIST" | "DICT":
        items = self._marked()
        make = {"TUPLE": tuple, "LIST": list, "DICT": _dict}[op]
        self._stack.append(make(items))
      case "APPEND":
        item = stack.pop()
        of_kind(list, stack[-1]).append(item)
      case "APPENDS":
        items = self._marked()
        of_kind(list, self._stack[-1]).extend(items)
      case "SETITEM":
        items = self._last(2)
        del stack[-2:]
        of_kind(dict, stack[-1]).update(_dict(items))
      case "SETITEMS":
        items = self._marked()
        of_kind(dict, self._stack[-1]).update(_dict(items))
      case "GLOBAL":
        stack.append(_global(*arg.split(" ", 1)))
      case "STACK_GLOBAL":
        module, name = self._last(2)
        stack[-2:] = [_global(of_kind(str, module), of_kind(str, name))]
      case "BINPERSID":
        stack.append(self._storage(*of_kind(tuple, stack.pop())))
      case "REDUCE":
        called, args = self._last(2)
        name = of_kind(_Global, called).name
        stack[-2:] = [self._call(name, of_kind(tuple, args))]
      case "BUILD":
        # A state dict's attribute _metadata (versions of its modules), or an
        # old parameter's requires_grad: neither is needed.
        state = stack.pop()
        of_kind(tuple if isinstance(stack[-1], Tensor) else dict, state)
        of_kind(Tensor if isinstance(state, tuple) else dict, stack[-1])
      case "INST":
        raise _refused(arg.replace(" ", "."))
      case _:
        raise RefusedError(f"its pickle has the instruction {op}")

  def _last(self, count: int) -> tuple[Any, ...]:
    if len(self._stack) < count:
      raise ValueError("the stack is empty")
    return tuple(self._stack[-count:])

  def _marked(self) -> list[Any]:
    items, self._stack = self._stack, self._outer.pop()
    return items

  def _storage(self, *args: Any) -> Storage:
    """('storage', type, key, device, elements[, view])."""
    if of_kind(str, args[0]) != "storage":
      raise RefusedError(f"it holds a {args[0][:80]} by reference")
    _, kind, key, _, size, *view = args
    kind = of_kind(_Global, kind).name
    if kind not in STORAGES:
      raise ValueError(f"{kind} is no storage")
    if view not in ([], [None]):
      raise RefusedError("a storage in it is a view of another")
    new = Storage(kind, of_kind(str, key), _size(size))
    old = self.storages.setdefault(new.key, new)
    if (old.kind, old.size) != (new.kind, new.size):
      raise ValueError(f"storage {new.key} is of two kinds")
    return old

  def _call(self, name: str, args: tuple[Any, ...]) -> Any:
    """The few calls that plain data needs."""
    if name == _ORDERED_DICT:  # Python 2 wrote its items as pairs
      pairs = of_kind(list, args[0]) if args else []
      self.instructions += len(pairs)  # a list may come again and again
      return _dict([x for pair in pairs for x in _two(pair)])
    if name in _PARAMETERS:
      return of_kind(Tensor, args[0])
    if name in _TENSORS:
      self.instructions += _TENSOR_COST
      return _tensor(*args)
    raise ValueError(f"{name} is not called")


def _tensor(
  storage: Any,
  offset: Any,
  shape: Any,
  strides: Any,
  requires_grad: Any = False,
  hooks: Any = None,
  metadata: Any = None,
) -> Tensor:
  del requires_grad, hooks  # neither is needed
  if metadata:
    raise RefusedError("a tensor in it is marked as conjugate or negative")
  axes = len(of_kind(tuple, shape))
  if axes != len(of_kind(tuple, strides)) or axes > _MAX_AXES:
    raise ValueError(f"{axes} axes have {len(strides)} strides")
  return Tensor(
    of_kind(Storage, storage),
    _size(offset),
    tuple(map(_size, shape)),
    tuple(map(_size, strides)),
  )


def _global(module: str, name: str) -> _Global:
  full = f"{module}.{name}"
  if full not in _NAMES and full not in STORAGES:
    raise _refused(full)
  return _Global(full)


def _refused(name: str) -> RefusedError:
  return RefusedError(
    f"it names {name[:200]}, which is more than plain data and is not loaded"
  )


def _dict(items: Iterable[Any]) -> dict[Any, Any]:
  """Key, value, key, ... Keys are such that no file makes hashing slow."""
  items = list(items)
  for key in items[::2]:
    if not isinstance(key, str | int) or (
      isinstance(key, int) and abs(key) >= 1 << 31
    ):
      raise ValueError(f"a key is a {type(key).__name__}, or a huge number")
    if isinstance(key, str) and len(key) > _MAX_NAME:
      raise ValueError(f"a name has {len(key)} characters")
  return dict(zip(items[::2], items[1::2], strict=True))


def _two(pair: Any) -> list[Any] | tuple[Any, ...]:
  if not isinstance(pair, list | tuple) or len(pair) != 2:
    raise ValueError("an item is no pair")
  return pair


def of_kind(kind: type, value: Any) -> Any:
  """The value, which must be of that type."""
  if not isinstance(value, kind):
    raise ValueError(
      f"a {type(value).__name__} stands where {kind.__name__} is"
    )
  return value


def _size(value: Any) -> int:
  if not isinstance(value, int) or not 0 <= value < _MAX_SIZE:
    raise ValueError("a size, stride or offset is not a count")
  return value
