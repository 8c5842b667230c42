"""From a ConfigDict to the parts of a run."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath

from sr_jax import degradations, losses, models, weights
from sr_jax.data.sources import data_root
from sr_jax.evaluation.published import published
from sr_jax.training import checks
from sr_jax.training.gan_steps import Adversarial, make_gan_step
from sr_jax.training.optimizers import make_optimizer
from sr_jax.training.schedules import SCHEDULES, Schedule, warm_up
from sr_jax.training.state import NetState, TrainState
from sr_jax.training.steps import (
  LossTerms,
  Step,
  make_latent_prepare,
  make_prepare,
  make_step,
)
from sr_jax.types import Config

LOSSES: dict[str, Callable[..., jax.Array]] = {
  "charbonnier": losses.charbonnier,
  "l1": losses.l1,
  "mse": losses.mse,
}


#: Under the folder of the sets, where `config.perceptual.vgg` names no file.
_VGG = "weights/vgg19.safetensors"


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What a config stands for, before any data or device is touched.

  Attributes:
    model: The generator.
    scale: Its enlargement.
    channels: 1 for Y, 3 for RGB.
    latent_features: Length of the noise that the generator begins from; 0 for
      one that begins from an image.
    schedule: Learning rate of each step.
    optimizer: Of the generator.
    discriminator: None for plain regression.
    d_optimizer: Of the discriminator.
    step: The pure training step.
    frozen: What the step takes besides: VGG19's variables, or None.
    margin: Low-resolution pixels of context that a crop of `hr` carries.
    ema: Whether a moving average of the parameters is kept.
    input_shape: Of one input of the generator, with the batch in front.
    hr_shape: Of one high-resolution crop, likewise.
  """

  model: Any
  scale: int
  channels: int
  latent_features: int
  schedule: Schedule
  optimizer: optax.GradientTransformationExtraArgs
  discriminator: Any
  d_optimizer: optax.GradientTransformationExtraArgs | None
  step: Step
  frozen: Any
  margin: int
  ema: bool
  input_shape: tuple[int, ...]
  hr_shape: tuple[int, ...]

  def init_state(self, key: jax.Array) -> TrainState:
    """The state at step 0."""
    variables = self.model.init(key, jnp.zeros(self.input_shape))
    d_net = None
    if self.discriminator is not None and self.d_optimizer is not None:
      d_variables = self.discriminator.init(
        jax.random.fold_in(key, 1), jnp.zeros(self.hr_shape)
      )
      d_net = NetState.create(d_variables, self.d_optimizer, ema=False)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      generator=NetState.create(variables, self.optimizer, ema=self.ema),
      discriminator=d_net,
    )


