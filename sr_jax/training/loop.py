"""The loop of every recipe: draw, step, log, evaluate, checkpoint."""

import collections
import json
import time
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from sr_jax import data, sharding, weights
from sr_jax.evaluation import benchmark, networks, pictures
from sr_jax.training import experiment as experiments
from sr_jax.training.checkpoints import Checkpoints, abstract
from sr_jax.training.state import TrainState
from sr_jax.training.writers import Writers
from sr_jax.types import Config

#: Side of the sample pictures, in pixels of ground truth.
_SAMPLE_SIDE = 192


class NonFiniteError(RuntimeError):
  """The loss was not finite for too many steps on end."""


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
    ValueError, FileNotFoundError: config or data are of no use.
    CheckpointError: a checkpoint could not be written or read.
    NonFiniteError: see `config.max_skipped`.
  """
  # orbax tells a page about each checkpoint.
  logging.set_verbosity(logging.WARNING)
  return _Run(config, epath.Path(workdir).expanduser()).run()


class _Run:
  """One process's part of one run."""

  def __init__(self, config: Config, workdir: epath.Path):
    self.config, self.workdir = config, workdir
    self.main = jax.process_index() == 0
    parts = experiments.build(config)
    self.parts = parts
    self.mesh = sharding.make_mesh(**config.mesh)
    side = config.data.patch_size + 2 * parts.margin * parts.scale
    sharding.check_batch(self.mesh, (config.data.batch_size, side, side, 3))
    self.loader = data.make_loader(
      config.data.train,
      batch_size=config.data.batch_size // jax.process_count(),
      patch_size=config.data.patch_size,
      scale=parts.scale,
      margin=parts.margin,
      seed=config.seed,
      data_dir=config.data.data_dir or None,
      sub_image_size=config.data.sub_image_size,
      sub_image_step=config.data.sub_image_step,
      scales=tuple(config.data.scales),
      crops_per_image=config.data.crops_per_image,
      augment=config.data.augment,
      cache=config.data.cache,
      num_workers=config.data.num_workers,
      shard_index=jax.process_index(),
      shard_count=jax.process_count(),
    )
    # A folder goes by its last name.
    self.benchmarks = {
      name.rstrip("/").rpartition("/")[2]: self._prepare(name)
      for name in config.eval.benchmarks
    }
    (self.workdir / "weights").mkdir(parents=True, exist_ok=True)
    if self.main:
      _write_text(
        self.workdir / "config.json",
        json.dumps(config.to_dict(), indent=2, default=list),
      )
    self.checkpoints = Checkpoints(
      self.workdir / "checkpoints",
      keep_last=config.keep_last,
      keep_best=config.keep_best,
    )
    self.best: float | None = None
    self.state = self._begin()
    self.writers = Writers(
      self.workdir,
      steps=config.steps,
      start=int(self.state.step),
      active=self.main,
    )

  def _prepare(self, name: str) -> benchmark.PreparedBenchmark:
    """A set to evaluate on, or as much of it as the config asks for."""
    config = self.config
    data_dir = config.data.data_dir or None
    images = data.load_images(name, data_dir=data_dir)
    return benchmark.prepare(
      name,
      scale=self.parts.scale,
      channels=self.parts.channels,
      images=images[: config.eval.max_images or None],
    )

  def _begin(self) -> TrainState:
    """A fresh state, or that of the newest checkpoint; both as sharded."""
    key = jax.random.key(self.config.seed)
    shapes = jax.eval_shape(self.parts.init_state, key)
    self.shardings = sharding.state_sharding(self.mesh, shapes)
    if self.checkpoints.latest is not None:
      state, place = self.checkpoints.restore(abstract(shapes, self.shardings))
      self.loader.set_state(place["loader"])
      self.best = place["best"]
      return state
    init = jax.jit(self.parts.init_state, out_shardings=self.shardings)
    state = init(key)
    if self.config.init_from:
      state = self._warm_start(state)
    return state

  def _warm_start(self, state: TrainState) -> TrainState:
    """Parameters of the same path and shape from another network's."""
    source = networks.load_network(self.config.init_from)
    given = dict(_by_path(source.variables["params"]))
    params = state.generator.params
    missing = [
      path
      for path, leaf in _by_path(params)
      if path not in given or given[path].shape != leaf.shape
    ]
    if len(missing) == len(jax.tree.leaves(params)):
      raise ValueError(
        f"config.init_from '{self.config.init_from}' has no parameter of "
        f"{self.config.model.name}; it has {sorted(given)}"
      )
    if missing and self.main:
      print(f"warm start: {missing} begin anew", flush=True)

    def leaf(path: Any, x: jax.Array) -> jax.Array:
      key = jax.tree_util.keystr(path, simple=True, separator="/")
      return x if key in missing else jax.device_put(given[key], x.sharding)

    params = jax.tree_util.tree_map_with_path(leaf, params)
    net = state.generator.replace(params=params)
    if net.ema_params is not None:
      net = net.replace(ema_params=jax.tree.map(jax.numpy.copy, params))
    return state.replace(generator=net)

  def _compiled(self) -> Any:
    """The step with its randomness, over the mesh, its old state donated."""
    key = jax.random.key(self.config.seed)

    def step(state: TrainState, batch: Any) -> Any:
      return self.parts.step(state, batch, jax.random.fold_in(key, state.step))

    return jax.jit(
      step,
      in_shardings=(self.shardings, None),
      out_shardings=(self.shardings, sharding.replicated(self.mesh)),
      donate_argnums=0,
    )

  def run(self) -> dict[str, float]:
    config, step_fn = self.config, self._compiled()
    start = int(self.state.step)
    self._announce(start)
    batches = iter(self.loader)
    pending: collections.deque = collections.deque()
    skipped_on_end, since, since_step = 0, time.monotonic(), start
    results = {}
    try:
      for step in range(start + 1, config.steps + 1):
        batch = sharding.global_batch(self.mesh, next(batches))
        with jax.transfer_guard("disallow"):
          self.state, metrics = step_fn(self.state, batch)
        pending.append(metrics)
        if len(pending) > 1:  # the host runs one step ahead, no more
          jax.block_until_ready(pending[-2])
        last = step == config.steps
        if step % config.log_every == 0 or last:
          skipped_on_end = self._log(
            step, list(pending), skipped_on_end, since, since_step
          )
          pending.clear()
          since, since_step = time.monotonic(), step
        if step % config.eval_every == 0 or last:
          results = self._evaluate(step)
          self._checkpoint(results)
          since, since_step = time.monotonic(), step
      if start >= config.steps:
        results = self._evaluate(start)
      self.checkpoints.wait()
    finally:
      self.writers.close()
      self.loader.close()
      self.checkpoints.close()
    return results

  def _announce(self, start: int) -> None:
    config = self.config
    params = self.state.generator.params
    count = sum(x.size for x in jax.tree.leaves(params))
    self.writers.line(
      f"{config.model.name} x{self.parts.scale}, {count:,} parameters; "
      f"{config.data.train}, {self.loader.num_images:,} images; "
      f"{self.mesh.size} {jax.default_backend()} device(s) "
      f"{dict(self.mesh.shape)}; {self.workdir}"
    )
    if start:
      self.writers.line(f"goes on from step {start:,} of {config.steps:,}")

  def _log(
    self,
    step: int,
    pending: list[Any],
    skipped_on_end: int,
    since: float,
    since_step: int,
  ) -> int:
    """One line and one point a period; returns the steps skipped on end."""
    config = self.config
    values = jax.device_get(pending)
    seconds = max(time.monotonic() - since, 1e-9)
    for value in values:
      skipped_on_end = skipped_on_end + 1 if value["skipped"] else 0
      if skipped_on_end >= config.max_skipped:
        last = self.checkpoints.latest
        raise NonFiniteError(
          f"loss or gradient not finite for {skipped_on_end} steps on end, "
          f"between steps {since_step + 1 - config.max_skipped} and {step}; "
          f"the last good checkpoint is step {last} in {self.workdir}. Lower "
          "config.schedule.learning_rate or set config.optimizer.clip_norm"
        )
    good = [v for v in values if not v["skipped"]] or values
    rate = (step - since_step) / seconds
    scalars = {
      "loss": float(np.mean([v["loss"] for v in good])),
      "grad_norm": float(np.mean([v["grad_norm"] for v in good])),
      "skipped": float(sum(v["skipped"] for v in values)),
      "learning_rate": float(self.parts.schedule(step - 1)),
      "images_per_second": rate * config.data.batch_size,
    }
    left = time.strftime("%H:%M:%S", time.gmtime((config.steps - step) / rate))
    days = int((config.steps - step) / rate // 86400)
    self.writers.line(
      f"step {step:>7,}/{config.steps:,}  loss {scalars['loss']:.4g}  "
      f"lr {scalars['learning_rate']:.3g}  "
      f"{scalars['images_per_second']:,.0f} images/s  "
      f"{f'{days}d ' if days else ''}{left} left"
      + (
        f"  {scalars['skipped']:.0f} skipped (not finite)"
        if scalars["skipped"]
        else ""
      )
    )
    self.writers.progress(step, f"{rate:.1f} steps/s")
    self.writers.scalars(step, scalars)
    return skipped_on_end

  def _evaluate(self, step: int) -> dict[str, float]:
    """Every benchmark by the protocol of the tables, and a picture of each."""
    variables = jax.device_get(self.state.generator.variables)
    results = {}
    for name, prepared in self.benchmarks.items():
      result = benchmark.evaluate(
        self.parts.model, variables, prepared, keep_outputs=True
      )
      results |= {
        f"{name}/psnr": result.psnr,
        f"{name}/ssim": result.ssim,
        f"{name}/bicubic_psnr": result.bicubic_psnr,
      }
      gain = result.psnr - result.bicubic_psnr
      self.writers.line(
        f"{name} x{self.parts.scale} at step {step:,}: PSNR "
        f"{result.psnr:.2f} dB, bicubic {result.bicubic_psnr:.2f} dB, "
        f"{'better' if gain > 0 else 'worse'} than bicubic by {gain:+.2f} dB"
      )
      panels = pictures.panels(
        prepared.images[0][1],
        {self.config.model.name: result.outputs[0]},
        scale=self.parts.scale,
      )
      window = pictures.busiest_window(panels, _SAMPLE_SIDE)
      self.writers.image(
        step,
        name,
        pictures.side_by_side({k: v[window] for k, v in panels.items()}),
      )
    self.writers.scalars(step, results)
    return results

  def _checkpoint(self, results: dict[str, float]) -> None:
    """State and place in the data, and the weights that eval.py reads."""
    first = next(iter(self.benchmarks), None)
    psnr = results.get(f"{first}/psnr")
    best = psnr is not None and (self.best is None or psnr > self.best)
    self.best = psnr if best else self.best
    self.checkpoints.save(
      self.state,
      {"loader": self.loader.get_state(), "best": self.best},
      metrics={"psnr": psnr} if psnr is not None else None,
    )
    if not self.main:
      return
    variables = jax.device_get(self.state.generator.variables)
    for name in ("last", "best") if best else ("last",):
      weights.save(
        self.workdir / "weights" / f"{name}.safetensors",
        self.parts.model,
        variables,
        config=self.config.to_dict(),
        figures={"step": int(self.state.step), **results},
      )


def _by_path(tree: Any) -> list[tuple[str, Any]]:
  return [
    (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def _write_text(path: epath.Path, text: str) -> None:
  """Writes beside, then renames."""
  beside = path.parent / (path.name + ".tmp")
  beside.write_text(text)
  beside.replace(path)
