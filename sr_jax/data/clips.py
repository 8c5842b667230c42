"""From a set's name or a folder's path to video clips: a folder of frames each.

A spec is what it is for images (see `sources`): a set (`"vid4"`), a folder
that holds a folder of frames for each clip, the frames of one clip alone,
several joined by `+`, and `HR:lr=LR` with an LR folder of the same clips.
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Sequence
from typing import overload

from etils import epath

from sr_jax.data import benchmarks, pans, sources

#: Clips of PFNL's sets keep their ground truth in a folder of this name.
_INNER = "truth"

#: `(name, frames in order of time)`.
_Clip = tuple[str, tuple[epath.Path, ...]]


class Clips(Sequence[tuple[str, sources.Images]]):
  """`(name, frames)` of each clip; a frame is decoded when asked for."""

  def __init__(self, clips: Sequence[tuple[str, Sequence[epath.Path]]]):
    self._clips = tuple(clips)

  def __len__(self) -> int:
    return len(self._clips)

  @overload
  def __getitem__(self, index: int) -> tuple[str, sources.Images]: ...
  @overload
  def __getitem__(self, index: slice) -> "Clips": ...
  def __getitem__(self, index):
    if isinstance(index, slice):
      return Clips(self._clips[index])
    name, paths = self._clips[index]
    return name, sources.Images(paths)


def load_clips(
  spec: str,
  *,
  data_dir: str | os.PathLike | None = None,
  split: str | None = None,
) -> Clips:
  """The whole clips of a set or folder, for evaluation.

  Args:
    spec: A set's name in upper or lower case, a folder, or several joined by
      `+`.
    data_dir: Directory that holds the named sets; by default the environment
      variable SR_JAX_DATA, else ~/data.
    split: "test" unless given: of REDS it is REDS4, of Vimeo-90K the clips of
      its test list.

  Returns:
    A sequence of `(name, frames)`; the frames of a clip are a sequence of
    `(name, image)`, the image RGB uint8 `[h, w, 3]` decoded as it is taken.

  Raises:
    FileNotFoundError: the set or folder is not there.
    ValueError: it is empty or incomplete; on access, a file is corrupt.
  """
  found = []
  for source in resolve_clips(spec, data_dir=data_dir, split=split or "test"):
    start = 0
    for name, length in source.clips:
      found.append((name, source.hr[start : start + length]))
      start += length
  return Clips(found)


def resolve_clips(
  spec: str,
  *,
  data_dir: str | os.PathLike | None = None,
  split: str = "train",
  scale: int | None = None,
) -> list[sources.Source]:
  """Finds the frames of the clips that a spec names.

  Args:
    spec: See this module's docstring.
    data_dir: Directory that holds the named sets; by default the environment
      variable SR_JAX_DATA, else ~/data.
    split: "train" or "test". Only REDS and Vimeo-90K have two.
    scale: HR side over LR side, with which the LR files' names may end.

  Returns:
    One source for each part between `+`, with `clips`.

  Raises:
    FileNotFoundError: a set or folder is not there; says where to get it.
    ValueError: a folder has no clips, or a named set not its own number of
      clips or frames; an HR frame has no LR partner, or an LR one no HR.
  """
  found = []
  for name, lr_folder in sources.parse(spec, split):
    source = _find(name, sources.data_root(data_dir), split)
    if lr_folder:
      lr = list_clips(epath.Path(lr_folder).expanduser())
      source = dataclasses.replace(source, lr=_pair(source, lr, scale))
    found.append(source)
  return found


def list_clips(folder: epath.Path) -> list[_Clip]:
  """The clips in a folder, by name; of a folder of frames, that one clip.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it holds no frames, or both frames and folders of frames, or a
      folder beside those of frames that holds none.
  """
  if not folder.is_dir():
    raise FileNotFoundError(f"the folder {folder} does not exist")
  own = _frames(folder)
  clips = _inside(folder)
  if own and clips:
    raise ValueError(
      f"{folder} holds {len(own)} images, and the folder "
      f"{clips[0][0]!r} with images too; a folder of clips has a folder for "
      "each and no images beside them"
    )
  if own:
    return [(folder.name, own)]
  if not clips:
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir())
    raise ValueError(
      f"{folder} holds no clips: neither images ({', '.join(sources.SUFFIXES)})"
      f" nor folders of images; its folders are {inside[:9]}. What is expected "
      "is a folder of frames for each clip"
    )
  given = {name for name, _ in clips}
  for path in sorted(folder.iterdir()):
    if path.is_dir() and path.name not in given and path.name[0] != ".":
      raise ValueError(
        f"{path} holds no images, and the folders beside it are clips; "
        "complete it or remove it"
      )
  return clips


def is_clips(spec: str) -> bool:
  """Whether a spec names clips rather than images, as far as can be told."""
  for name, _ in sources.parse(spec, "test"):
    folder = epath.Path(name).expanduser()
    if name.lower() in ("pans", *benchmarks.NAMED_CLIPS):
      continue
    if name.lower() in benchmarks.NAMED_SETS or not folder.is_dir():
      return False
    if sources.image_files(folder) or not _inside(folder):
      return False
  return True


def _find(name: str, root: epath.Path, split: str) -> sources.Source:
  known = name.lower()
  if known == "pans":
    return _source(known, split, pans.pans(split))
  if known in benchmarks.NAMED_CLIPS:
    if split == "test":
      known = benchmarks.NAMED_CLIPS[known].test or known
    return _source(known, split, _named(known, root))
  folder = epath.Path(name).expanduser()
  if name and folder.is_dir():
    return _source(folder.name, split, list_clips(folder))
  names = ["pans", *benchmarks.NAMED_CLIPS]
  if known == "photos" or known in benchmarks.NAMED_SETS:
    hint = " It is a set of images."
  else:
    near = difflib.get_close_matches(known, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
  raise FileNotFoundError(
    f"{name!r} is neither a folder nor a known set of clips.{hint} Sets: "
    f"{', '.join(names)}."
  )


def _source(name: str, split: str, clips: Sequence[_Clip]) -> sources.Source:
  return sources.Source(
    name=name,
    split=split,
    hr=tuple(path for _, frames in clips for path in frames),
    clips=tuple((clip, len(frames)) for clip, frames in clips),
  )


def _pair(
  source: sources.Source, lr: Sequence[_Clip], scale: int | None
) -> tuple[epath.Path, ...]:
  """The LR partners of all frames, clip by clip."""
  by_name = dict(lr)
  partners: list[epath.Path] = []
  start = 0
  for name, length in source.clips:
    hr = source.hr[start : start + length]
    start += length
    frames = by_name.pop(name, None)
    if frames is None and len(lr) == len(source.clips) == 1:
      frames = by_name.popitem()[1]  # the frames of one clip, given as such
    if frames is None:
      raise ValueError(
        f"clip {name!r} ({hr[0].parent}) has no partner in "
        f"{lr[0][1][0].parent.parent}; its clips are {sorted(dict(lr))[:9]}"
      )
    partners += sources.pair(hr, frames, scale)
  if by_name:
    path = min(frames[0].parent for frames in by_name.values())
    raise ValueError(f"{path} has no partner among the clips of {source.name}")
  return tuple(partners)


def _named(name: str, root: epath.Path) -> list[_Clip]:
  """The clips of a named set, all of them."""
  info = benchmarks.NAMED_CLIPS[name]
  problems = []
  for part in info.folders:
    folder = sources.ignoring_case(root, part)
    if folder is None:
      continue
    if info.index:
      clips, problem = _indexed(folder, info)
    else:
      clips = _chosen(folder, info)
      problem = f"{folder} holds {len(clips)}" if clips else ""
    wrong = [
      (clip, frames) for clip, frames in clips if _odd(info, clip, frames)
    ]
    if len(clips) == info.count and not wrong:
      return clips
    if wrong:
      clip, frames = wrong[0]
      problem = (
        f"{folder / clip} holds {len(frames)} frames where "
        f"{_expected(info, clip) or 'no such clip'} are expected"
      )
      problem += f", and so {len(wrong) - 1} more" if len(wrong) > 1 else ""
    if problem:
      problems.append(problem)
  if problems:
    raise ValueError(
      f"{name!r} has {info.count:,} clips of {_frames_text(info)} frames, but "
      f"{'; '.join(problems)}. Complete it, or give the folder's path in place "
      "of the name to take it as it is."
    )
  index = f", beside {info.index}" if info.index else ""
  raise FileNotFoundError(
    f"{name!r} is not in {root}. Get it from {info.where} and put its "
    f"{info.count:,} clips, a folder of {_frames_text(info)} frames each, into "
    f"{root / info.folders[0]}{index}; or say where it is with --data_dir or "
    "the environment variable SR_JAX_DATA."
  )


def _chosen(folder: epath.Path, info: benchmarks.NamedClips) -> list[_Clip]:
  """The clips of a set in one folder, and in those beside it."""
  clips = [
    clip
    for clip in _inside(folder)
    if clip[0] not in info.held_out and clip[0] in (info.names or (clip[0],))
  ]
  for path in info.beside:
    if not clips or len(clips) >= info.count:
      break
    more = folder
    for step in path.split("/"):
      more = more.parent if step == ".." else more / step
    clips += [(f"{more.name}/{name}", frames) for name, frames in _inside(more)]
  return clips


def _indexed(
  folder: epath.Path, info: benchmarks.NamedClips
) -> tuple[list[_Clip], str]:
  """The clips that a list names, or what is wrong with the list."""
  path = folder.parent / info.index
  if not path.exists():
    return [], f"{path}, the list of its clips, is missing"
  names = [line.strip() for line in path.read_text().splitlines()]
  names = [name for name in names if name]
  if len(names) != info.count:
    return [], f"{path} lists {len(names):,}"
  return [(name, _frames(folder / name)) for name in names], ""


def _expected(info: benchmarks.NamedClips, clip: str) -> int | None:
  if isinstance(info.frames, int):
    return info.frames
  return info.frames.get(clip.lower())


def _odd(info: benchmarks.NamedClips, clip: str, frames: Sequence) -> bool:
  return len(frames) != _expected(info, clip)


def _frames_text(info: benchmarks.NamedClips) -> str:
  if isinstance(info.frames, int):
    return str(info.frames)
  return ", ".join(f"{count} ({name})" for name, count in info.frames.items())


def _inside(folder: epath.Path) -> list[_Clip]:
  """The folders of a folder that hold frames, or a folder "truth" of them."""
  if not folder.is_dir():
    return []
  found = []
  for path in sorted(folder.iterdir(), key=lambda path: _natural(path.name)):
    if path.name.startswith(".") or not path.is_dir():
      continue
    frames = _frames(path) or _frames(path / _INNER)
    if frames:
      found.append((path.name, frames))
  return found


def _frames(folder: epath.Path) -> tuple[epath.Path, ...]:
  """The images of a folder in order of time: 2.png comes before 10.png."""
  return tuple(
    sorted(sources.image_files(folder), key=lambda path: _natural(path.stem))
  )


def _natural(name: str) -> list[tuple[int, str]]:
  """Sorts numbers in a name by their value."""
  return [
    (int(part), "") if part.isdecimal() else (-1, part)
    for part in re.split(r"(\d+)", name)
    if part
  ]
