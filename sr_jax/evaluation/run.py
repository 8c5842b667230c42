"""What eval.py does: networks against benchmarks, then a table of them."""

import dataclasses
import datetime
import functools
import json
import logging
import os
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sr_jax import degradations, hosts, sharding
from sr_jax.data import load_clips, load_images
from sr_jax.evaluation import records, report, shares, tables
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
from sr_jax.evaluation.jobs import (
  USER_ERRORS,
  Job,
  table_jobs,
  wanted_scale,
  weight_jobs,
)
from sr_jax.evaluation.results import BenchmarkResult, known_metrics
from sr_jax.files import check_target, write_whole
from sr_jax.inference import kind

_Prepared = PreparedBenchmark | PreparedClips | None

#: Bytes of images that wait prepared for further networks, about.
_MOST_HELD = 2 << 30


def run(
  *,
  weights: Sequence[str] = (),
  benchmarks: Sequence[str] = (),
  scales: Sequence[str | int] = (),
  table: Sequence[str] = (),
  data_dir: str | None = None,
  ssim_flavour: str | None = None,
  metrics: Sequence[str] = ("psnr", "ssim"),
  niqe_prior: str | None = None,
  model: str | None = None,
  degradation: str | None = None,
  details: bool = False,
  json_path: str | None = None,
  report_path: str | None = None,
  space: int = 1,
) -> int:
  """Evaluates, prints, writes; of several processes the first one.

  Each process measures every so many-th image or clip.

  Args:
    weights: Files, workdirs or interpolations; see `load_network`.
    benchmarks: Names of sets or folders, of images or of clips. By default
      Set5, or with `table` every set that has a published figure.
    scales: By default the weights' own, or every published one.
    table: Published tables to reproduce, instead of `weights`; "all" of them.
    data_dir: Where the named sets and the published weights lie.
    ssim_flavour: Of `metrics.ssim`; by default "per_channel", or with `table`
      what was published.
    metrics: Of psnr, ssim and niqe.
    niqe_prior: File that NIQE needs; see `find_niqe_prior`.
    model: The network of PyTorch checkpoints among the weights; see
      `build_network`.
    degradation: Of clips, one of `DEGRADATIONS`; by default the set's own.
    details: Print what every image scored.
    json_path: Where to write the results as JSON.
    report_path: Where to write them as a page with pictures.
    space: Devices of a host that share out the rows of each image.

  Returns:
    The exit code: 0, 1 where some rows could not be computed, 2 where nothing
    could.
  """
  _set_up_jax()
  console = Console(stderr=True, highlight=False)

  def plan() -> tuple[Mesh | None, list[Job], dict[str, Any]]:
    mesh = sharding.rows_mesh(space)
    wanted = [wanted_scale(scale) for scale in scales]
    options: dict[str, Any] = {
      "data_dir": data_dir,
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
    if report_path and jax.process_count() > 1:
      raise ValueError(
        "--report has pictures, which lie on all hosts; run it on one "
        "(--num_processes=1)"
      )
    if jax.process_index() == 0:
      for path in filter(None, (json_path, report_path)):
        _check_written(path)
    if table:
      jobs = table_jobs(table, wanted, benchmarks, data_dir)
    else:
      jobs = weight_jobs(weights, wanted, benchmarks, model, data_dir)
    clips = [x.dataset for x in jobs if clip_protocol(x.dataset) is not None]
    if mesh is not None and clips:
      raise ValueError(
        f"--space={space} is for images, and '{clips[0]}' holds clips, whose "
        "frames fit a device; leave it out"
      )
    return mesh, jobs, options

  try:
    mesh, jobs, options = hosts.together(plan)
  except USER_ERRORS as error:
    console.print(f"eval.py: {error}", markup=False, soft_wrap=True)
    return 2
  rows = _evaluate(
    [(job, _how(job, options, ssim_flavour)) for job in jobs],
    mesh=mesh,
    keep_outputs=bool(report_path),
    console=console,
  )
  code = None
  if jax.process_index() == 0:
    code = _tell(
      rows,
      console,
      details=details,
      json_path=json_path,
      report_path=report_path,
    )
  return hosts.from_first(code)


def _tell(
  rows: Sequence[tables.Row],
  console: Console,
  *,
  details: bool,
  json_path: str | None,
  report_path: str | None,
) -> int:
  """Prints and writes; the exit code."""
  missed = all(row.result is None for row in rows)
  if missed and not any(row.figure for row in rows):
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
      text = json.dumps(records.as_json(rows), indent=2) + "\n"
      write_whole(epath.Path(json_path).expanduser(), text.encode())
    if report_path:
      page = report.render(
        rows, title="Super-resolution benchmark", subtitle=_subtitle()
      )
      write_whole(epath.Path(report_path).expanduser(), page.encode())
  except OSError as error:
    console.print(f"eval.py: {error}", markup=False, soft_wrap=True)
    return 2
  return 2 if missed else int(any(row.problem for row in rows))


def _how(
  job: Job, options: dict[str, Any], ssim_flavour: str | None
) -> dict[str, Any]:
  """Options of `prepare` for one job: a row of a table has its own."""
  options = {**options, "ssim_flavour": ssim_flavour or "per_channel"}
  if job.of_table and job.published is not None:
    options["ssim_flavour"] = ssim_flavour or job.published.ssim
    figure = job.published.find(job.dataset, job.scale, job.published.colour)
    if figure is not None and figure.degradation:
      options["degradation"] = options["degradation"] or figure.degradation
  return options


def _evaluate(
  jobs: Sequence[tuple[Job, dict[str, Any]]],
  *,
  mesh: Mesh | None,
  keep_outputs: bool,
  console: Console,
) -> list[tables.Row]:
  """The rows of the table, in the order of the jobs, each with its options.

  On all processes, of which the first has the figures of the whole sets.
  """
  rows = []
  prepared: dict[tuple[Any, ...], _Prepared] = {}
  columns = (
    TextColumn("{task.description}"),
    BarColumn(),
    TextColumn("{task.completed}/{task.total}"),
    TimeElapsedColumn(),
  )
  silent = not console.is_terminal or jax.process_index() > 0
  with Progress(
    *columns, console=console, transient=True, disable=silent
  ) as progress:
    task = progress.add_task("", total=None)

    def advance(count: int) -> None:
      progress.advance(task, count)

    for job, options in jobs:
      row = tables.Row(
        label=job.label,
        dataset=job.dataset,
        scale=job.scale,
        published=job.published,
        problem=job.problem,
      )
      title = f"{job.label}, {job.dataset} x{job.scale}"
      how = (options["degradation"], options["ssim_flavour"])
      try:
        job = hosts.together(job.loaded)
        key = (job.dataset, job.scale, job.kind, job.channels, *how)
        if key not in prepared:
          _make_room(prepared)
          progress.reset(task, description=f"{title}: preparing", total=None)
          make = functools.partial(_prepare, job, options, advance)
          prepared[key] = hosts.together(make)
        benchmark = prepared[key]
        images = getattr(benchmark, "images", ())
        count = getattr(benchmark, "num_frames", len(images))
        progress.reset(task, description=title, total=count)
        make = functools.partial(
          _measure, job.network, benchmark, keep_outputs, mesh, advance
        )
        result = hosts.together(make)
      except USER_ERRORS as error:
        rows.append(dataclasses.replace(row, problem=str(error)))
        continue
      parts = hosts.gather(shares.as_share(result))
      if benchmark is None or result is None:
        continue  # more processes than images: the others tell
      result = shares.pooled(result, parts)
      row = dataclasses.replace(row, dataset=benchmark.dataset, images=images)
      found = [x for x in (result, result.on_luma) if x is not None]
      if job.of_table and job.published is not None:
        colour = job.published.colour
        same = [x for x in found if x.protocol.colour == colour]
        found = same or found
      rows += [dataclasses.replace(row, result=x) for x in found]
  return rows


def _make_room(prepared: dict[tuple[Any, ...], _Prepared]) -> None:
  """Drops the sets that were prepared first where they take much memory.

  Of all processes the same ones: what is dropped they prepare together.
  """
  while prepared:
    sets = [x for x in prepared.values() if isinstance(x, PreparedBenchmark)]
    held = sum(a.nbytes for x in sets for a in (*x.lr, *x.hr))
    if max(hosts.gather(held)) < _MOST_HELD:
      return
    del prepared[next(iter(prepared))]


def _prepare(
  job: Job,
  options: dict[str, Any],
  advance: Callable[[int], None],
) -> _Prepared:
  """A set of images or of clips, if the network fits it.

  Of several processes each has a share; None where it has none.
  """
  if job.network is None:
    raise ValueError(job.problem)
  network, options = job.network, dict(options)
  degradation, data_dir = options.pop("degradation"), options.pop("data_dir")
  how = clip_protocol(job.dataset)
  if how is not None:
    if getattr(network.model, "in_channels", 3) != 3:
      raise ValueError("a network on Y cannot be measured on clips, in RGB")
    options.pop("niqe_prior", None)
    clips = shares.share(load_clips(how.dataset, data_dir=data_dir))
    if clips is None:
      return None
    return prepare_clips(
      job.dataset,
      scale=job.scale,
      degradation=degradation,
      clips=clips,
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
  images = shares.share(load_images(job.dataset, data_dir=data_dir))
  if images is None:
    return None
  return prepare(
    job.dataset,
    scale=job.scale,
    channels=network.channels,
    images=images,
    on_image=advance,
    **options,
  )


def _measure(
  network: Any,
  benchmark: _Prepared,
  keep_outputs: bool,
  mesh: Mesh | None,
  advance: Callable[[int], None],
) -> BenchmarkResult | None:
  if benchmark is None:
    return None
  if isinstance(benchmark, PreparedClips):
    return evaluate_clips(
      network.model, network.variables, benchmark, on_frame=advance
    )
  return evaluate(
    network.model,
    network.variables,
    benchmark,
    keep_outputs=keep_outputs,
    mesh=mesh,
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
