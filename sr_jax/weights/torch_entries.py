"""How a network's arrays are listed: pieces that the tables are made of."""

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

#: Pattern and replacement of names that another library uses.
Renames: TypeAlias = tuple[tuple[str, Callable[[re.Match], str]], ...]


class Entry(NamedTuple):
  """One array in both worlds."""

  path: str  # "params/conv1/kernel"
  key: str  # "conv1.weight"
  kind: str  # a key of torch.KINDS
  index: int | None = None  # of a scanned block: its place in the stack
  value: tuple[float, ...] | None = None  # of a constant, which has no path


def layer(
  path: str,
  key: str,
  kind: str = "conv",
  *,
  bias: bool = True,
  index: int | None = None,
) -> list[Entry]:
  """A convolution with its bias."""
  table = [Entry(f"params/{path}/kernel", f"{key}.weight", kind, index)]
  if bias:
    table.append(Entry(f"params/{path}/bias", f"{key}.bias", "vector", index))
  return table


def channel_constant(key: str, value: tuple[float, ...]) -> Entry:
  """One number a channel that is no variable here, as [1, c, 1, 1] there."""
  return Entry("", key, "constant", value=value)


def batch_norm(path: str, key: str, index: int | None = None) -> list[Entry]:
  """Its scale and bias, running statistics and their count."""
  return [
    Entry(f"params/{path}/scale", f"{key}.weight", "vector", index),
    Entry(f"params/{path}/bias", f"{key}.bias", "vector", index),
    Entry(f"batch_stats/{path}/mean", f"{key}.running_mean", "vector", index),
    Entry(f"batch_stats/{path}/var", f"{key}.running_var", "vector", index),
    Entry(
      f"batch_stats/{path}/count", f"{key}.num_batches_tracked", "count", index
    ),
  ]


def prelu(path: str, key: str, index: int | None = None) -> list[Entry]:
  """One slope a channel."""
  return [Entry(f"params/{path}/slope", f"{key}.weight", "vector", index)]


def residual_blocks(
  count: int, path: str = "body", key: str = "body", first: int = 0
) -> list[Entry]:
  """Stacked blocks, which PyTorch numbers from `first`."""
  return [
    e
    for i in range(count)
    for j in (1, 2)
    for e in layer(f"{path}/conv{j}", f"{key}.{first + i}.conv{j}", index=i)
  ]


#: MMagic's layers that enlarge.
UPSAMPLES: Renames = (
  (r"^upsample(\d+)\.upsample_conv\.", lambda m: f"upconv{m[1]}."),
)
