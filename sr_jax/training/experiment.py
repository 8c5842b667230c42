"""From a ConfigDict to the parts of a run."""

import dataclasses
import difflib
import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath

from sr_jax import degradations, losses, models
from sr_jax.evaluation.published import published
from sr_jax.training.optimizers import make_optimizer
from sr_jax.training.schedules import SCHEDULES, Schedule, warm_up
from sr_jax.training.state import NetState, TrainState
from sr_jax.training.steps import Step, make_prepare, make_step
from sr_jax.types import Config

LOSSES: dict[str, Callable[..., jax.Array]] = {
  "charbonnier": losses.charbonnier,
  "l1": losses.l1,
  "mse": losses.mse,
}


#: Fields that may change when a run goes on; all else changes what it computes.
_MAY_CHANGE = (
  "data.cache",
  "data.data_dir",
  "eval",
  "eval_every",
  "keep_best",
  "keep_last",
  "log_every",
  "max_skipped",
  "mesh",
  "name",
  "published",
  "resume_changed",
  "steps",
)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What a config stands for, before any data or device is touched.

  Attributes:
    model: The generator.
    scale: Its enlargement.
    channels: 1 for Y, 3 for RGB.
    schedule: Learning rate of each step.
    optimizer: Of the generator.
    step: The pure training step.
    margin: Low-resolution pixels of context that a crop of `hr` carries.
    ema: Whether a moving average of the parameters is kept.
    lr_shape: Of one low-resolution crop.
  """

  model: Any
  scale: int
  channels: int
  schedule: Schedule
  optimizer: optax.GradientTransformationExtraArgs
  step: Step
  margin: int
  ema: bool
  lr_shape: tuple[int, int, int, int]

  def init_state(self, key: jax.Array) -> TrainState:
    """The state at step 0; trace it under jit to shard it from birth."""
    variables = self.model.init(key, jnp.zeros(self.lr_shape))
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      generator=NetState.create(variables, self.optimizer, ema=self.ema),
    )


def _bind(
  make: Callable[..., Any],
  section: str,
  given: Mapping[str, Any],
  *,
  later: tuple[str, ...] = (),
) -> Callable[..., Any]:
  """`make` with the fields of a section, its mistakes told by field.

  Raises:
    ValueError: a field that `make` does not take, or one that it lacks.
  """
  parameters = inspect.signature(make).parameters.values()
  known = [
    p.name
    for p in parameters
    if p.kind is not p.VAR_KEYWORD and p.name not in later
  ]
  open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
  for key in given:
    if key not in known and not open_ended:
      close = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
      raise ValueError(
        f"config.{section} has no field '{key}'; did you mean {close}? It "
        f"takes {known}"
      )
  for p in parameters:
    required = p.default is p.empty and p.name in known
    if required and p.name not in given:
      raise ValueError(f"config.{section}.{p.name} is missing")
  return functools.partial(make, **given)


def _named(
  table: Mapping[str, Callable[..., Any]],
  section: str,
  given: Mapping[str, Any],
  *,
  later: tuple[str, ...] = (),
) -> Callable[..., Any]:
  """The function that the section's `name` picks, bound as by `_bind`."""
  arguments = dict(given)
  name = arguments.pop("name", "")
  if name not in table:
    raise ValueError(
      f"config.{section}.name '{name}' is not one of {sorted(table)}"
    )
  return _bind(table[name], section, arguments, later=later)


def _positive(config: Config, *names: str) -> None:
  for name in names:
    value: Any = config
    for part in name.split("."):
      value = value[part]
    if value < 1:
      raise ValueError(f"config.{name} is {value}; it must be at least 1")


def build(config: Config) -> Experiment:
  """Builds the parts and refuses what cannot run, before any compile.

  Raises:
    ValueError: a field is unknown, or its value is of no use.
  """
  _positive(
    config,
    "steps",
    "data.batch_size",
    "data.patch_size",
    "accumulate",
    "log_every",
    "eval_every",
    "keep_last",
    "max_skipped",
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
  for name in ("warm_up_steps", "keep_best"):
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
  if not 0 < config.loss.get("weight", 1.0) < math.inf:
    raise ValueError(f"config.loss.weight {config.loss.weight} is not positive")
  rate = config.schedule.get("learning_rate", 1.0)
  if not 0 < rate < 10:
    raise ValueError(f"config.schedule.learning_rate {rate} is not in (0, 10)")
  if not 0 <= config.ema_decay < 1:
    raise ValueError(f"config.ema_decay {config.ema_decay} is not in [0, 1)")
  model = models.build(**config.model)
  scale, channels = getattr(model, "scale", 1), getattr(model, "in_channels", 3)
  if not jax.eval_shape(model.init, jax.random.key(0), _lr(config, model)):
    raise ValueError(
      f"model '{config.model.name}' has no parameters to train; evaluate it "
      f"with eval.py --weights={config.model.name}"
    )
  schedule = _named(SCHEDULES, "schedule", dict(config.schedule))()
  schedule = warm_up(schedule, config.warm_up_steps)
  optimizer = _bind(
    make_optimizer, "optimizer", dict(config.optimizer), later=("schedule",)
  )(schedule)
  fields = {k: v for k, v in config.loss.items() if k != "weight"}
  loss = _named(LOSSES, "loss", fields, later=("sr", "hr", "weight"))
  factor = config.loss.get("weight", 1.0)
  if config.loss.get("reduction") == "sum":
    # The parts of a batch are averaged, and a sum over each is one of many.
    factor *= config.accumulate
  return Experiment(
    model=model,
    scale=scale,
    channels=channels,
    schedule=schedule,
    optimizer=optimizer,
    step=make_step(
      model,
      optimizer=optimizer,
      loss_fn=lambda sr, hr: factor * loss(sr, hr),
      prepare=make_prepare(
        scale=scale, channels=channels, quantize=config.quantize_lr
      ),
      ema_decay=config.ema_decay,
      accumulate=config.accumulate,
    ),
    margin=degradations.MARGIN,
    ema=config.ema_decay > 0,
    lr_shape=_lr(config, model).shape,
  )


def _lr(config: Config, model: Any) -> jax.ShapeDtypeStruct:
  """Shape of one low-resolution crop of the recipe."""
  scale, channels = getattr(model, "scale", 1), getattr(model, "in_channels", 3)
  if config.data.patch_size % scale:
    raise ValueError(
      f"config.data.patch_size {config.data.patch_size} is not a multiple of "
      f"the model's scale {scale}"
    )
  side = config.data.patch_size // scale
  return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)


def check_unchanged(config: Config, stored: epath.Path) -> None:
  """Refuses to go on with what another config began.

  Args:
    config: Of this process.
    stored: `config.json` of the run, if there is one.

  Raises:
    ValueError: the fields that differ, with both values.
  """
  if not stored.exists() or config.resume_changed:
    return
  text = json.dumps(config.to_dict(), default=list)
  new = _flat(json.loads(text))
  try:
    old = _flat(json.loads(stored.read_text()))
  except ValueError as error:
    raise ValueError(
      f"{stored} is damaged ({error}); delete it if this is the config that "
      "the run was begun with"
    ) from error
  changed = [
    f"config.{key} was {old.get(key)!r}, is {new.get(key)!r}"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
    and not any(key == x or key.startswith(x + ".") for x in _MAY_CHANGE)
  ]
  if changed:
    raise ValueError(
      f"{stored.parent} holds a run of another config: {'; '.join(changed)}. "
      "Give another --workdir, or --config.resume_changed=True to go on with "
      "the new one"
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= _flat(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat
