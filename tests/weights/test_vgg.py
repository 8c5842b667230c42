"""VGG19's weights from every kind of file, and the command that makes one."""

import io
import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sr_jax.models.vgg import VGG19
from sr_jax.weights import __main__ as command
from sr_jax.weights import load_vgg19
from tests.weights import pth_bytes

RNG = np.random.default_rng(8)
WIDTHS = (2, 3, 4, 3, 2)
CONVS = [
  (f"conv{b}_{i}", width)
  for b, (count, width) in enumerate(
    zip((2, 2, 4, 4, 4), WIDTHS, strict=True), start=1
  )
  for i in range(1, count + 1)
]
PLACES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
LAYERS = ("relu1_2", "conv5_4")
COMMAND = "python -m sr_jax.weights vgg19 vgg19-dcbb9e9d.pth vgg19.safetensors"


def _arrays(count=16):
  """name/kernel (HWIO) and name/bias of the first convolutions."""
  arrays, cin = {}, 3
  for name, width in CONVS[:count]:
    arrays[f"{name}/kernel"] = RNG.standard_normal((3, 3, cin, width), "f4")
    arrays[f"{name}/bias"] = RNG.standard_normal(width, "f4")
    cin = width
  return arrays


ARRAYS = _arrays()


def _torch(arrays, name):
  """As PyTorch lays them out, under the names that `name` makes."""
  out = {}
  for key, value in arrays.items():
    conv, kind = key.split("/")
    i = [c for c, _ in CONVS].index(conv)
    if kind == "kernel":
      value = np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    out[name(conv, PLACES[i]) + ("weight" if kind == "kernel" else kind)] = (
      value
    )
  return out


def _npz(arrays, **options):
  stream = io.BytesIO()
  np.savez(stream, **arrays, **options)
  return stream.getvalue()


def _caffe(arrays):
  """The same kernels for BGR."""
  first = arrays["conv1_1/kernel"][:, :, ::-1]
  return _npz(arrays | {"conv1_1/kernel": first})


