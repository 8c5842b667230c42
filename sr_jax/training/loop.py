"""The loop of every recipe: draw, step, log, evaluate, checkpoint."""

import collections
import contextlib
import json
import time
from typing import Any, NoReturn

import jax
import numpy as np
from absl import logging
from etils import epath

from sr_jax import hosts, sharding, weights
from sr_jax.files import is_disk_full, sweep, write_whole
from sr_jax.training import checks
from sr_jax.training import experiment as experiments
from sr_jax.training.checkpoints import CheckpointError, abstract
from sr_jax.training.claim import Claim, find_workdir, make_folder
from sr_jax.training.evaluator import Evaluator
from sr_jax.training.feed import Watched, open_loader
from sr_jax.training.health import (
  Health,
  UnhealthyError,
  summary,
  to_numbers,
)
from sr_jax.training.recovery import Recovery, can_go_on
from sr_jax.training.state import TrainState
from sr_jax.training.steps import compile_step
from sr_jax.training.stopping import Stopped, StopRequests, close_at_end
from sr_jax.training.warm_start import read_starts, warm_start
from sr_jax.training.writers import Writers, opening_line, progress_line
from sr_jax.types import Config


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
    CheckpointError: a checkpoint could not be written, or none can be read.
    BusyError: another run is in the workdir.
    StalledError: no batch came, see `config.data.timeout`.
    UnhealthyError: see `config.max_skipped` and `config.health`.
    Stopped: by SIGTERM or SIGINT, with all that was done in a checkpoint.
  """
  # orbax tells a page about each checkpoint, and more when it also raises.
  logging.set_verbosity(logging.FATAL)
  workdir = find_workdir(workdir)
  try:
    with contextlib.ExitStack() as stack:
      stop = stack.enter_context(StopRequests())
      return _Run(config, workdir, stack, stop).run()
  except Exception as error:
    told = isinstance(error, (CheckpointError, ValueError))
    if is_disk_full(error) and not told:
      raise CheckpointError(
        f"disk full: {workdir} could not be written to; what checkpoints it "
        "has are whole. Free some space and start the same command again"
      ) from error
    raise


class _Run:
  """One process's part of one run."""

  def __init__(
    self,
    config: Config,
    workdir: epath.Path,
    stack: contextlib.ExitStack,
    stop: StopRequests,
  ):
    self.config, self.workdir, self.stop = config, workdir, stop
    self.main = jax.process_index() == 0
    fields = checks.fields(config)
    hosts.check_alike({f"config.{k}": v for k, v in fields.items()})
    self.parts = parts = hosts.together(lambda: experiments.build(config))
    self.mesh = sharding.make_mesh(**config.mesh)
    sharding.check_batch(
      self.mesh,
      (config.data.batch_size, *parts.batch_shape),
      accumulate=config.accumulate,
    )
    claim = Claim(workdir)
    stack.push(claim.close)
    if hosts.on_all(workdir.is_dir()):
      claim.take()
    hosts.together(
      lambda: checks.check_unchanged(config, workdir / "config.json")
    )
    self.health = checks.bind(
      Health, "health", dict(config.health), later=("max_skipped",)
    )(max_skipped=config.max_skipped)
    # Told before anything is prepared, and before there is a folder; a run that
    # goes on needs none.
    self.starts = hosts.together(
      lambda: [] if can_go_on(workdir) else read_starts(config, parts.model)
    )
    self.evaluator = hosts.together(lambda: Evaluator(config, parts))
    loader = hosts.together(lambda: open_loader(config, parts))
    self.loader = Watched(loader, config.data.timeout)
    close_at_end(stack, self.loader)
    make_folder(self.workdir / "weights")
    claim.meet()
    claim.take()
    if self.main:
      for folder in ("", "weights", "samples"):
        sweep(self.workdir / folder)
    self.recovery = Recovery(
      workdir, keep_last=config.keep_last, keep_best=config.keep_best
    )
    close_at_end(stack, self.recovery)
    hosts.check_alike(
      {
        "number of training images": self.loader.num_images,
        "training images": self.loader.fingerprint,
        "newest checkpoint": self.recovery.newest,
      }
    )
    self.best: float | None = None
    # Metrics of steps that no line tells of yet, and whether the evaluation
    # of the step at which the run was stopped is still to be made.
    self.pending: collections.deque[Any] = collections.deque()
    self.due = False
    self.results: dict[str, float] = {}
    self.anew: list[str] = []
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
    close_at_end(stack, self.writers)
    self.warnings = self.recovery.warnings
    self.warnings[:0] = filter(None, [claim.warning])

  def _begin(self) -> TrainState:
    """A fresh state, or that of the newest checkpoint; both as sharded."""
    key = jax.random.key(self.config.seed, impl="rbg")
    shapes = jax.eval_shape(self.parts.init_state, key)
    self.shardings = sharding.state_sharding(self.mesh, shapes)
    restored = self.recovery.restore(abstract(shapes, self.shardings))
    if restored is not None:
      state, place = restored
      self.loader.set_state(place["loader"])
      self.best = place["best"]
      self.pending.extend(place.get("pending", ()))
      self.due = place.get("due", False)
      if "health" in place:
        self.health.set_state(place["health"])
      return state
    # Whole on every device, then shared out: this generator compiles ten times
    # faster than the usual one, but draws other numbers where it is sharded.
    init = jax.jit(
      self.parts.init_state, out_shardings=sharding.replicated(self.mesh)
    )
    state = jax.device_put(init(key), self.shardings)
    for start in hosts.together(
      lambda: self.starts or read_starts(self.config, self.parts.model)
    ):
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
    self.stop.begin()
    if self.stop.asked():  # while several processes made ready
      self._stop(start)
    if self.due:
      self._look(start)
    elif start >= config.steps:
      self.results, notes = self._evaluate(start)
      self._save_weights(self.results, notes, best=False)
    if start >= config.steps:
      self.recovery.wait()
      return self.results
    key = jax.jit(
      lambda: jax.random.key(config.seed),
      out_shardings=sharding.replicated(self.mesh),
    )()
    frozen = sharding.put(self.mesh, self.parts.frozen)
    batches, pending = iter(self.loader), self.pending
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
      self.due = step % config.eval_every == 0 or last
      asked = self.stop.asked()
      if self.due and not asked:
        jax.block_until_ready(self.state)
        paused = time.monotonic()
        self._look(step)
        since += time.monotonic() - paused
        asked = self.stop.asked()
      if asked and (self.due or not last):
        self._stop(step)
    self.recovery.wait()
    return self.results

  def _look(self, step: int) -> None:
    """An evaluation and its checkpoint.

    Raises:
      Stopped: by a request in between; the evaluation is still due.
    """
    if jax.process_count() > 1:
      # A notice is for all of them, and they meet after a step: what is not
      # written now may have to wait for longer than the notice leaves.
      self.recovery.save_stop(self.state, self._place())
    try:
      with self.stop.at_once():
        self.results, notes = self._evaluate(step)
    except Stopped:
      self._stop(step)
    except Exception:  # no memory for an image, a file that is gone
      if jax.process_count() == 1:
        with contextlib.suppress(Exception):  # the first one is told
          self.recovery.save_stop(self.state, self._place())
      raise
    self.due = False
    if step >= self.config.steps or self.health.keeps_checkpoint:
      self._checkpoint(self.results, notes)

  def _stop(self, step: int) -> NoReturn:
    """Ends the run with all that was done in a checkpoint.

    The networks are not evaluated, and no file of weights is written: the run
    that goes on does what the unbroken one does.
    """
    self.recovery.save_stop(self.state, self._place())
    reason = self.stop.reason
    self.writers.line(
      f"stopped by {reason.name} at step {step:,}, which is in a checkpoint; "
      "the same command goes on from there"
    )
    raise Stopped(reason)

  def _place(self) -> dict[str, Any]:
    """Where the run is, beside its state."""
    return {
      "loader": self.loader.get_state(),
      "best": self.best,
      "pending": to_numbers(self.pending),
      "due": self.due,
      "health": self.health.get_state(),
    }

  def _announce(self, start: int) -> None:
    config = self.config
    opening = opening_line(
      config,
      self.parts,
      self.state,
      images=self.loader.num_images,
      mesh=self.mesh,
    )
    self.writers.line(f"{opening}; {self.workdir}")
    if not start:
      for note in checks.schedule_notes(config):
        self.writers.line(note)
    else:
      done = ": there is nothing left to train" if start >= config.steps else ""
      self.writers.line(
        f"goes on from step {start:,} of {config.steps:,}{done}"
      )
    if self.anew:
      self.writers.line(
        f"from {config.init_from}, but for what begins anew: {self.anew}"
      )
    self._warn()

  def _warn(self) -> None:
    while self.warnings:
      self.writers.line(f"warning: {self.warnings.pop(0)}")

  def _log(self, step: int, pending: list[Any], rate: float) -> None:
    """One line and one point a period, and what the run's health asks for."""
    config = self.config
    self.recovery.check()
    values = to_numbers(pending)
    verdict = self.health.observe(step, values)
    if verdict.failure:
      self._roll_back(step, verdict.failure)
    new_bad = self.loader.new_bad(config.data.max_bad)
    scalars = {
      **summary(values),
      "learning_rate": float(self.parts.schedule(step - 1)),
      "images_per_second": rate * config.data.batch_size,
      "bad_records": len(self.loader.bad),
    }
    left = (config.steps - step) / rate
    self.writers.line(progress_line(step, config.steps, scalars, left))
    for text in new_bad:
      self.writers.line(f"warning: skipped, {text}")
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
    self.recovery.wait()
    last = self.recovery.last_good
    good = "none was written yet" if last is None else f"is step {last}"
    restored = None
    if self.health.may_roll_back():
      like = abstract(self.state, self.shardings)
      restored = self.recovery.restore(like, good=True)
      self._warn()
    if restored is None:
      raise UnhealthyError(
        f"{reason}; the last good checkpoint in {self.workdir}: {good}. Lower "
        "config.schedule.learning_rate or set config.optimizer.clip_norm (and "
        "d_schedule, d_optimizer where there is a discriminator)"
      )
    state = restored[0]
    last = int(state.step)
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
    self.recovery.save(
      self.state,
      self._place(),
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