def build(config: Config) -> Experiment:
  """Builds the parts and refuses what cannot run, before any compile.

  Raises:
    ValueError: a field is unknown, or its value is of no use.
    FileNotFoundError: weights that a loss needs are not there.
  """
  _check_numbers(config)
  model = models.build(**config.model)
  scale, channels = getattr(model, "scale", 1), getattr(model, "in_channels", 3)
  latent_features = getattr(model, "latent_features", 0)
  side = config.data.patch_size
  if side % scale:
    raise ValueError(
      f"config.data.patch_size {side} is not a multiple of the model's scale "
      f"{scale}"
    )
  hr_shape = (1, side, side, channels)
  input_shape = (
    (1, latent_features)
    if latent_features
    else (1, side // scale, side // scale, channels)
  )
  inputs = jax.ShapeDtypeStruct(input_shape, "float32")
  shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
  if not shapes:
    raise ValueError(
      f"model '{config.model.name}' has no parameters to train; evaluate it "
      f"with eval.py --weights={config.model.name}"
    )
  made = jax.eval_shape(model.apply, shapes, inputs).shape
  if made != hr_shape:
    raise ValueError(
      f"model '{config.model.name}' makes images of {made[1:]}, and the crops "
      f"are {hr_shape[1:]}; change config.data.patch_size or config.model"
    )
  schedule, optimizer = _optimizer(config, "schedule", "optimizer")
  loss_fn, frozen = _loss_terms(config, hr_shape)
  margin = 0 if latent_features else degradations.MARGIN
  common: dict[str, Any] = {
    "optimizer": optimizer,
    "loss_fn": loss_fn,
    "prepare": (
      make_latent_prepare(latent_features)
      if latent_features
      else make_prepare(
        scale=scale, channels=channels, quantize=config.quantize_lr
      )
    ),
    "ema_decay": config.ema_decay,
  }
  discriminator = d_optimizer = None
  if config.discriminator.name:
    discriminator = _discriminator(config, hr_shape)
    _, d_optimizer = _optimizer(config, "d_schedule", "d_optimizer")
    make = checks.bind(Adversarial, "adversarial", dict(config.adversarial))
    with checks.told_of(config, "adversarial"):
      adversarial = make()
    step = make_gan_step(
      model,
      discriminator,
      d_optimizer=d_optimizer,
      adversarial=adversarial,
      d_steps=config.d_steps,
      d_init_steps=config.d_init_steps,
      **common,
    )
  else:
    if latent_features:
      raise ValueError(
        f"model '{config.model.name}' begins from noise and can only be "
        "trained against a discriminator; name one in config.discriminator"
      )
    step = make_step(model, accumulate=config.accumulate, **common)
  return Experiment(
    model=model,
    scale=scale,
    channels=channels,
    latent_features=latent_features,
    schedule=schedule,
    optimizer=optimizer,
    discriminator=discriminator,
    d_optimizer=d_optimizer,
    step=step,
    frozen=frozen,
    margin=margin,
    ema=config.ema_decay > 0,
    input_shape=input_shape,
    hr_shape=hr_shape,
  )


def _check_numbers(config: Config) -> None:
  """Refuses values out of range."""
  checks.positive(
    config,
    "steps",
    "data.batch_size",
    "data.patch_size",
    "accumulate",
    "log_every",
    "eval_every",
    "keep_last",
    "max_skipped",
    "d_steps",
  )
  checks.not_negative(
    config,
    "loss.weight",
    "perceptual.weight",
    "perceptual.style_weight",
    "perceptual.layer_weights",
    "adversarial.weight",
    "adversarial.gradient_penalty",
    "adversarial.r1",
  )
  if not config.data.train:
    raise ValueError(
      "config.data.train is empty; give a set's name or a folder of images: "
      "--config.data.train=/my/photos"
    )
  if config.data.batch_size % config.accumulate:
    raise ValueError(
      f"config.data.batch_size {config.data.batch_size} is not a multiple of "
      f"config.accumulate {config.accumulate}"
    )
  for name in ("warm_up_steps", "keep_best", "d_init_steps"):
    if config[name] < 0:
      raise ValueError(f"config.{name} is {config[name]}; 0 is none")
  if config.eval.max_images < 0:
    raise ValueError(
      f"config.eval.max_images is {config.eval.max_images}; 0 is all"
    )
  if config.published and config.published not in published():
    raise ValueError(
      f"config.published '{config.published}' is not one of "
      f"{sorted(published())}"
    )
  if not 0 <= config.ema_decay < 1:
    raise ValueError(f"config.ema_decay {config.ema_decay} is not in [0, 1)")
  if config.discriminator.name and config.accumulate > 1:
    raise ValueError(
      f"config.accumulate {config.accumulate}: the parts of a batch would play "
      "another game than the whole (BatchNorm, relativistic means); with a "
      "discriminator it must be 1, and memory is saved by config.model.remat"
    )


def _optimizer(
  config: Config, schedule_field: str, optimizer_field: str
) -> tuple[Schedule, optax.GradientTransformationExtraArgs]:
  """Schedule and optimizer of one network."""
  fields = dict(config[schedule_field])
  rate = fields.get("learning_rate", 1.0)
  if not 0 < rate < 10:
    raise ValueError(
      f"config.{schedule_field}.learning_rate {rate} is not in (0, 10)"
    )
  schedule = checks.named(SCHEDULES, schedule_field, fields)()
  schedule = warm_up(schedule, config.warm_up_steps)
  make = checks.bind(
    make_optimizer,
    optimizer_field,
    dict(config[optimizer_field]),
    later=("schedule",),
  )
  return schedule, make(schedule)


def _loss_terms(
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


def _discriminator(config: Config, hr_shape: tuple[int, ...]) -> Any:
  """The discriminator, once it is known to take the crops."""
  # One dtype for the whole step, as VGG19 has it too.
  fields = {
    "dtype": config.model.get("dtype", "float32"),
    **config.discriminator,
  }
  discriminator = models.build(**fields)
  wanted = getattr(discriminator, "input_shape", hr_shape[1:])
  if tuple(wanted) != hr_shape[1:]:
    raise ValueError(
      f"config.discriminator '{config.discriminator.name}' takes images of "
      f"{tuple(wanted)}, and the crops are {hr_shape[1:]}; change "
      "config.data.patch_size or the discriminator's size"
    )
  image = jax.ShapeDtypeStruct(hr_shape, jnp.float32)
  jax.eval_shape(discriminator.init, jax.random.key(0), image)
  return discriminator