_TORCHVISION = _torch(ARRAYS, lambda _, place: f"features.{place}.")
FILES = {
  "torchvision": pth_bytes.save(
    _TORCHVISION | {"classifier.0.weight": np.zeros((5, 2), np.float32)}
  ),
  "torchvision, old": pth_bytes.save(_TORCHVISION, legacy=True),
  "torchvision, parallel": pth_bytes.save(
    _torch(ARRAYS, lambda _, place: f"module.features.{place}.")
  ),
  "basicsr": pth_bytes.save(
    _torch(ARRAYS, lambda conv, _: f"vgg_net.{conv}.")
    | {"mean": np.zeros((1, 3, 1, 1), np.float32)}
  ),
  "safetensors, torchvision": safetensors.numpy.save(_TORCHVISION),
  "safetensors, linen": safetensors.numpy.save(ARRAYS),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_gives_the_same(tmp_path, kind):
  path = tmp_path / "vgg"
  path.write_bytes(FILES[kind])
  model, variables = load_vgg19(path, layers=LAYERS, range_norm=True)
  assert model == VGG19(layers=LAYERS, widths=WIDTHS, range_norm=True)
  assert list(variables) == ["params"]
  have = {
    f"{name}/{key}": value
    for name, layer in variables["params"].items()
    for key, value in layer.items()
  }
  assert sorted(have) == sorted(ARRAYS)
  for key, value in ARRAYS.items():
    np.testing.assert_array_equal(have[key], value, key)


def test_what_comes_after_the_last_layer_is_left(tmp_path):
  path = tmp_path / "vgg"
  path.write_bytes(FILES["torchvision"])
  model, variables = load_vgg19(
    path, layers=["pool1", "relu2_1"], input_norm=False, dtype=jnp.bfloat16
  )
  assert list(variables["params"]) == ["conv1_1", "conv1_2", "conv2_1"]
  assert (model.input_norm, model.dtype) == (False, jnp.bfloat16)
  assert model.layers == ("pool1", "relu2_1")
  features = model.apply(variables, jnp.zeros((1, 4, 6, 3)))
  assert features["pool1"].shape == (1, 2, 3, 2)


def _conv_bgr(kernel, bias, rgb):
  """conv1_1 as Caffe computes it: BGR in [0, 255] less the mean, float64."""
  image = rgb[..., ::-1] * 255 - np.array([103.939, 116.779, 123.68])
  h, w, _ = image.shape
  padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
  out = np.zeros((h, w, kernel.shape[-1])) + bias
  for i in range(3):
    for j in range(3):
      window = padded[i : i + h, j : j + w]
      out += window @ kernel[i, j].astype(np.float64)
  return out


def _first_layer(path):
  model, variables = load_vgg19(path, layers=["conv1_1"])
  with np.load(path) as file:
    kernel, bias = file["conv1_1/kernel"], file["conv1_1/bias"]
  rgb = np.random.default_rng(1).random((9, 7, 3))
  have = model.apply(variables, jnp.asarray(rgb[None], jnp.float32))
  want = _conv_bgr(kernel, bias, rgb)
  np.testing.assert_allclose(
    have["conv1_1"][0], want, 0, 1e-6 * np.abs(want).max()
  )


def test_caffe_s_weights_take_rgb(tmp_path):
  path = tmp_path / "vgg.npz"
  path.write_bytes(_caffe(ARRAYS))
  _first_layer(path)
  _, variables = load_vgg19(path, layers=LAYERS)
  flipped = variables["params"]["conv1_1"]["kernel"]
  np.testing.assert_array_equal(flipped, ARRAYS["conv1_1/kernel"])


@pytest.mark.data
def test_the_real_caffe_weights(data_dir):
  path = data_dir / "weights" / "vgg19_conv1_conv3.npz"
  _first_layer(path)
  model, variables = load_vgg19(path, layers=["conv3_4"])
  assert model.widths == VGG19.widths
  count = sum(x.size for x in jax.tree.leaves(variables))
  assert count == 2_325_568  # of conv1_1 to conv3_4, in torchvision too
  with pytest.raises(ValueError, match=r"lacks conv4_1.*need.*conv3_4\. Ask"):
    load_vgg19(path, layers=["conv4_1"])


@pytest.mark.parametrize("kind", ["caffe", "torchvision"])
def test_the_command_writes_what_is_read(tmp_path, capsys, kind):
  source, target = tmp_path / "source", tmp_path / "vgg19.safetensors"
  source.write_bytes(_caffe(ARRAYS) if kind == "caffe" else FILES[kind])
  assert command.main(["vgg19", str(source), str(target)]) == 0
  assert "conv1_1 to conv5_4" in capsys.readouterr().out
  want, have = (load_vgg19(p, layers=LAYERS) for p in (source, target))
  assert have[0] == want[0]
  jax.tree.map(np.testing.assert_array_equal, have[1], want[1])
  tensors = safetensors.numpy.load_file(target)
  assert sorted(tensors) == sorted(ARRAYS)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    source.name,
    target.name,
  ]


def test_the_command_says_what_is_wrong(tmp_path, capsys):
  target = tmp_path / "out.safetensors"
  assert command.main(["vgg19", "x", str(tmp_path / "out.npz")]) == 2
  assert "does not end in .safetensors" in capsys.readouterr().err
  assert command.main(["vgg19", str(tmp_path / "gone"), str(target)]) == 2
  assert "no VGG19 weight file" in capsys.readouterr().err
  gap = {k: v for k, v in ARRAYS.items() if not k.startswith("conv2_2")}
  (tmp_path / "gap.npz").write_bytes(_caffe(gap))
  assert command.main(["vgg19", str(tmp_path / "gap.npz"), str(target)]) == 2
  assert "lacks conv2_2" in capsys.readouterr().err
  assert not target.exists()
  with pytest.raises(SystemExit):
    command.main(["vgg16", "a", "b"])
  capsys.readouterr()


def test_a_missing_file_names_the_command(tmp_path):
  with pytest.raises(FileNotFoundError) as error:
    load_vgg19(tmp_path / "gone", layers=LAYERS)
  assert COMMAND in str(error.value)
  assert "torchvision's ImageNet weights" in str(error.value)


