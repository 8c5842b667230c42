"""What a run tells: lines, metrics.jsonl, TensorBoard events, pictures."""

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeRemainingColumn,
)
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (  # made when it is imported
  Event,  # pyright: ignore[reportAttributeAccessIssue]
  SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)

from sr_jax.files import is_disk_full, write_whole
from sr_jax.training.experiment import Experiment
from sr_jax.training.state import TrainState
from sr_jax.types import Config

#: Seconds between two writes of events to the disk, or to a bucket.
_FLUSH = 120.0


class _Console(Console):
  """Goes on where nobody reads any more: the log's terminal was closed."""

  def on_broken_pipe(self) -> None:
    self.quiet = True

  def print(self, *args: Any, **options: Any) -> None:
    try:
      super().print(*args, **options)
    except OSError:  # of a terminal that is gone
      self.quiet = True


class Writers:
  """Writes on one process of the run; on the others every call does nothing.

  Args:
    workdir: `metrics.jsonl`, `events.out.*` and `samples/` go here.
    steps: Of the whole run, for the progress bar.
    start: Step at which this process begins. Lines of a former process past
      it (steps that its last checkpoint did not hold) are dropped.
    active: False on all processes but the first.
  """

  def __init__(
    self, workdir: epath.PathLike, *, steps: int, start: int, active: bool
  ):
    self._active = active
    if not active:
      return
    self._workdir = epath.Path(workdir)
    self._jsonl = self._workdir / "metrics.jsonl"
    self._console = _Console(stderr=True, highlight=False, soft_wrap=True)
    self._lines, self._unwritten = [], False
    if self._jsonl.exists():
      lines = self._jsonl.read_bytes().decode(errors="replace").split("\n")
      self._lines = [line for line in lines if _step_of(line) <= start]
    # Not `SummaryWriter`: it writes from a thread, which an error ends, and
    # then waits for ever to hand the next event over.
    self._events: EventsWriter | None = None
    self._flushed = -math.inf
    self._try(self._open)
    self._event(start + 1, session_log=SessionLog(status=SessionLog.START))
    self._progress = Progress(
      TextColumn("{task.description}"),
      BarColumn(),
      MofNCompleteColumn(),
      TextColumn("{task.fields[rate]}"),
      TimeRemainingColumn(),
      console=self._console,
      disable=not self._console.is_terminal,
    )
    self._task = self._progress.add_task(
      "training", total=steps, completed=start, rate=""
    )
    self._progress.start()

  def line(self, text: str) -> None:
    """Says one line on the terminal or in the log."""
    if self._active:
      self._console.print(text, markup=False)

  def progress(self, step: int, rate: str) -> None:
    """Moves the bar, where there is a terminal."""
    if self._active:
      self._progress.update(self._task, completed=step, rate=rate)

  def scalars(
    self,
    step: int,
    values: Mapping[str, float],
    *,
    notes: Mapping[str, str] | None = None,
  ) -> None:
    """Adds a point to every curve; `notes` go beside it in metrics.jsonl."""
    if not self._active:
      return
    finite = {k: v for k, v in values.items() if math.isfinite(v)}
    point = {"step": step, **finite, **(notes or {})}
    # A point that was written before the run was stopped, and is made again.
    last = json.loads(self._lines[-1]) if self._lines else {}
    if last.get("step") == step and last.keys() == point.keys():
      self._lines.pop()
    self._lines.append(json.dumps(point))
    self._write_lines()
    for key, value in finite.items():
      self._event(step, summary=summary.scalar(key, value))

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Keeps a picture, uint8 `[h, w, 3]` RGB, as PNG and in TensorBoard."""
    if not self._active:
      return
    folder = self._workdir / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{step:07d}.png"
    png = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1]
    write_whole(path, png.tobytes())
    self._event(step, summary=summary.image(name, image, dataformats="HWC"))

  def _write_lines(self) -> None:
    """Whole again each time: object stores cannot append."""
    text = "".join(f"{x}\n" for x in self._lines)
    self._unwritten = True
    try:
      write_whole(self._jsonl, text.encode())
      self._unwritten = False
    except Exception as error:  # of a bucket, of any kind
      if is_disk_full(error):
        raise
      self.line(f"warning: {error}; tried again with the next line")

  def _open(self) -> None:
    self._events = EventsWriter(str(self._workdir / "events"))

  def _event(self, step: int, **what: Any) -> None:
    """Adds to the event file, while it can be written."""
    event = Event(wall_time=time.time(), step=step, **what)
    self._try(lambda: self._events and self._events.write_event(event))
    if time.monotonic() - self._flushed > _FLUSH:
      self._try(lambda: self._events and self._events.flush())
      self._flushed = time.monotonic()

  def _try(self, write: Callable[[], Any]) -> None:
    """Gives the event file up at an error: what follows half a record is lost.

    A bucket that does not answer holds the run up once, not every time.
    """
    try:
      write()
    except Exception as error:  # of a bucket, of any kind
      self._events = None
      self.line(
        f"warning: TensorBoard's file ends here, since it could not be written "
        f"({error}); metrics.jsonl has all curves"
      )

  def close(self) -> None:
    """Ends the bar and the event file."""
    if self._active:
      self._progress.stop()
      if self._unwritten:
        self._write_lines()
      self._try(lambda: self._events and self._events.close())


def opening_line(
  config: Config,
  parts: Experiment,
  state: TrainState,
  *,
  images: int,
  mesh: Mesh,
) -> str:
  """What a run is: networks, data and devices.

  Args:
    config: The recipe.
    parts: What is made of it.
    state: Its networks.
    images: That it learns from, or windows of frames.
    mesh: Of the run.

  Returns:
    The line.
  """
  nets = {config.model.name: state.generator}
  if state.discriminator is not None:
    nets[config.discriminator.name] = state.discriminator
  counts = " against ".join(
    f"{name}, {sum(x.size for x in jax.tree.leaves(net.params)):,} parameters"
    for name, net in nets.items()
  )
  return (
    f"{'' if parts.latent_features else f'x{parts.scale} '}{counts}; "
    f"{config.data.train}, {images:,} "
    f"{'windows of frames' if parts.num_frames else 'images'}; "
    f"{mesh.size} {jax.default_backend()} device(s) {dict(mesh.shape)}"
  )


def progress_line(
  step: int, steps: int, scalars: Mapping[str, float], left: float
) -> str:
  """What the log says of a period.

  Args:
    step: The last of it.
    steps: Of the whole run.
    scalars: Of the period.
    left: Seconds to the end.

  Returns:
    The line.
  """
  days, seconds = divmod(round(left), 86400)
  clock = time.strftime("%H:%M:%S", time.gmtime(seconds))
  skipped = round(scalars["skipped"])
  game = ""
  if "d_gap" in scalars:
    game = "D(real) {d_real:.2f}  D(fake) {d_fake:.2f}  ".format(**scalars)
  return (
    f"step {step:>7,}/{steps:,}  loss {scalars.get('loss', 0.0):.4g}  "
    f"{game}learning rate {scalars['learning_rate']:.3g}  "
    f"{scalars['images_per_second']:,.0f} images/s  "
    f"{f'{days}d ' if days else ''}{clock} left"
    f"{f'  {skipped} skipped (not finite)' if skipped else ''}"
  )


def _step_of(line: str) -> float:
  """The step of a line; past every step where a killed process cut it off."""
  try:
    return float(json.loads(line)["step"])
  except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
    return math.inf
