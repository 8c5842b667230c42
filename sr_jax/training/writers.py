"""What a run tells: lines, metrics.jsonl, TensorBoard events, pictures."""

import json
import math
import time
from collections.abc import Mapping

import cv2
import numpy as np
from etils import epath
from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeRemainingColumn,
)
from tensorboardX import SummaryWriter

from sr_jax.weights.files import write_whole


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
    self._console = Console(stderr=True, highlight=False, soft_wrap=True)
    self._lines = []
    if self._jsonl.exists():
      lines = self._jsonl.read_text().splitlines()
      self._lines = [line for line in lines if _step_of(line) <= start]
    self._events = SummaryWriter(str(self._workdir), purge_step=start + 1)
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
    for key, value in finite.items():
      self._events.add_scalar(key, value, step)
    point = {"step": step, **finite, **(notes or {})}
    # A point that was written before the run was stopped, and is made again.
    last = json.loads(self._lines[-1]) if self._lines else {}
    if last.get("step") == step and last.keys() == point.keys():
      self._lines.pop()
    self._lines.append(json.dumps(point))
    # Whole again each time: object stores cannot append.
    write_whole(self._jsonl, "".join(f"{x}\n" for x in self._lines).encode())

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Keeps a picture, uint8 `[h, w, 3]` RGB, as PNG and in TensorBoard."""
    if not self._active:
      return
    folder = self._workdir / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{step:07d}.png"
    png = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1]
    write_whole(path, png.tobytes())
    self._events.add_image(name, image, step, dataformats="HWC")

  def close(self) -> None:
    """Ends the bar and the event file."""
    if self._active:
      self._progress.stop()
      self._events.close()


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
  except (ValueError, KeyError, TypeError):
    return math.inf
