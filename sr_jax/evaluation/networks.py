"""What `--weights` may name: files, trained workdirs, interpolations."""

import ast
import dataclasses
import os
from typing import Any

from etils import epath

from sr_jax import weights
from sr_jax.data.sources import data_root
from sr_jax.evaluation.published import Published, match
from sr_jax.models import build, describe
from sr_jax.types import Variables
from sr_jax.weights.native import read_record

INTERPOLATIONS = ("bicubic", "bilinear", "nearest")
_SCALE = "{scale}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
  """A model ready to run, and what the literature says of it.

  Attributes:
    label: What tables call it.
    model: The linen module.
    variables: Its variables.
    published: Figures to compare with; None where there are none.
  """

  label: str
  model: Any
  variables: Variables
  published: Published | None

  @property
  def channels(self) -> int:
    """1 or 3; an interpolation is measured on Y, as its figures are."""
    return getattr(self.model, "in_channels", 1)


def load_network(
  spec: str,
  *,
  scale: int | None = None,
  model: str | None = None,
  data_dir: str | None = None,
) -> Network:
  """The network that one entry of `--weights` names.

  Args:
    spec: A weight file, also one in `weight_folders`; the workdir of a training
      run (its best weights, else its last), the name of a network that comes
      with the package, or an interpolation; `{scale}` is filled in.
    scale: The scale that was asked for; None takes the file's own.
    model: What network a PyTorch checkpoint is of, where its names and shapes
      do not tell all of it; see `build_network`.
    data_dir: Of `weight_folders`.

  Returns:
    The network.

  Raises:
    FileNotFoundError: there is no such file, or no weights in the workdir.
    ValueError: the weights are of another scale than was asked for, or do not
      fit the model, or the scale is needed and was not given.
  """
  if scale is None and (spec in INTERPOLATIONS or _SCALE in spec):
    raise ValueError(f"'{spec}' needs a scale; give --scales=2,3,4")
  if spec in INTERPOLATIONS:
    return Network(
      label=spec,
      model=build(spec, scale=scale),
      variables={},
      published=match(spec, {}),
    )
  path = _find(spec.replace(_SCALE, str(scale)), data_dir)
  if model and weights.is_pth(path):
    module = build_network(model)
    try:
      variables = weights.from_torch(module, weights.read_pth(path))
      weights.check_scale(module, scale)
    except ValueError as error:
      raise ValueError(f"{path} as --model={model}: {error}") from error
  else:
    module, variables = weights.load(path, scale=scale)
  name, arguments = describe(module)
  config = {}
  if path.suffix == ".safetensors":
    config = read_record(path).get("config") or {}
  # A recipe says what it answers to, or with "" that nothing is published.
  key = config.get("published")
  if not isinstance(key, str | None):
    raise ValueError(f"{path}: its config.published is no text, but {key!r}")
  found = None
  if key != "":
    found = match(name, arguments, path=str(path), key=key or "")
  return Network(
    label=label(spec),
    model=module,
    variables=variables,
    published=found,
  )


def build_network(text: str) -> Any:
  """The network that `--model` names.

  Args:
    text: A key of `models.MODELS`, with arguments after a colon where they are
      not the paper's: "edvr:num_features=128,num_reconstruct_blocks=40".

  Returns:
    The linen module.

  Raises:
    ValueError: not written so, or an unknown name or argument.
  """
  name, _, rest = text.partition(":")
  try:
    call = ast.parse(f"f({rest})", mode="eval").body
    if not isinstance(call, ast.Call) or call.args:
      raise ValueError
    arguments = {
      str(word.arg): ast.literal_eval(word.value) for word in call.keywords
    }
  except (SyntaxError, ValueError):
    raise ValueError(
      f"--model: '{rest}' is not written as name=number,name=number"
    ) from None
  return build(name, **arguments)


def load_enlarger(
  spec: str,
  *,
  scale: int | None = None,
  model: str | None = None,
  data_dir: str | None = None,
) -> Network:
  """As `load_network`, of what has a scale.

  Raises:
    FileNotFoundError, ValueError: as there, or it enlarges nothing.
  """
  network = load_network(spec, scale=scale, model=model, data_dir=data_dir)
  if not hasattr(network.model, "scale"):
    raise ValueError(
      f"{spec} is a {describe(network.model)[0]}, which enlarges nothing; give "
      "the weights of a generator for super-resolution"
    )
  return network


def label(spec: str) -> str:
  """The last two parts of a path: enough to tell, short enough to print.

  Those that are filled in differ from row to row, and tell nothing more.
  """
  parts = [part for part in spec.split("/") if part]
  told = [part for part in parts if _SCALE not in part]
  told = told or [parts[-1].replace(f"_x{_SCALE}", "")]
  return "/".join(told[-2:])


def weight_folders(data_dir: str | None = None) -> list[epath.Path]:
  """Where weights of others are looked for: SR_JAX_WEIGHTS, then the data's."""
  given = os.environ.get("SR_JAX_WEIGHTS")
  own = [epath.Path(given).expanduser()] if given else []
  return [*own, data_root(data_dir) / "weights"]


def _find(spec: str, data_dir: str | None) -> epath.Path:
  """The weight file of a spec, which may be a workdir."""
  path = weights.locate(spec)
  if not path.exists():
    others = (folder / spec for folder in weight_folders(data_dir))
    path = next((other for other in others if other.exists()), path)
  if not path.is_dir():
    return path
  for name in ("best", "last"):
    file = path / "weights" / f"{name}.safetensors"
    if file.exists():
      return file
  raise FileNotFoundError(
    f"{path} has neither weights/best.safetensors nor weights/last.safetensors;"
    " give the workdir of a training run that has saved a checkpoint, or a "
    "weight file"
  )
