"""The floor plan of docs/architecture.md, enforced on the imports."""

import ast
import pathlib

import pytest

_PACKAGE = pathlib.Path(__file__).parents[1] / "sr_jax"

#: room -> floor. A module imports from its own room and from lower floors.
_FLOORS = {
  "types": 0,
  "sharding": 0,
  "ops": 0,
  "degradations": 1,
  "models": 1,
  "losses": 1,
  "metrics": 1,
  "data": 1,
  "weights": 2,
  "inference": 3,
  "evaluation": 4,
  "training": 5,
}

#: package -> where alone it may be imported (a room, or one of its files)
_OWNERS = {
  "flax.linen": ("models",),
  "orbax": ("training/checkpoints.py",),
  "grain": ("data",),
  "tensorflow_datasets": ("data",),
  "tensorboardX": ("training/writers.py",),
  "ml_collections": ("training", "evaluation"),
}
_FORBIDDEN = ("tensorflow", "torch", "clu", "pickle")

_MODULES = sorted(_PACKAGE.rglob("*.py"))


def _imports(path):
  """Dotted names that a file imports, wherever in it."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      # "from flax import linen" is an import of flax.linen.
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _within(name, package):
  return name == package or name.startswith(package + ".")


def _breaches(path, names):
  """What a file at this place in the package must not import."""
  place = path.relative_to(_PACKAGE).as_posix()
  room = place.split("/")[0].removesuffix(".py")
  for name in names:
    if _within(name, "sr_jax"):
      other = name.split(".")[1] if "." in name else ""
      if room == "__init__" or other == room:
        continue
      # types.py and ops are one floor; types is there for all.
      if other != "types" and _FLOORS[other] >= _FLOORS[room]:
        yield f"{place} (floor {_FLOORS[room]}) imports {name}"
    for package, owners in _OWNERS.items():
      if _within(name, package) and not any(
        place == owner or place.startswith(owner + "/") for owner in owners
      ):
        yield f"{place} imports {name}, which only {owners} may"
    if name == "flax":  # flax.linen would come with it
      yield f"{place} imports flax; name the module of it that is meant"
    for package in _FORBIDDEN:
      if _within(name, package):
        yield f"{place} imports {name}"


@pytest.mark.parametrize("path", _MODULES, ids=lambda p: p.stem)
def test_imports_go_down(path):
  assert not list(_breaches(path, _imports(path)))


def test_every_room_is_on_the_plan():
  rooms = {
    p.name.removesuffix(".py")
    for p in _PACKAGE.iterdir()
    if p.name not in ("__init__.py", "__pycache__")
  }
  assert rooms == set(_FLOORS)


@pytest.mark.parametrize(
  ("place", "name"),
  [
    ("ops/x.py", "sr_jax.models.build"),
    ("losses/x.py", "sr_jax.models"),
    ("weights/x.py", "sr_jax.training"),
    ("ops/x.py", "flax.linen"),
    ("training/loop.py", "orbax.checkpoint"),
    ("evaluation/x.py", "grain"),
    ("data/x.py", "tensorflow.data"),
    ("weights/x.py", "pickle"),
    ("losses/x.py", "flax"),
  ],
)
def test_a_breach_is_seen(place, name):
  assert list(_breaches(_PACKAGE / place, [name]))


def test_entry_scripts_hold_no_logic():
  for name in ("train.py", "eval.py"):
    text = (_PACKAGE.parent / name).read_text()
    assert len(text.splitlines()) < 60, name


def test_no_file_is_two_rooms():
  for path in _MODULES:
    assert len(path.read_text().splitlines()) <= 400, path
    assert path.stem not in ("utils", "util", "helpers", "misc"), path


def test_errors_are_raised_not_asserted():
  for path in _MODULES:
    for node in ast.walk(ast.parse(path.read_text())):
      assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}"
