"""The loop of every recipe: draw, step, log, evaluate, checkpoint."""

import collections
import contextlib
import json
import os
import time
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from sr_jax import data, sharding, weights
from sr_jax.training import checks
from sr_jax.training import experiment as experiments
from sr_jax.training.checkpoints import (
  CheckpointError,
  Checkpoints,
  abstract,
  has_checkpoint,
  is_disk_full,
)
from sr_jax.training.evaluator import Evaluator
from sr_jax.training.health import Health, UnhealthyError, summary
from sr_jax.training.state import TrainState
from sr_jax.training.steps import compile_step
from sr_jax.training.warm_start import (
  Start,
  read_parts,
  read_start,
  warm_start,
)
from sr_jax.training.writers import Writers
from sr_jax.types import Config
from sr_jax.weights.files import write_whole

#: As a flag gives it, and as the loader takes it.
_CACHE = {"auto": "auto", "True": True, "False": False}


def train(config: Config, workdir: epath.PathLike) -> dict[str, float]:
  """Trains to `config.steps`, from the newest checkpoint where there is one.

  Args:
    config: A recipe; see `configs/common.py` for the fields.
    workdir: Receives checkpoints, weights, metrics, events and samples. A run
      that was stopped goes on where its newest checkpoint stands, and draws
      and computes what it would have unbroken.

  Returns:
    The last evaluation: `"<set>/psnr"`, `"<set>/bicubic_psnr"` and so on.

  Raises:
    ValueError, FileNotFoundError: config or data are of no use, or the config
      is not the one that the run was begun with.
    CheckpointError: a checkpoint could not be written or read.
    UnhealthyError: see `config.max_skipped` and `config.health`.
  """
  # orbax tells a page about each checkpoint, and more when it also raises.
  logging.set_verbosity(logging.FATAL)
  workdir = _absolute(workdir)
  try:
    with contextlib.ExitStack() as stack:
      return _Run(config, workdir, stack).run()
  except Exception as error:
    if is_disk_full(error) and not isinstance(error, CheckpointError):
      raise CheckpointError(
        f"disk full: {workdir} could not be written to; what checkpoints it "
        "has are whole. Free some space and start the same command again"
      ) from error
    raise


