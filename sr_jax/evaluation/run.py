"""What eval.py does: networks against benchmarks, then a table of them."""

import dataclasses
import datetime
import json
import logging
import os
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sr_jax import degradations
from sr_jax.data.sources import data_root
from sr_jax.evaluation import report, tables
from sr_jax.evaluation.benchmark import (
  PreparedBenchmark,
  evaluate,
  find_niqe_prior,
  prepare,
)
from sr_jax.evaluation.clip_protocols import CLIP_PROTOCOLS, clip_protocol
from sr_jax.evaluation.clips import (
  PreparedClips,
  evaluate_clips,
  prepare_clips,
)
from sr_jax.evaluation.networks import (
  INTERPOLATIONS,
  Network,
  load_enlarger,
  load_network,
)
from sr_jax.evaluation.published import Published, families
from sr_jax.evaluation.results import BenchmarkResult, known_metrics
from sr_jax.inference import kind
from sr_jax.weights.files import check_target, write_whole

#: What a user can put right; anything else keeps its traceback.
USER_ERRORS = (ValueError, FileNotFoundError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
  """One network at one scale on one set: a row, or why there is none."""

  label: str
  dataset: str
  scale: int
  network: Network | None = None
  published: Published | None = None
  problem: str = ""


def run(
  *,
  weights: Sequence[str] = (),
  benchmarks: Sequence[str] = (),
  scales: Sequence[str | int] = (),
  table: Sequence[str] = (),
  data_dir: str | None = None,
  ssim_flavour: str = "per_channel",
  metrics: Sequence[str] = ("psnr", "ssim"),
  niqe_prior: str | None = None,
  model: str | None = None,
  degradation: str | None = None,
  details: bool = False,
  json_path: str | None = None,
  report_path: str | None = None,
) -> int:
  """Evaluates, prints, writes.

  Args:
    weights: Files, workdirs or interpolations; see `load_network`.
    benchmarks: Names of sets or folders, of images or of clips. By default
      Set5, or with `table` every set that has a published figure.
    scales: By default the weights' own, or every published one.
    table: Families of published networks to reproduce, instead of `weights`.
    data_dir: Where the named sets and the published weights lie.
    ssim_flavour: Of `metrics.ssim`.
    metrics: Of psnr, ssim and niqe.
    niqe_prior: File that NIQE needs; see `find_niqe_prior`.
    model: The network of PyTorch checkpoints among the weights; see
      `build_network`.
    degradation: Of clips, one of `DEGRADATIONS`; by default the set's own.
    details: Print what every image scored.
    json_path: Where to write the results as JSON.
    report_path: Where to write them as a page with pictures.

  Returns:
    The exit code: 0, 1 where some rows could not be computed, 2 where nothing
    could.
  """
  _set_up_jax()
  console = Console(stderr=True, highlight=False)
  try:
    wanted = [_scale(scale) for scale in scales]
    options: dict[str, Any] = {
      "data_dir": data_dir,
      "ssim_flavour": ssim_flavour,
      "metrics": known_metrics(metrics),
      "degradation": degradation,
    }
    if degradation:
      degradations.find(degradation)
    if "niqe" in metrics:
      prior = find_niqe_prior(niqe_prior, data_dir=data_dir)
      options["niqe_prior"] = prior
    if bool(weights) == bool(table):
      raise ValueError("give --weights or --table, one of them")
    if table:
      jobs = _table_jobs(table, wanted, benchmarks, data_dir)
    else:
      jobs = _weight_jobs(weights, wanted, benchmarks or ["set5"], model)
    for path in filter(None, (json_path, report_path)):
      _check_written(path)
  except USER_ERRORS as error:
    console.print(f"eval.py: {error}", markup=False, soft_wrap=True)
    return 2
  rows = _evaluate(
    jobs, options, keep_outputs=bool(report_path), console=console
  )
  if all(row.result is None for row in rows):
    for problem in dict.fromkeys(row.problem for row in rows):
      console.print(f"eval.py: {problem}", markup=False, soft_wrap=True)
    return 2
  out = Console()
  if not out.is_terminal:
    out = Console(width=120)
  if details:
    tables.print_details(rows, out)
  tables.print_table(rows, out)
  if any(row.result is not None and row.result.frames for row in rows):
    out.print(_peak_memory(), style="dim", highlight=False)
  try:
    if json_path:
      text = json.dumps(tables.as_json(rows), indent=2) + "\n"
      write_whole(epath.Path(json_path).expanduser(), text.encode())
    if report_path:
      page = report.render(
        rows, title="Super-resolution benchmark", subtitle=_subtitle()
      )
      write_whole(epath.Path(report_path).expanduser(), page.encode())
  except OSError as error:
    console.print(f"eval.py: {error}", markup=False, soft_wrap=True)
    return 2
  return int(any(row.problem for row in rows))


def parse_flags(argv: list[str]) -> list[str]:
  """Parses as absl does, with one line and exit code 2 on a wrong flag."""
  try:
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
      raise flags.Error(
        f"'{rest[1]}' belongs to no flag; lists are written with commas"
      )
  except flags.Error as error:
    print(f"eval.py: {error}; see eval.py --help", file=sys.stderr)
    raise SystemExit(2) from None
  return rest


def _scale(text: str | int) -> int:
  try:
    scale = int(text)
  except ValueError:
    scale = 0
  if scale < 1:
    raise ValueError(f"--scales: '{text}' is not a positive whole number")
  return scale


def _weight_jobs(
  weights: Sequence[str],
  scales: Sequence[int],
  benchmarks: Sequence[str],
  model: str | None,
) -> list[_Job]:
  """Every entry of --weights on every set, at every scale."""
  jobs = []
  for spec in weights:
    loaded: dict[int | None, Network] = {}
    for dataset in benchmarks:
      own: tuple[int | None, ...] = (None,)
      if spec in INTERPOLATIONS:
        own = (2, 3, 4) if clip_protocol(dataset) is None else (4,)
      for scale in scales or own:
        if scale not in loaded:
          loaded[scale] = load_enlarger(spec, scale=scale, model=model)
        network = loaded[scale]
        jobs.append(
          _Job(
            label=network.label,
            dataset=dataset,
            scale=network.model.scale,
            network=network,
            published=network.published,
          )
        )
  return jobs


def _table_jobs(
  names: Sequence[str],
  scales: Sequence[int],
  benchmarks: Sequence[str],
  data_dir: str | None,
) -> list[_Job]:
  """Every published figure of the families whose weights can be had."""
  known = families()
  chosen = {name.lower() for name in benchmarks}
  jobs = []
  for name in names:
    if name not in known:
      raise ValueError(f"--table: '{name}' is not one of {sorted(known)}")
    for entry in known[name]:
      for dataset, scale in entry.figures:
        if dataset in (chosen or {dataset}) and scale in (scales or {scale}):
          job = _Job(
            label=entry.title, dataset=dataset, scale=scale, published=entry
          )
          jobs.append(_load(job, entry.weights or "", data_dir))
  if not jobs:
    raise ValueError(
      f"--table: nothing was published of {list(names)} for the --benchmarks "
      "and --scales given; leave them out to see what was"
    )
  return jobs


def _load(job: _Job, spec: str, data_dir: str | None) -> _Job:
  """The job with its network, or with what is missing."""
  if spec not in INTERPOLATIONS:
    spec = str(data_root(data_dir) / spec)
  try:
    network = load_network(spec, scale=job.scale)
  except USER_ERRORS as error:
    return dataclasses.replace(job, problem=str(error))
  return dataclasses.replace(job, network=network)


def _evaluate(
  jobs: Sequence[_Job],
  options: dict[str, Any],
  *,
  keep_outputs: bool,
  console: Console,
) -> list[tables.Row]:
  """The rows of the table, in the order of the jobs; options of `prepare`."""
  rows = []
  prepared: dict[tuple[str, int, int], PreparedBenchmark | PreparedClips] = {}
  columns = (
    TextColumn("{task.description}"),
    BarColumn(),
    TextColumn("{task.completed}/{task.total}"),
    TimeElapsedColumn(),
  )
  with Progress(
    *columns, console=console, transient=True, disable=not console.is_terminal
  ) as progress:
    task = progress.add_task("", total=None)

    def advance(count: int) -> None:
      progress.advance(task, count)

    for job in jobs:
      row = tables.Row(
        label=job.label,
        dataset=job.dataset,
        scale=job.scale,
        published=job.published,
        problem=job.problem,
      )
      if job.network is None:
        rows.append(row)
        continue
      title = f"{job.label}, {job.dataset} x{job.scale}"
      key = (job.dataset, job.scale, job.network.channels)
      try:
        if key not in prepared:
          progress.reset(task, description=f"{title}: preparing", total=None)
          prepared[key] = _prepare(job, job.network, options, advance)
        benchmark = prepared[key]
        images = getattr(benchmark, "images", ())
        count = getattr(benchmark, "num_frames", len(images))
        progress.reset(task, description=title, total=count)
        result = _measure(job.network, benchmark, keep_outputs, advance)
      except USER_ERRORS as error:
        rows.append(dataclasses.replace(row, problem=str(error)))
        continue
      row = dataclasses.replace(
        row, dataset=benchmark.dataset, images=images, result=result
      )
      rows.append(row)
      if result.on_luma is not None:
        rows.append(dataclasses.replace(row, result=result.on_luma))
  return rows


def _prepare(
  job: _Job,
  network: Network,
  options: dict[str, Any],
  advance: Callable[[int], None],
) -> PreparedBenchmark | PreparedClips:
  """A set of images or of clips, if the network fits it."""
  options = dict(options)
  degradation = options.pop("degradation")
  if clip_protocol(job.dataset) is not None:
    if getattr(network.model, "in_channels", 3) != 3:
      raise ValueError("a network on Y cannot be measured on clips, in RGB")
    options.pop("niqe_prior", None)
    return prepare_clips(
      job.dataset,
      scale=job.scale,
      degradation=degradation,
      on_frame=advance,
      **options,
    )
  if kind(network.model) != "image":
    raise ValueError(
      f"'{job.dataset}' holds images, and the network restores clips; give one "
      f"of {list(CLIP_PROTOCOLS)}, or a folder of folders of frames (if it is "
      "one clip, the folder that it lies in)"
    )
  if degradation and degradation.upper() != "BI":
    raise ValueError(
      f"--degradation={degradation} is for clips; '{job.dataset}' holds "
      "images, which are degraded by MATLAB's bicubic (BI)"
    )
  return prepare(
    job.dataset,
    scale=job.scale,
    channels=network.channels,
    on_image=advance,
    **options,
  )


def _measure(
  network: Network,
  benchmark: PreparedBenchmark | PreparedClips,
  keep_outputs: bool,
  advance: Callable[[int], None],
) -> BenchmarkResult:
  if isinstance(benchmark, PreparedClips):
    return evaluate_clips(
      network.model, network.variables, benchmark, on_frame=advance
    )
  return evaluate(
    network.model,
    network.variables,
    benchmark,
    keep_outputs=keep_outputs,
    on_image=advance,
  )


def _peak_memory() -> str:
  """The most that this process held, and the device where it keeps count."""
  unit = 1 if sys.platform == "darwin" else 1024
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  text = f"peak memory {peak / 2**30:.2f} GiB on the host"
  stats = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    text += f", {stats['peak_bytes_in_use'] / 2**30:.2f} GiB on the device"
  return text


def _set_up_jax() -> None:
  """Keeps compiled programs between runs: a set has a dozen shapes."""
  if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
    home = epath.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    cache = home.expanduser() / "sr_jax" / "eval"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
  # It tells of every backend that is not there.
  logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)


def _subtitle() -> str:
  device = jax.devices()[0].device_kind
  return f"sr_jax on {device}, jax {jax.__version__}, {datetime.date.today()}"


def _check_written(path: str) -> None:
  """Better now than after the figures have been computed."""
  file = epath.Path(path).expanduser()
  folder = file.parent
  if not folder.is_dir():
    raise FileNotFoundError(f"{path}: there is no folder {folder}; make it")
  check_target(file)
