"""What eval.py is asked to measure: rows of a table, before their figures."""

import dataclasses
import functools
from collections.abc import Sequence

from sr_jax.evaluation.clip_protocols import clip_protocol
from sr_jax.evaluation.networks import (
  INTERPOLATIONS,
  Network,
  load_enlarger,
  load_network,
  weight_folders,
)
from sr_jax.evaluation.published import Published, families, plain
from sr_jax.inference import kind

#: What a user can put right; anything else keeps its traceback.
USER_ERRORS = (ValueError, OSError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """One network at one scale on one set: a row, or why there is none.

  Attributes:
    label: Of the network.
    dataset: As the user or the table calls it.
    scale: Enlargement.
    network: None where there is a problem, or until `loaded`.
    published: What it is compared with.
    of_table: It is a row of a published table: measured as that was, on its
      colour alone, with its SSIM and, of clips, its degradation.
    problem: Why there is no network.
    spec: Of the network that is loaded when its turn comes: a table has more of
      them than memory should hold.
  """

  label: str
  dataset: str
  scale: int
  network: Network | None = None
  published: Published | None = None
  of_table: bool = False
  problem: str = ""
  spec: str = ""

  def loaded(self) -> "Job":
    """With its network.

    Raises:
      FileNotFoundError, ValueError: as `load_network`; or `problem`.
    """
    if self.problem:
      raise ValueError(self.problem)
    if self.network is not None:
      return self
    return dataclasses.replace(
      self, network=_load_network(self.spec, scale=self.scale)
    )

  @property
  def kind(self) -> str | None:
    """What the network restores at once."""
    return self.network and kind(self.network.model)

  @property
  def channels(self) -> int | None:
    """That the network takes."""
    return self.network and self.network.channels


#: A row's network is mostly that of the row before, or of another scale.
_load_network = functools.lru_cache(maxsize=4)(load_network)


def wanted_scale(text: str | int) -> int:
  """An entry of --scales.

  Raises:
    ValueError: it is no positive whole number.
  """
  try:
    scale = int(text)
  except ValueError:
    scale = 0
  if scale < 1:
    raise ValueError(f"--scales: '{text}' is not a positive whole number")
  return scale


def weight_jobs(
  weights: Sequence[str],
  scales: Sequence[int],
  benchmarks: Sequence[str],
  model: str | None,
  data_dir: str | None,
) -> list[Job]:
  """Every entry of --weights on every set, at every scale."""
  jobs = []
  for spec in weights:
    loaded: dict[int | None, Network] = {}
    for dataset in benchmarks or ["set5"]:
      own: tuple[int | None, ...] = (None,)
      if spec in INTERPOLATIONS:
        own = (2, 3, 4) if clip_protocol(dataset) is None else (4,)
      for scale in scales or own:
        if scale not in loaded:
          loaded[scale] = load_enlarger(
            spec, scale=scale, model=model, data_dir=data_dir
          )
        network = loaded[scale]
        jobs.append(
          Job(
            label=network.label,
            dataset=dataset,
            scale=network.model.scale,
            network=network,
            published=network.published,
          )
        )
  return jobs


def table_jobs(
  names: Sequence[str],
  scales: Sequence[int],
  benchmarks: Sequence[str],
  data_dir: str | None,
) -> list[Job]:
  """Every published figure of the tables, "all" of them or some."""
  known = families()
  chosen = {plain(name) for name in benchmarks}
  jobs = []
  for name in names:
    if name not in (*known, "all"):
      raise ValueError(
        f"--table: '{name}' is not one of {sorted([*known, 'all'])}"
      )
  for name in known if "all" in names else names:
    for entry in known[name]:
      for dataset, scale in entry.figures:
        wanted = not chosen or plain(dataset) in chosen
        if wanted and scale in (scales or {scale}):
          job = Job(
            label=entry.title,
            dataset=dataset,
            scale=scale,
            published=entry,
            of_table=True,
          )
          try:
            found = {"spec": _find(entry, scale, data_dir)}
          except FileNotFoundError as error:
            found = {"problem": str(error)}
          jobs.append(dataclasses.replace(job, **found))
  if not jobs:
    raise ValueError(
      f"--table: nothing was published of {list(names)} for the --benchmarks "
      "and --scales given; leave them out to see what was"
    )
  return jobs


def _find(entry: Published, scale: int, data_dir: str | None) -> str:
  """Where the weights lie.

  Raises:
    FileNotFoundError: says which file to bring, and where to put it.
  """
  spec = entry.weights.get(scale)
  if spec in INTERPOLATIONS:
    return spec
  if spec is None:
    trained = ""
    if entry.recipe:
      trained = f"; train it by {entry.recipe}, and give the run by --weights"
    raise FileNotFoundError(
      f"of {entry.source} no weights can be had that are read here{trained}"
      f"{entry.origin and '; '}{entry.origin}"
    )
  folders = weight_folders(data_dir)
  for folder in folders:
    if (folder / spec).exists():
      return str(folder / spec)
  raise FileNotFoundError(
    f"there is no {folders[-1] / spec}: bring it from {entry.origin}, and put "
    "it there"
  )
