"""From a ConfigDict to the parts of a run."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sr_jax import degradations, models
from sr_jax.evaluation.published import published
from sr_jax.training import checks
from sr_jax.training.gan_steps import Adversarial, make_gan_step
from sr_jax.training.optimizers import make_optimizer
from sr_jax.training.schedules import SCHEDULES, Schedule, warm_up
from sr_jax.training.state import NetState, TrainState
from sr_jax.training.steps import (
  Step,
  make_latent_prepare,
  make_prepare,
  make_step,
)
from sr_jax.training.terms import loss_terms
from sr_jax.types import Config


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
    degradation: Makes the input from `hr`, whose crops carry the context that
      it needs; None for a generator that begins from noise.
    num_frames: Of a clip in a batch; None where batches are of images.
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
  degradation: degradations.Degradation | None
  num_frames: int | None
  ema: bool
  input_shape: tuple[int, ...]
  hr_shape: tuple[int, ...]

  @property
  def margin(self) -> int:
    """Low-resolution pixels of context around a crop of `hr`."""
    return self.degradation.margin if self.degradation else 0

  @property
  def batch_shape(self) -> tuple[int, ...]:
    """Of one entry of a batch's `hr`: a crop or a clip, context and all."""
    side = self.hr_shape[-2]
    side += 2 * self.margin * self.scale
    time = () if self.num_frames is None else (self.num_frames,)
    return (*time, side, side, 3)

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
  if getattr(model, "mirror_extended", False):
    raise ValueError(
      "config.model.mirror_extended is True; config.data.mirror alone says "
      "whether the clips of training are mirrored: set that"
    )
  if config.model.name == "spynet":
    raise ValueError(
      "config.model.name 'spynet' is a part of networks of clips and is not "
      "trained alone; name one of them, basicvsr for example"
    )
  scale, channels = getattr(model, "scale", 1), getattr(model, "in_channels", 3)
  latent_features = getattr(model, "latent_features", 0)
  side = config.data.patch_size
  if side % scale:
    raise ValueError(
      f"config.data.patch_size {side} is not a multiple of the model's scale "
      f"{scale}"
    )
  num_frames = _num_frames(config, model)
  time = () if num_frames is None else (num_frames,)
  hr_shape = (1, side, side, channels)
  input_shape = (1, *time, side // scale, side // scale, channels)
  if latent_features:
    input_shape = (1, latent_features)
  inputs = jax.ShapeDtypeStruct(input_shape, "float32")
  shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
  if not shapes:
    raise ValueError(
      f"model '{config.model.name}' has no parameters to train; evaluate it "
      f"with eval.py --weights={config.model.name}"
    )
  made = jax.eval_shape(model.apply, shapes, inputs).shape
  frame = None
  if time and len(made) == 4:
    frame = getattr(model, "center_frame", None)
    frame = time[0] // 2 if frame is None else frame
  elif time:
    hr_shape = (1, *time, *hr_shape[1:])
  if made != hr_shape:
    raise ValueError(
      f"model '{config.model.name}' makes images of {made[1:]}, and the crops "
      f"are {hr_shape[1:]}; change config.data.patch_size or config.model"
    )
  schedule, optimizer = _optimizer(config, "schedule", "optimizer")
  loss_fn, frozen = loss_terms(config, hr_shape)
  degradation = None
  if latent_features:
    prepare = make_latent_prepare(latent_features)
  else:
    degradation = _degradation(config, scale)
    prepare = make_prepare(
      scale=scale,
      channels=channels,
      degradation=degradation,
      quantize=config.quantize_lr,
      frame=frame,
    )
  trained = model
  if config.data.mirror and hasattr(model, "mirror_extended"):
    # Half of the flow is the other half backwards, and not computed. Clips that
    # are evaluated are not mirrored.
    trained = model.clone(mirror_extended=True)
  common: dict[str, Any] = {
    "optimizer": optimizer,
    "loss_fn": loss_fn,
    "prepare": prepare,
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
      trained,
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
    step = make_step(trained, accumulate=config.accumulate, **common)
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
    degradation=degradation,
    num_frames=num_frames,
    ema=config.ema_decay > 0,
    input_shape=input_shape,
    hr_shape=hr_shape,
  )


def _num_frames(config: Config, model: Any) -> int | None:
  """Of a clip as the step sees it; None for a model of images."""
  fields = config.data
  if not hasattr(model, "num_frames"):
    if fields.num_frames:
      raise ValueError(
        f"config.data.num_frames {fields.num_frames}: model "
        f"'{config.model.name}' takes images, not clips; set it to 0"
      )
    return None
  if fields.num_frames < 1:
    raise ValueError(
      f"config.data.num_frames {fields.num_frames}: model "
      f"'{config.model.name}' takes clips; set it to the frames of a window, "
      "15 for example"
    )
  intervals = fields.interval
  intervals = (intervals,) if isinstance(intervals, int) else intervals
  if not intervals or min(intervals) < 1:
    raise ValueError(
      f"config.data.interval {fields.interval}: the distance from one frame of "
      "a window to the next is at least 1"
    )
  num_frames = fields.num_frames * (2 if fields.mirror else 1)
  if model.num_frames not in (None, num_frames):
    raise ValueError(
      f"model '{config.model.name}' takes {model.num_frames} frames, and "
      f"config.data.num_frames {fields.num_frames} with config.data.mirror "
      f"{fields.mirror} gives {num_frames}; change them, or "
      "config.model.num_frames"
    )
  return num_frames


def _degradation(config: Config, scale: int) -> degradations.Degradation:
  """That of the recipe, once it is known to make what the model takes."""
  try:
    found = degradations.find(config.degradation)
    side = scale * (2 * found.margin + 1)
    hr = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    make = functools.partial(found.downsample, scale=scale, margin=found.margin)
    jax.eval_shape(make, hr)
  except ValueError as error:
    raise ValueError(f"config.degradation: {error}") from error
  return found


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
  if (config.perceptual.weight or config.discriminator.name) and (
    config.data.num_frames
  ):
    raise ValueError(
      f"config.data.num_frames {config.data.num_frames}: perceptual and "
      "adversarial terms look at images, not at clips; set "
      "config.perceptual.weight to 0 and config.discriminator.name to ''"
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