class _Run:
  """One process's part of one run."""

  def __init__(
    self, config: Config, workdir: epath.Path, stack: contextlib.ExitStack
  ):
    self.config, self.workdir = config, workdir
    self.main = jax.process_index() == 0
    parts = experiments.build(config)
    self.parts = parts
    self.mesh = sharding.make_mesh(**config.mesh)
    sharding.check_batch(
      self.mesh,
      (config.data.batch_size, *parts.batch_shape),
      scale=parts.scale,
      accumulate=config.accumulate,
    )
    checks.check_unchanged(config, workdir / "config.json")
    self.health = checks.bind(
      Health, "health", dict(config.health), later=("max_skipped",)
    )(max_skipped=config.max_skipped)
    self.evaluator = Evaluator(config, parts)
    self.loader = data.make_loader(
      config.data.train,
      batch_size=config.data.batch_size // jax.process_count(),
      patch_size=config.data.patch_size,
      scale=parts.scale,
      margin=parts.margin,
      seed=config.seed,
      data_dir=config.data.data_dir or None,
      sub_image_step=config.data.sub_image_step,
      scales=tuple(config.data.scales),
      crops_per_image=config.data.crops_per_image,
      augment=config.data.augment,
      cache=_CACHE.get(str(config.data.cache), str(config.data.cache)),
      num_workers=config.data.num_workers,
      max_bad=config.data.max_bad,
      shard_index=jax.process_index(),
      shard_count=jax.process_count(),
      **self._clip_options(),
    )
    _close_at_end(stack, self.loader)
    # Told before there is a folder; a run that goes on needs none.
    self.starts = [] if has_checkpoint(self._saved) else self._read_starts()
    (self.workdir / "weights").mkdir(parents=True, exist_ok=True)
    self.checkpoints = Checkpoints(
      self._saved,
      keep_last=config.keep_last,
      keep_best=config.keep_best,
    )
    _close_at_end(stack, self.checkpoints)
    self.best: float | None = None
    self.anew: list[str] = []
    self.told_bad = 0
    self.state = self._begin()
    if self.main:
      text = json.dumps(config.to_dict(), indent=2, default=list)
      write_whole(self.workdir / "config.json", text.encode())
    self.writers = Writers(
      self.workdir,
      steps=config.steps,
      start=int(self.state.step),
      active=self.main,
    )
    _close_at_end(stack, self.writers)

  def _clip_options(self) -> dict[str, Any]:
    """What the loader needs to know of borders, and of clips."""
    fields, options = self.config.data, {}
    # The frames of clips stay whole.
    if not self.parts.num_frames:
      options["sub_image_size"] = fields.sub_image_size
    if self.parts.degradation:
      options["border"] = self.parts.degradation.border
    if self.parts.num_frames:
      options |= {
        "num_frames": fields.num_frames,
        "interval": fields.interval,
        "random_reverse": fields.random_reverse,
        "mirror": fields.mirror,
      }
    return options

  @property
  def _saved(self) -> epath.Path:
    return self.workdir / "checkpoints"

  def _read_starts(self) -> list[Start]:
    """What the run begins from, where it is not noise."""
    config, model = self.config, self.parts.model
    starts = []
    if config.init_parts:
      data_dir = config.data.data_dir or None
      files = dict(config.init_parts)
      starts.append(read_parts(files, model, data_dir=data_dir))
    if config.init_from:
      freeze = config.optimizer.freeze
      starts.append(read_start(config.init_from, model, freeze=freeze))
    return starts

  def _begin(self) -> TrainState:
    """A fresh state, or that of the newest checkpoint; both as sharded."""
    key = jax.random.key(self.config.seed, impl="rbg")
    shapes = jax.eval_shape(self.parts.init_state, key)
    self.shardings = sharding.state_sharding(self.mesh, shapes)
    if self.checkpoints.latest is not None:
      state, place = self.checkpoints.restore(abstract(shapes, self.shardings))
      self.loader.set_state(place["loader"])
      self.best = place["best"]
      return state
    # Whole on every device, then shared out: this generator compiles ten times
    # faster than the usual one, but draws other numbers where it is sharded.
    init = jax.jit(
      self.parts.init_state, out_shardings=sharding.replicated(self.mesh)
    )
    state = jax.device_put(init(key), self.shardings)
    for start in self.starts or self._read_starts():
      state = warm_start(state, start)
      self.anew += start.missing
    self.starts = []
    return state

  def run(self) -> dict[str, float]:
    """From where the state stands to `config.steps`."""
    config = self.config
    step_fn = compile_step(self.parts.step, self.mesh, self.shardings)
    start = int(self.state.step)
    self._announce(start)
    if start >= config.steps:
      results, notes = self._evaluate(start)
      self._save_weights(results, notes, best=False)
      return results
    key = jax.jit(
      lambda: jax.random.key(config.seed),
      out_shardings=sharding.replicated(self.mesh),
    )()
    frozen = sharding.put(self.mesh, self.parts.frozen)
    batches, pending, results = iter(self.loader), collections.deque(), {}
    since, since_step = time.monotonic(), start
    for step in range(start + 1, config.steps + 1):
      batch = sharding.global_batch(self.mesh, next(batches))
      with jax.transfer_guard("disallow"):
        self.state, metrics = step_fn(self.state, batch, key, frozen)
      pending.append(metrics)
      if len(pending) > 1:  # the host runs one step ahead, no more
        jax.block_until_ready(pending[-2])
      last = step == config.steps
      if step % config.log_every == 0 or last:
        seconds = time.monotonic() - since
        rate = (step - since_step) / max(seconds, 1e-9)
        self._log(step, list(pending), rate)
        pending.clear()
        since, since_step = time.monotonic(), step
      if step % config.eval_every == 0 or last:
        jax.block_until_ready(self.state)
        paused = time.monotonic()
        results, notes = self._evaluate(step)
        if last or self.health.keeps_checkpoint:
          self._checkpoint(results, notes)
        since += time.monotonic() - paused
    self.checkpoints.wait()
    return results

  def _announce(self, start: int) -> None:
    config = self.config
    nets = {config.model.name: self.state.generator}
    if self.state.discriminator is not None:
      nets[config.discriminator.name] = self.state.discriminator
    counts = " against ".join(
      f"{name}, {sum(x.size for x in jax.tree.leaves(net.params)):,} parameters"
      for name, net in nets.items()
    )
    scale = "" if self.parts.latent_features else f"x{self.parts.scale} "
    self.writers.line(
      f"{scale}{counts}; "
      f"{config.data.train}, {self.loader.num_images:,} images; "
      f"{self.mesh.size} {jax.default_backend()} device(s) "
      f"{dict(self.mesh.shape)}; {self.workdir}"
    )
    if start:
      done = ": there is nothing left to train" if start >= config.steps else ""
      self.writers.line(
        f"goes on from step {start:,} of {config.steps:,}{done}"
      )
    if self.anew:
      self.writers.line(
        f"from {config.init_from}, but for what begins anew: {self.anew}"
      )

  def _log(self, step: int, pending: list[Any], rate: float) -> None:
    """One line and one point a period, and what the run's health asks for."""
    config = self.config
    values = [
      {name: float(value) for name, value in metrics.items()}
      for metrics in jax.device_get(pending)
    ]
    verdict = self.health.observe(step, values)
    if verdict.failure:
      self._roll_back(step, verdict.failure)
    scalars = {
      **summary(values),
      "learning_rate": float(self.parts.schedule(step - 1)),
      "images_per_second": rate * config.data.batch_size,
      "bad_records": len(self.loader.bad),
    }
    days, seconds = divmod(round((config.steps - step) / rate), 86400)
    left = time.strftime("%H:%M:%S", time.gmtime(seconds))
    skipped = round(scalars["skipped"])
    game = ""
    if "d_gap" in scalars:
      game = "D(real) {d_real:.2f}  D(fake) {d_fake:.2f}  ".format(**scalars)
    self.writers.line(
      f"step {step:>7,}/{config.steps:,}  loss {scalars.get('loss', 0.0):.4g}  "
      f"{game}learning rate {scalars['learning_rate']:.3g}  "
      f"{scalars['images_per_second']:,.0f} images/s  "
      f"{f'{days}d ' if days else ''}{left} left"
      f"{f'  {skipped} skipped (not finite)' if skipped else ''}"
    )
    for text in self.loader.bad[self.told_bad :]:
      self.writers.line(f"warning: skipped, {text}")
    self.told_bad = len(self.loader.bad)
    if verdict.warning:
      self.writers.line(f"warning: {verdict.warning}")
    self.writers.progress(step, f"{rate:.1f} steps/s")
    self.writers.scalars(step, scalars)

  def _roll_back(self, step: int, reason: str) -> None:
    """Goes on from the networks of the last good checkpoint, or stops.

    The step and the place in the data stay as they are: the same batches
    would end the same way.

    Raises:
      UnhealthyError: the config does not say so, or there is none.
    """
    self.checkpoints.wait()
    last = self.checkpoints.latest
    good = "none was written yet" if last is None else f"is step {last}"
    if not self.health.may_roll_back() or last is None:
      raise UnhealthyError(
        f"{reason}; the last good checkpoint in {self.workdir}: {good}. Lower "
        "config.schedule.learning_rate or set config.optimizer.clip_norm (and "
        "d_schedule, d_optimizer where there is a discriminator)"
      )
    state, _ = self.checkpoints.restore(abstract(self.state, self.shardings))
    here = jax.device_put(np.int32(step), self.shardings.step)
    self.state = state.replace(step=here)
    self.writers.line(
      f"rolled back: {reason}. The networks are those of step {last:,} again; "
      f"the run goes on at step {step:,}"
    )

  def _evaluate(self, step: int) -> tuple[dict[str, float], dict[str, str]]:
    """Figures and pictures of now; see `Evaluator.evaluate`."""
    variables = sharding.to_host(self.mesh, self.state.generator.variables)
    return self.evaluator.evaluate(variables, step, self.writers)

  def _checkpoint(
    self, results: dict[str, float], notes: dict[str, str]
  ) -> None:
    """The weights that eval.py reads; then state and place in the data."""
    psnr = results.get(f"{self.evaluator.first}/psnr")
    best = psnr is not None and (self.best is None or psnr > self.best)
    self.best = psnr if best else self.best
    self._save_weights(results, notes, best=best)
    self.checkpoints.save(
      self.state,
      {"loader": self.loader.get_state(), "best": self.best},
      metrics={"psnr": psnr} if psnr is not None else None,
    )

  def _save_weights(
    self, results: dict[str, float], notes: dict[str, str], *, best: bool
  ) -> None:
    """`weights/last.safetensors`, and `best` where it is."""
    variables = sharding.to_host(self.mesh, self.state.generator.variables)
    if not self.main:
      return
    for name in ("last", "best") if best else ("last",):
      weights.save(
        self.workdir / "weights" / f"{name}.safetensors",
        self.parts.model,
        variables,
        config=self.config.to_dict(),
        figures={"step": int(self.state.step), **results, **notes},
      )


def _absolute(workdir: epath.PathLike) -> epath.Path:
  """The folder of the run, as orbax wants it; a bucket's address as it is."""
  text = str(workdir)
  if "://" not in text:
    text = os.path.abspath(os.path.expanduser(text))
  path = epath.Path(text)
  if path.exists() and not path.is_dir():
    raise ValueError(f"workdir {path} is a file; give another folder")
  return path


def _close_at_end(stack: contextlib.ExitStack, part: Any) -> None:
  """Closes a part of the run; what stopped the run is what is told."""

  def close(kind: Any, *_: Any) -> None:
    hidden = () if kind is None else (Exception,)
    with contextlib.suppress(*hidden):
      part.close()

  stack.push(close)
