"""The networks, one file a paper, and the dict that names them."""

import dataclasses
import difflib
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sr_jax.models.basicvsr import BasicVSR
from sr_jax.models.basicvsr_plusplus import BasicVSRPlusPlus
from sr_jax.models.dcgan import DCGANDiscriminator, DCGANGenerator
from sr_jax.models.discriminators import (
  SRGANDiscriminator,
  UNetDiscriminator,
  VGGDiscriminator,
)
from sr_jax.models.edsr import EDSR
from sr_jax.models.edvr import EDVR
from sr_jax.models.fsrcnn import FSRCNN
from sr_jax.models.iconvsr import IconVSR
from sr_jax.models.interpolate import Interpolate
from sr_jax.models.probe import feature_maps
from sr_jax.models.rrdbnet import RRDBNet
from sr_jax.models.sparse_coding import SparseCoding
from sr_jax.models.spynet import SPyNet
from sr_jax.models.srcnn import SRCNN
from sr_jax.models.srresnet import MSRResNet, SRResNet
from sr_jax.models.srvgg import SRVGGNetCompact
from sr_jax.models.vgg import VGG19

#: name -> class, or a class with some arguments given.
MODELS: dict[str, Callable[..., nn.Module]] = {
  "bicubic": functools.partial(Interpolate, method="bicubic"),
  "bilinear": functools.partial(Interpolate, method="bilinear"),
  "nearest": functools.partial(Interpolate, method="nearest"),
  "sparse_coding": SparseCoding,
  "srcnn": SRCNN,
  "fsrcnn": FSRCNN,
  "srresnet": SRResNet,
  "msrresnet": MSRResNet,
  "edsr": EDSR,
  "rrdbnet": RRDBNet,
  "srvggnet": SRVGGNetCompact,
  "edvr": EDVR,
  "spynet": SPyNet,
  "basicvsr": BasicVSR,
  "iconvsr": IconVSR,
  "basicvsr_plusplus": BasicVSRPlusPlus,
  "vgg_discriminator": VGGDiscriminator,
  "srgan_discriminator": SRGANDiscriminator,
  "unet_discriminator": UNetDiscriminator,
  "dcgan_generator": DCGANGenerator,
  "dcgan_discriminator": DCGANDiscriminator,
  "vgg19": VGG19,
}


def _arguments(model: Any) -> list[str]:
  """Constructor arguments of a model or of its class."""
  return [
    field.name
    for field in dataclasses.fields(model)
    if field.init and field.name not in ("parent", "name")
  ]


def _nearest(word: str, known: list[str]) -> str:
  close = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
  return f"; did you mean '{close[0]}'?" if close else ""


def build(name: str, **kwargs: Any) -> nn.Module:
  """The network of that name.

  Args:
    name: A key of `MODELS`.
    **kwargs: Its class's attributes; what is left out is the paper's.

  Returns:
    A linen module: `model.apply(variables, lr) -> sr`, or its own input.

  Raises:
    ValueError: unknown name or argument (the message names the nearest), or a
      size that is not positive.
  """
  if name not in MODELS:
    known = sorted(MODELS)
    raise ValueError(
      f"model '{name}' is not one of {known}{_nearest(str(name), known)}"
    )
  make = MODELS[name]
  given = make.keywords if isinstance(make, functools.partial) else {}
  kind: Any = make.func if isinstance(make, functools.partial) else make
  known = [arg for arg in _arguments(kind) if arg not in given]
  for key in kwargs:
    if key not in known:
      raise ValueError(
        f"model '{name}' has no argument '{key}'{_nearest(key, known)} "
        f"It takes {known}"
      )
  defaults = {field.name: field.default for field in dataclasses.fields(kind)}
  for key, value in kwargs.items():
    sizes = value if isinstance(value, (list, tuple)) else [value]
    first = defaults[key]
    first = first[0] if isinstance(first, tuple) else first
    if type(first) is int and not all(
      isinstance(size, int) and size >= 1 for size in sizes
    ):
      raise ValueError(
        f"{key} {value!r} of model '{name}' must be a positive integer, such "
        f"as {defaults[key]}"
      )
  # Configs and JSON have lists where a hashable module needs tuples, and
  # names where the computation needs a dtype.
  for key, value in kwargs.items():
    if isinstance(value, list):
      kwargs[key] = tuple(value)
    if key == "dtype":
      try:
        kwargs[key] = jnp.dtype(value)
      except TypeError as error:
        raise ValueError(
          f"dtype {value!r} of model '{name}' is not a dtype; 'float32' and "
          "'bfloat16' are usual"
        ) from error
  return make(**kwargs)


def describe(model: nn.Module) -> tuple[str, dict[str, Any]]:
  """Name and arguments such that `build(name, **arguments)` equals `model`.

  Raises:
    ValueError: the class is not in `MODELS`.
  """
  arguments = {}
  for key in _arguments(model):
    value = getattr(model, key)
    if key == "dtype":
      value = jnp.dtype(value).name
    arguments[key] = list(value) if isinstance(value, tuple) else value
  for name, make in MODELS.items():
    given = make.keywords if isinstance(make, functools.partial) else {}
    kind = make.func if isinstance(make, functools.partial) else make
    if type(model) is kind and all(arguments[k] == v for k, v in given.items()):
      return name, {k: v for k, v in arguments.items() if k not in given}
  raise ValueError(
    f"{type(model).__name__} is not in sr_jax.models.MODELS; add it there"
  )


def example_inputs(model: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
  """Shapes of what a network takes, to initialise it by; mostly one image.

  A network that does not take images of any size has `input_shape`, of one
  input without the batch. One that takes clips has `num_frames`, which is None
  where any number will do.
  """
  shape = getattr(model, "input_shape", None)
  if shape is None:
    shape = (16, 16, getattr(model, "in_channels", 3))
    if hasattr(model, "num_frames"):
      shape = (model.num_frames or 2, *shape)
  example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  return (example, example) if isinstance(model, SPyNet) else (example,)


__all__ = [
  "EDSR",
  "EDVR",
  "FSRCNN",
  "MODELS",
  "SRCNN",
  "VGG19",
  "BasicVSR",
  "BasicVSRPlusPlus",
  "DCGANDiscriminator",
  "DCGANGenerator",
  "IconVSR",
  "Interpolate",
  "MSRResNet",
  "RRDBNet",
  "SPyNet",
  "SRGANDiscriminator",
  "SRResNet",
  "SRVGGNetCompact",
  "SparseCoding",
  "UNetDiscriminator",
  "VGGDiscriminator",
  "build",
  "describe",
  "example_inputs",
  "feature_maps",
]
