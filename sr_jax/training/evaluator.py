"""What a run looks at while it trains: benchmarks, and sample pictures."""

from typing import Any

import jax
import numpy as np

from sr_jax import data, degradations, hosts, sharding
from sr_jax.evaluation import (
  benchmark,
  clips,
  find_niqe_prior,
  pictures,
  shares,
)
from sr_jax.evaluation.clip_protocols import CLIP_PROTOCOLS, clip_protocol
from sr_jax.evaluation.results import BenchmarkResult, known_metrics
from sr_jax.inference import restore_clip
from sr_jax.ops.color import to_8_bits
from sr_jax.training.experiment import Experiment
from sr_jax.training.writers import Writers
from sr_jax.types import Config, Variables

#: Side of the sample pictures, in pixels of ground truth.
_SAMPLE_SIDE = 192

#: Samples of a generator that begins from noise: rows and columns.
_GRID = (8, 8)


class Evaluator:
  """Measures a generator on the recipe's benchmarks and shows what it makes.

  Each process measures every so many-th image or clip, and the scores are
  gathered. A generator that begins from noise has no benchmark: a grid of
  samples, each time of the same noise, is all there is to see.

  Raises:
    ValueError, FileNotFoundError: the benchmarks are of no use.
  """

  def __init__(self, config: Config, parts: Experiment):
    self._config, self._parts = config, parts
    self._benchmarks: dict[
      str, benchmark.PreparedBenchmark | clips.PreparedClips | None
    ] = {}
    if parts.latent_features:
      return
    self._rows = sharding.rows_mesh(config.mesh.space)
    self._metrics = known_metrics(["psnr", *config.eval.metrics.split(",")])
    self._niqe_prior = None
    if "niqe" in self._metrics:
      self._niqe_prior = find_niqe_prior(
        config.eval.niqe_prior or None, data_dir=config.data.data_dir or None
      )
    # A folder goes by its last name.
    names = [x for x in config.eval.benchmarks.split(",") if x]
    labels = [name.rstrip("/").rpartition("/")[2] for name in names]
    if len(set(labels)) < len(labels):
      raise ValueError(
        f"config.eval.benchmarks '{config.eval.benchmarks}' has two of one "
        "name; rename a folder"
      )
    for label, name in zip(labels, names, strict=True):
      self._benchmarks[label] = self._prepare(name)

  def _prepare(
    self, name: str
  ) -> benchmark.PreparedBenchmark | clips.PreparedClips | None:
    """This process's share of a set, or of as much as the config asks for."""
    config, of_clips = self._config, self._parts.num_frames is not None
    how = clip_protocol(name) if of_clips else None
    if of_clips and how is None:
      raise ValueError(
        f"config.eval.benchmarks '{name}' is no set of clips, and model "
        f"'{config.model.name}' restores clips; name one of "
        f"{list(CLIP_PROTOCOLS)}, or a folder of folders of frames"
      )
    load: Any = data.load_clips if of_clips else data.load_images
    try:
      found = load(
        how.dataset if how else name, data_dir=config.data.data_dir or None
      )
    except FileNotFoundError as error:
      raise FileNotFoundError(
        f"{error}\nTo evaluate on something else, --config.eval.benchmarks="
        f"{'pans' if of_clips else 'photos'} or a folder of "
        f"{'clips' if of_clips else 'images'}"
      ) from error
    found = found[: config.eval.max_images or None]
    found = shares.share(found)
    if found is None:
      return None
    if of_clips:
      return clips.prepare_clips(
        name,
        scale=self._parts.scale,
        degradation=config.degradation,
        clips=found,
        metrics=self._metrics,
      )
    return benchmark.prepare(
      name,
      scale=self._parts.scale,
      channels=self._parts.channels,
      images=found,
      metrics=self._metrics,
      niqe_prior=self._niqe_prior,
    )

  @property
  def first(self) -> str | None:
    """The benchmark by whose PSNR the best weights are told, if any."""
    # An adversarial run gives PSNR up: its best by PSNR is where it began.
    if self._parts.discriminator is not None:
      return None
    return next(iter(self._benchmarks), None)

  def evaluate(
    self, variables: Variables, step: int, writers: Writers
  ) -> tuple[dict[str, float], dict[str, str]]:
    """Every benchmark by the protocol of the tables, and a picture of each.

    All processes must call it together.

    Args:
      variables: Of the generator, on the host.
      step: They are of.
      writers: Receive lines, scalars and pictures.

    Returns:
      The figures, and the protocol of each.
    """
    if self._parts.latent_features:
      writers.image(step, "samples", self._grid(variables))
      return {}, {}
    measured = {
      name: self._measure(variables, prepared)
      for name, prepared in self._benchmarks.items()
      if prepared is not None
    }
    told_by_all = hosts.gather(
      {name: shares.as_share(x) for name, (x, *_) in measured.items()}
    )
    told = None
    if jax.process_index() == 0:  # whose share has every first image
      together = {
        name: (shares.pooled(x, [of.get(name) for of in told_by_all]), hr, sr)
        for name, (x, hr, sr) in measured.items()
      }
      told = self._tell(together, step, writers)
    results, notes = hosts.from_first(told)
    return results, notes

  def _tell(
    self,
    measured: dict[str, tuple[BenchmarkResult, np.ndarray, np.ndarray]],
    step: int,
    writers: Writers,
  ) -> tuple[dict[str, float], dict[str, str]]:
    """Lines, scalars and pictures of the whole sets."""
    results, notes = {}, {}
    for name, (result, picture, restored) in measured.items():
      results |= {
        f"{name}/psnr": result.psnr,
        f"{name}/bicubic_psnr": result.bicubic_psnr,
      }
      notes[f"{name}/psnr_protocol"] = str(result.protocol)
      for metric in self._metrics:
        if metric != "psnr":
          protocol = getattr(result, f"{metric}_protocol")
          results[f"{name}/{metric}"] = getattr(result, metric)
          notes[f"{name}/{metric}_protocol"] = str(protocol)
      gain = result.psnr - result.bicubic_psnr
      writers.line(
        f"{name} x{self._parts.scale} ({result.protocol.colour}, crop "
        f"{result.protocol.crop_border}) at step {step:,}: PSNR "
        f"{result.psnr:.2f} dB, bicubic {result.bicubic_psnr:.2f} dB, "
        + (
          f"better than bicubic by {gain:+.2f} dB"
          if gain > 0
          else f"worse than bicubic by {-gain:.2f} dB"
        )
        + (
          f"; NIQE {result.niqe:.2f}, ground truth {result.hr_niqe:.2f}"
          if "niqe" in self._metrics
          else ""
        )
      )
      panels = pictures.panels(
        picture,
        {self._config.model.name: restored},
        scale=self._parts.scale,
        degradation=self._config.degradation,
      )
      window = pictures.busiest_window(panels, _SAMPLE_SIDE)
      writers.image(
        step,
        name,
        pictures.side_by_side({k: v[window] for k, v in panels.items()}),
      )
    writers.scalars(step, results, notes=notes)
    return results, notes

  def _measure(
    self, variables: Variables, prepared: Any
  ) -> tuple[BenchmarkResult, np.ndarray, np.ndarray]:
    """Figures, and one picture: ground truth, and as it was restored."""
    model, scale = self._parts.model, self._parts.scale
    if isinstance(prepared, benchmark.PreparedBenchmark):
      result = benchmark.evaluate(
        model, variables, prepared, keep_outputs=True, mesh=self._rows
      )
      picture = benchmark.ground_truth(prepared.images, 0)[1]
      return result, picture, result.outputs[0]
    result = clips.evaluate_clips(model, variables, prepared)
    # In the middle of the beginning of the first clip.
    _, frames = prepared.clips[0]
    made = degradations.find(prepared.degradation)
    seen = [
      np.asarray(
        made.downsample(
          benchmark.crop_to_multiple(frames[i][1], scale) / 255.0, scale=scale
        ),
        np.float32,
      )
      for i in range(min(len(frames), self._parts.num_frames or 1))
    ]
    middle = len(seen) // 2
    restored = list(restore_clip(model, variables, seen))[middle]
    return result, frames[middle][1], to_8_bits(restored)

  def _grid(self, variables: Variables) -> np.ndarray:
    """Samples side by side, uint8."""
    rows, columns = _GRID
    key = jax.random.key(self._config.seed)
    z = jax.random.normal(key, (rows * columns, self._parts.latent_features))
    samples = jax.jit(self._parts.model.apply)(variables, z)
    images = np.stack([to_8_bits(x) for x in np.asarray(samples)])
    _, h, w, c = images.shape
    grid = images.reshape(rows, columns, h, w, c).swapaxes(1, 2)
    return grid.reshape(rows * h, columns * w, c)