def test_what_lacks_a_layer_says_which(tmp_path):
  path = tmp_path / "vgg.npz"
  path.write_bytes(_caffe(_arrays(8)))
  assert load_vgg19(path, layers=["relu3_4"])
  with pytest.raises(ValueError, match=r"lacks conv4_1, conv4_2, which") as e:
    load_vgg19(path, layers=["conv1_1", "conv4_2"])
  assert "it has conv1_1, conv1_2," in str(e.value)
  assert COMMAND in str(e.value)
  with pytest.raises(ValueError, match="did you mean 'conv5_4'"):
    load_vgg19(path, layers=["conv5_5"])
  with pytest.raises(ValueError, match="give a sequence"):
    load_vgg19(path, layers="conv3_4")


def _header(text):
  """An .npy whose header says something else than there is."""
  text = text.encode().ljust(118) + b"\n"
  return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _entry(content, **options):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", **options) as archive:
    archive.writestr("conv1_1/kernel.npy", content)
  return stream.getvalue()


_HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 999)}"
_OBJECT = "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"
_NAN = ARRAYS["conv1_1/bias"] * np.nan


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "neither a PyTorch checkpoint"),
    (pth_bytes.zip_file([1], {}), "holds no state dict"),
    (pth_bytes.zip_file({"a": 1}, {}), "has no conv1_1 .* but a"),
    (pickle.dumps({"a": 1}), "did not write it"),
    (_npz({"a": np.zeros(2)}), "can be read, but is not VGG19: it has no"),
    (_entry(_header(_HUGE) + bytes(8)), "not an array of its size"),
    (_entry(_header(_OBJECT) + pickle.dumps([1])), "not an array of its size"),
    (
      _entry(bytes(1 << 20), compression=zipfile.ZIP_DEFLATED),
      "far larger than the file",
    ),
    (_entry(b"x", compression=zipfile.ZIP_BZIP2), "in another way"),
    (_caffe(ARRAYS | {"conv1_1/bias": _NAN}), "bias is not finite"),
    (
      _caffe(ARRAYS | {"conv2_1/bias": np.zeros((1, 3))}),
      r"conv2_1/bias is \(1, 3\)",
    ),
    (
      pth_bytes.save(_TORCHVISION | {"features.1.running_mean": np.zeros(2)}),
      "vgg19_bn, which has BatchNorm",
    ),
    (
      pth_bytes.save(_TORCHVISION | {"features.17.weight": np.zeros(2)}),
      "features.17.weight is no convolution of VGG19",
    ),
    (
      safetensors.numpy.save(ARRAYS, {"sr_jax_vgg19": json.dumps([])}),
      "not a readable file",
    ),
    (
      safetensors.numpy.save(
        ARRAYS,
        {"sr_jax_vgg19": json.dumps({"mean": [0, 0, 0], "std": [1, 1, 0]})},
      ),
      "std .* are not of three colours",
    ),
    (
      _caffe(ARRAYS | {"conv1_1/bias": np.zeros(0, np.float32)}),
      r"conv1_1/bias is \(0,\)",
    ),
  ],
)
def test_other_files_are_refused(tmp_path, data, message):
  path = tmp_path / "file"
  path.write_bytes(data)
  with pytest.raises(ValueError, match=message):
    load_vgg19(path, layers=LAYERS)
  with pytest.raises(ValueError, match="is a folder"):
    load_vgg19(tmp_path, layers=LAYERS)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "pth"])
def test_a_damaged_file_is_a_value_error(tmp_path, kind):
  arrays = {k: v for k, v in ARRAYS.items() if k.startswith("conv1")}
  named = _torch(arrays, lambda _, place: f"features.{place}.")
  data = {
    "npz": lambda: _caffe(arrays),
    "safetensors": lambda: safetensors.numpy.save(arrays),
    "pth": lambda: pth_bytes.save(named),
  }[kind]()
  path = tmp_path / "file"
  refused = 0
  for broken in pth_bytes.damage(data, 200):
    path.write_bytes(broken)
    try:
      load_vgg19(path, layers=["conv1_2"])
    except ValueError:
      refused += 1
  assert refused >= 100
