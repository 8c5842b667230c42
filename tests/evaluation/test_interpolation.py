"""The command: table, strip and weights of every alpha, and its messages."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sr_jax import weights
from sr_jax.evaluation import interpolation, pictures
from sr_jax.evaluation.networks import load_network
from sr_jax.models import FSRCNN, MSRResNet, VGGDiscriminator
from sr_jax.ops.resize import imresize
from sr_jax.weights import tree
from sr_jax.weights.native import read_record

_NET = MSRResNet(scale=2, num_features=4, num_blocks=1)


def _save(path, model, seed, brighter=0.0):
  """Random weights; initialising would compile a program for each network."""
  rng = np.random.default_rng(seed)
  flat = {
    key: rng.normal(scale=0.2, size=shape).astype(np.float32)
    for key, shape in tree.shapes(model).items()
  }
  if brighter:
    flat["params/conv_last/bias"] += brighter
  weights.save(path, model, tree.unflatten(flat))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  """The files of two networks that differ to the eye."""
  folder = tmp_path_factory.mktemp("pair")
  paths = []
  for i, name in enumerate(("psnr", "gan")):
    paths.append(str(folder / f"{name}.safetensors"))
    _save(paths[-1], _NET, seed=i, brighter=0.2 * i)
  return paths


@pytest.fixture(scope="module")
def image(tmp_path_factory):
  """A smooth picture with one busy corner."""
  folder = tmp_path_factory.mktemp("images")
  rng = np.random.default_rng(0)
  small = Image.fromarray(rng.integers(0, 256, (10, 11, 3), np.uint8))
  picture = np.array(small.resize((160, 150), Image.Resampling.BICUBIC))
  picture[100:140, 90:150] = rng.integers(0, 256, (40, 60, 3))
  path = folder / "scene.png"
  Image.fromarray(picture).save(path)
  return path


@pytest.fixture(autouse=True)
def _no_prior(tmp_path, monkeypatch):
  monkeypatch.setenv("SR_JAX_DATA", str(tmp_path / "nothing"))


def _panels(path):
  """The pictures under the captions, left to right."""
  strip = np.array(Image.open(path))
  side = strip.shape[0] - 18  # a caption over square windows
  return strip, [
    strip[18:, x : x + side] for x in range(0, strip.shape[1], side + 4)
  ]


def test_table_strip_and_weights(pair, image, tmp_path, capsys):
  strip = tmp_path / "new" / "strip.png"
  code = interpolation.main(
    [
      *pair,
      f"--image={image}",
      f"--strip={strip}",
      "--alphas=0,0.8,1",
      f"--out={tmp_path}/mixed_{{alpha}}.safetensors",
    ]
  )
  printed = capsys.readouterr()
  assert code == 0
  assert [p.name for p in strip.parent.iterdir()] == ["strip.png"]

  # The mixture, made and applied by hand.
  (_, a), (_, b) = (weights.load(path) for path in pair)
  expected = jax.tree.map(
    lambda x, y: np.asarray(0.2 * np.float64(x) + 0.8 * np.float64(y), "f4"),
    a,
    b,
  )
  model, mixed = weights.load(tmp_path / "mixed_0.8.safetensors")
  assert model == _NET
  jax.tree.map(
    lambda x, y: np.testing.assert_array_max_ulp(np.asarray(x), y, 1),
    mixed,
    expected,
  )
  for name, one in (("mixed_0", a), ("mixed_1", b)):
    same = weights.load(tmp_path / f"{name}.safetensors")[1]
    jax.tree.map(np.testing.assert_array_equal, same, one)

  hr = np.array(Image.open(image))
  levels = np.asarray(imresize(hr.astype(np.float64), shape=(75, 80)))
  lr = np.asarray(np.floor(levels.clip(0, 255) + 0.5) / 255, np.float32)
  sr = np.asarray(jax.jit(_NET.apply)(expected, lr[None]))[0]
  sr = np.round(sr.clip(0, 1) * 255)

  whole, panels = _panels(strip)
  # Low resolution, bicubic, three alphas, ground truth.
  assert whole.shape == (18 + 128, 6 * 128 + 5 * 4, 3)
  places = [
    (y, x)
    for y in range(hr.shape[0] - 127)
    for x in range(hr.shape[1] - 127)
    if (hr[y : y + 128, x : x + 128] == panels[-1]).all()
  ]
  ((y, x),) = places
  assert y <= 100 <= 140 <= y + 128  # the busy corner is inside
  assert x <= 90 <= 150 <= x + 128
  np.testing.assert_allclose(
    panels[3], sr[y : y + 128, x : x + 128], atol=1, rtol=0
  )
  for one, other in itertools.pairwise(panels):
    assert (one != other).mean() > 0.5

  record = read_record(tmp_path / "mixed_0.8.safetensors")
  origin = {"psnr": pair[0], "gan": pair[1], "alpha": 0.8}
  assert record["config"]["interpolation"] == origin
  figures = record["figures"]
  assert figures["protocol"]["colour"] == "Y"
  # PSNR on Y from NumPy: BT.601 of 8-bit RGB, two pixels cropped.
  weight = np.array([65.481, 128.553, 24.966]) / 255
  error = ((sr - hr) @ weight)[2:-2, 2:-2]
  psnr = 10 * np.log10(255**2 / np.mean(error**2))
  assert figures["psnr"] == pytest.approx(psnr, abs=0.01)
  pattern = rf"alpha 0.8 +scene.png +x2 +Y +{figures['psnr']:.2f} "
  assert re.search(pattern + rf"+{figures['ssim']:.4f}", printed.out)
  assert "Y: PSNR in dB and SSIM (per_channel), MATLAB" in printed.out
  assert f"alpha 0 is {pair[0]}, alpha 1 is {pair[1]}" in printed.out
  assert printed.err.startswith("without NIQE: there is no NIQE prior")
  # What is published of the network is not of a mixture.
  mixed = load_network(str(tmp_path / "mixed_0.8.safetensors"))
  assert mixed.published is None


def test_a_folder_is_averaged_and_its_worst_picture_drawn(
  pair, image, tmp_path, capsys
):
  flat = Image.new("RGB", (150, 140), (90, 120, 150))
  folder = tmp_path / "two"
  folder.mkdir()
  flat.save(folder / "a_flat.png")
  Image.open(image).save(folder / "busy.png")
  strips = [tmp_path / "folder.png", tmp_path / "file.png"]
  for strip, what in zip(strips, (folder, image), strict=True):
    options = [f"--image={what}", f"--strip={strip}", "--alphas=0.5"]
    assert interpolation.main([*pair, "--no_niqe", *options]) == 0
  assert strips[0].read_bytes() == strips[1].read_bytes()
  printed = capsys.readouterr()
  assert "folder.png: busy, where bicubic is furthest" in printed.out
  assert not printed.err


def test_a_network_on_y_and_niqe(image, tmp_path, capsys):
  rng = np.random.default_rng(1)
  small = Image.fromarray(rng.integers(0, 256, (25, 50, 3), np.uint8))
  wide = tmp_path / "wide.png"
  small.resize((200, 100), Image.Resampling.BICUBIC).save(wide)
  np.savez(
    tmp_path / "mine.npz",
    mu_pris_param=np.linspace(0, 1, 36)[None],
    cov_pris_param=np.eye(36),
    gaussian_window=np.full((7, 7), 1 / 49),
  )
  model = MSRResNet(
    scale=2, in_channels=1, out_channels=1, num_features=4, num_blocks=1
  )
  paths = [str(tmp_path / f"{i}.safetensors") for i in (0, 1)]
  for i, path in enumerate(paths):
    _save(path, model, seed=i)
  options = [f"--strip={tmp_path}/s.png", f"--niqe_prior={tmp_path}/mine.npz"]
  run = [*paths, *options, "--alphas=0.25", f"--image={wide}"]
  assert interpolation.main([*run, f"--out={tmp_path}/m.safetensors"]) == 0
  figures = read_record(tmp_path / "m.safetensors")["figures"]
  printed = capsys.readouterr().out
  assert re.search(rf"alpha 0.25 .* {figures['niqe']:.2f} ", printed)
  assert "prior mine.npz" in printed
  # Too small for NIQE: the message, and the way out.
  run[-1] = f"--image={image}"
  assert interpolation.main(run) == 2
  assert "NIQE needs two blocks" in capsys.readouterr().err
  assert interpolation.main([*run, "--no_niqe"]) == 0


def test_draw_strip_names_the_alphas(monkeypatch):
  seen = []
  draw = pictures.side_by_side
  monkeypatch.setattr(
    pictures, "side_by_side", lambda x: seen.extend(x) or draw(x)
  )
  hr = np.zeros((8, 8, 3), np.uint8)
  interpolation.draw_strip({0.0: hr, 0.2: hr, 1.0: hr}, hr, scale=2)
  assert seen[2:-1] == ["alpha 0", "alpha 0.2", "alpha 1"]


def test_how_it_is_computed_may_differ(pair, tmp_path):
  other = _NET.clone(remat=True, dtype=jnp.bfloat16)
  path = tmp_path / "other.safetensors"
  weights.save(path, other, weights.load(pair[1])[1])
  assert interpolation.load_pair(pair[0], str(path))[0].model == _NET


def test_two_networks(pair, tmp_path):
  others = {
    "num_features 4 and 5": _NET.clone(num_features=5),
    "scale 2 and 3, num_blocks 1 and 2": _NET.clone(scale=3, num_blocks=2),
    "msrresnet and fsrcnn": FSRCNN(num_features=4, num_blocks=1),
  }
  path = tmp_path / "other.safetensors"
  for message, model in others.items():
    _save(path, model, seed=0)
    with pytest.raises(ValueError, match=rf"not of one network: {message};"):
      interpolation.load_pair(pair[0], str(path))
  _save(path, VGGDiscriminator(num_features=1), seed=0)
  with pytest.raises(ValueError, match="is a vgg_discriminator, which"):
    interpolation.load_pair(str(path), str(path))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"--alphas": "0,half"}, "--alphas: 'half' is not a number"),
    ({"--alphas": "0,1.2"}, "--alphas: alpha 1.2 is not in [0, 1]"),
    ({"--alphas": "nan"}, "--alphas: alpha nan is not in"),
    ({"--alphas": "0.2,0.20"}, "--alphas: 0.2 is there twice"),
    ({"--strip": "strip.jpg"}, "'strip.jpg' does not end in .png"),
    ({"--out": "mixed.safetensors"}, "'mixed.safetensors' needs {alpha}"),
    ({"--image": "set6"}, "Did you mean 'set5'?"),
    ({"--image": "gone.png"}, "'gone.png' is neither a folder nor"),
    ({"--niqe_prior": "gone.npz"}, "there is no NIQE prior gone.npz"),
    ({"--out": "{alpha}.npz"}, "--out: '0.npz' does not end in .safetensors"),
    ({"gan": "gone.safetensors"}, "no weight file gone.safetensors"),
    ({"gan": "bicubic"}, "'bicubic' has no weights"),
    ({"--alpha": "0.5"}, "unrecognized arguments: --alpha=0.5; see --help"),
    ({"--image": None}, "arguments are required: --image; see --help"),
  ],
)
def test_bad_input_is_one_line(
  change, message, pair, image, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  given = {"--image": image, "--strip": "s.png", "--alphas": "0,1", **change}
  gan = given.pop("gan", pair[1])
  options = [f"{k}={v}" for k, v in given.items() if v is not None]
  try:
    code = interpolation.main([pair[0], gan, *options])
  except SystemExit as exit:  # from argparse
    code = exit.code
  assert code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("python -m sr_jax.evaluation.interpolation: ")
  assert message in line
  assert not list(tmp_path.iterdir())
