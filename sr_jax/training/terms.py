"""The content terms of the generator's loss, from a config."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from sr_jax import losses, models, weights
from sr_jax.data.sources import data_root
from sr_jax.training import checks
from sr_jax.training.steps import LossTerms
from sr_jax.types import Config

LOSSES: dict[str, Callable[..., jax.Array]] = {
  "charbonnier": losses.charbonnier,
  "l1": losses.l1,
  "mse": losses.mse,
}


#: Under the folder of the sets, where `config.perceptual.vgg` names no file.
_VGG = "weights/vgg19.safetensors"


def loss_terms(
  config: Config, hr_shape: tuple[int, ...]
) -> tuple[LossTerms, Any]:
  """The content terms of the generator's loss, and what they need: frozen."""
  weight = config.loss.get("weight", 1.0)
  fields = {k: v for k, v in config.loss.items() if k != "weight"}
  pixel = checks.named(LOSSES, "loss", fields, later=("sr", "hr", "weight"))
  features, frozen = _perceptual(config, hr_shape)
  adversarial = bool(config.discriminator.name) and config.adversarial.weight
  if not (weight or features or adversarial):
    raise ValueError(
      f"config.loss.weight {weight} needs another term: "
      "config.perceptual.weight or config.adversarial.weight"
    )
  if config.loss.get("reduction") == "sum":
    # The parts of a batch are averaged, and a sum over each is one of many.
    weight *= config.accumulate

  def terms(sr: Any, hr: Any, frozen: Any) -> dict[str, jax.Array]:
    found = {}
    if weight:
      found["pixel"] = weight * pixel(sr, hr)
    return found | (features(sr, hr, frozen) if features else {})

  return terms, frozen


def _perceptual(
  config: Config, hr_shape: tuple[int, ...]
) -> tuple[LossTerms | None, Any]:
  """The terms on VGG19's features, if the recipe has any; its variables."""
  fields = config.perceptual
  style = fields.style_weight
  if not fields.weight and not style:
    return None, None
  layers = tuple(fields.layer_weights)
  options = {
    "layers": layers,
    "input_norm": fields.input_norm,
    "range_norm": fields.range_norm,
  }
  model: Any
  if fields.vgg == "random":
    with checks.told_of(config, "perceptual"):
      model = models.build("vgg19", **options)
    variables = jax.jit(model.init)(
      jax.random.key(0, impl="rbg"), jnp.zeros((1, 32, 32, 3))
    )
  else:
    path = epath.Path(fields.vgg or _VGG).expanduser()
    if not path.exists():
      path = data_root(config.data.data_dir or None) / path
    try:
      model, variables = weights.load_vgg19(path, **options)
    except FileNotFoundError as error:
      raise FileNotFoundError(f"config.perceptual.vgg: {error}") from error
    except ValueError as error:
      # Of the file, or of the layers that were asked of it.
      raise ValueError(
        f"config.perceptual.vgg, or config.perceptual.layer_weights: {error}. "
        "Other layers, with their weights: "
        "--config.perceptual.layer_weights=\"{'conv3_4': 1.0}\""
      ) from error
  model = model.clone(dtype=jnp.dtype(config.model.get("dtype", "float32")))

  def terms(sr: Any, hr: Any, frozen: Any) -> dict[str, jax.Array]:
    content, style_term = losses.perceptual(
      sr,
      hr,
      features_fn=lambda image: model.apply(frozen, image),
      layer_weights=dict(fields.layer_weights),
      perceptual_weight=fields.weight,
      style_weight=style,
      criterion=fields.criterion,
    )
    found = {"perceptual": content} if fields.weight else {}
    return found | ({"style": style_term} if style else {})

  # What is wrong is told now, not when the step is traced.
  image = jax.ShapeDtypeStruct(hr_shape, jnp.float32)
  with checks.told_of(config, "perceptual"):
    jax.eval_shape(terms, image, image, variables)
  return terms, jax.device_get(variables)
