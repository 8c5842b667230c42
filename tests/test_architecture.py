"""The floor plan of docs/architecture.md, enforced on the imports."""

import ast
import pathlib

import pytest

_PACKAGE = pathlib.Path(__file__).parents[1] / "sr_jax"

#: room -> floor. A module imports from its own room and from lower floors.
_FLOORS = {
  "types": 0,
  "sharding": 0,
  "hosts": 0,
  "npz": 0,
  "files": 0,
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
_FORBIDDEN = (
  *("tensorflow", "torch", "clu"),
  # What is read by these may be a program.
  *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib"),
  *("shelve", "marshal", "yaml", "runpy", "code", "tarfile"),
)

#: Calls that run what they are given, or unpack it to where it says. NumPy's
#: load and SciPy's loadmat are among them for what a file can make them
#: allocate; sr_jax.npz and weights.plain_mat are in their place.
_UNSAFE_CALLS = (
  *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
  *("np.load", "numpy.load", "np.fromregex", "scipy.io.loadmat", "loadmat"),
  *("jnp.load", "jax.numpy.load", "torch.load", "yaml.load"),
  *("importlib.import_module", "shutil.unpack_archive"),
  # They import the classes that a build's features.json names.
  *("tfds.load", "tfds.builder", "tfds.builder_from_directory"),
  "tfds.builder_from_directories",
)
_UNSAFE_METHODS = ("extract", "extractall", "load_module", "exec_module")

_MODULES = sorted(_PACKAGE.rglob("*.py"))
_SCRIPTS = [
  *(_PACKAGE.parent / name for name in ("train.py", "eval.py")),
  *sorted((_PACKAGE.parent / "configs").glob("*.py")),
]


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


def _dotted(node):
  """`a.b.c` of a name or an attribute of one, else `.c` or nothing."""
  if isinstance(node, ast.Name):
    return node.id
  if isinstance(node, ast.Attribute):
    return f"{_dotted(node.value)}.{node.attr}"
  return ""


def _unsafe(tree):
  """Line and call of what could run the content of a file."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Call):
      name = _dotted(node.func)
      if name in _UNSAFE_CALLS or (
        isinstance(node.func, ast.Attribute)
        and node.func.attr in _UNSAFE_METHODS
      ):
        yield f"{node.lineno}: {name}"
      for word in node.keywords:
        if word.arg == "allow_pickle" and not (
          isinstance(word.value, ast.Constant) and word.value.value is False
        ):
          yield f"{node.lineno}: {name}(allow_pickle=...)"
        if word.arg == "shell":
          yield f"{node.lineno}: {name}(shell=...)"


@pytest.mark.parametrize("path", _MODULES + _SCRIPTS, ids=lambda p: p.stem)
def test_nothing_that_is_read_is_run(path):
  found = list(_unsafe(ast.parse(path.read_text())))
  if path == _PACKAGE / "data" / "build_once.py":  # which looks at it before
    (opened,) = found
    assert opened.endswith(": tfds.builder_from_directory")
    return
  assert not found


@pytest.mark.parametrize(
  "code",
  [
    "eval(text)",
    "exec(data)",
    "np.load(path)",
    "numpy.load(path, allow_pickle=True)",
    "read(path, allow_pickle=flag)",
    "x = torch.load(path, weights_only=True)",
    "yaml.load(text, Loader=yaml.Loader)",
    "zipfile.ZipFile(path).extractall(folder)",
    "archive.extract(name)",
    "subprocess.run(text, shell=True)",
  ],
)
def test_a_call_that_runs_a_file_is_seen(code):
  assert list(_unsafe(ast.parse(code)))


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
