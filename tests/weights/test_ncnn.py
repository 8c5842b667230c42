"""ncnn's files: a small network written here, and the real one."""

import itertools
import struct

import cv2
import jax
import numpy as np
import pytest

from sr_jax.metrics import psnr
from sr_jax.models import RRDBNet, SRVGGNetCompact
from sr_jax.ops.resize import imresize
from sr_jax.weights import from_torch, load, load_ncnn, ncnn_networks, read_ncnn
from tests.weights import pth_bytes

SMALL = RRDBNet(scale=4, num_features=4, num_blocks=2, growth_features=3)
RNG = np.random.default_rng(5)


class _Writer:
  """The graph line by line, as onnx2ncnn and ncnnoptimize write it."""

  def __init__(self, *, fp16):
    self.lines, self.blobs, self.arrays = [], [], {}
    self.fp16 = fp16

  def layer(self, kind, inputs, params):
    out = f"b{len(self.lines)}"
    text = " ".join(f"{key}={value}" for key, value in params.items())
    name = f"l{len(self.lines)}"
    self.lines.append([kind, name, list(inputs), [out], text])
    return out

  def conv(self, name, x, cin, cout, *, leaky=True):
    weight = (0.1 * RNG.standard_normal((cout, cin, 3, 3))).astype(np.float16)
    bias = RNG.standard_normal(cout).astype(np.float32)
    if self.fp16:
      blob = struct.pack("<I", 0x01306B47) + weight.tobytes()
      self.blobs.append(blob + bytes(-len(blob) % 4))
    else:
      self.blobs.append(bytes(4) + weight.astype("<f4").tobytes())
    self.blobs.append(bias.tobytes())
    self.arrays[f"{name}.weight"] = weight.astype(np.float32)
    self.arrays[f"{name}.bias"] = bias
    params = {0: cout, 1: 3, 4: 1, 5: 1, 6: weight.size}
    if leaky:
      params |= {9: 2, -23310: "1,2.000000e-01"}
    return self.layer("Convolution", [x], params)

  def residual(self, x, branch):
    params = {0: 1, -23301: "2,1.0,2.000000e-01"}
    return self.layer("Eltwise", [x, branch], params)

  def rrdbnet(self, features=4, blocks=2, growth=3):
    x = self.layer("Input", [], {})
    x = first = self.conv("conv_first", x, 3, features, leaky=False)
    for i in range(blocks):
      start = x
      for j in (1, 2, 3):
        parts = [x]
        for k in range(1, 6):
          joined = self.layer("Concat", parts, {}) if k > 1 else x
          cin = features + (k - 1) * growth
          cout = growth if k < 5 else features
          name = f"body.{i}.rdb{j}.conv{k}"
          parts.append(self.conv(name, joined, cin, cout, leaky=k < 5))
        x = self.residual(x, parts[-1])
      x = self.residual(start, x)
    x = self.conv("conv_body", x, features, features, leaky=False)
    x = self.layer("BinaryOp", [x, first], {0: 0})
    for name in ("conv_up1", "conv_up2"):
      x = self.layer("Interp", [x], {0: 1, 1: "2.0", 2: "2.000000e+00"})
      x = self.conv(name, x, features, features)
    x = self.conv("conv_hr", x, features, features)
    self.conv("conv_last", x, features, 3, leaky=False)

  def srvggnet(self, features=4, blocks=2, scale=3):
    x = lr = self.layer("Input", [], {})
    widths = [3, *[features] * (blocks + 1), 3 * scale**2]
    for i, (cin, cout) in enumerate(itertools.pairwise(widths)):
      x = self.conv(f"body.{2 * i}", x, cin, cout, leaky=False)
      if i <= blocks:
        slope = RNG.standard_normal(cout).astype(np.float32)
        self.arrays[f"body.{2 * i + 1}.weight"] = slope
        self.blobs.append(slope.tobytes())
        x = self.layer("PReLU", [x], {0: cout})
    x = self.layer("PixelShuffle", [x], {0: scale})
    base = self.layer("Interp", [lr], {0: 1, 1: f"{scale}.0", 2: scale})
    self.layer("BinaryOp", [x, base], {0: 0})

  def save(self, folder):
    """Every blob that is used twice goes through a Split, as ncnn needs it."""
    uses = [blob for line in self.lines for blob in line[2]]
    seen = {}
    rows = []
    for kind, name, inputs, outputs, params in self.lines:
      ins = []
      for blob in inputs:
        seen[blob] = seen.get(blob, -1) + 1
        ins.append(f"{blob}_{seen[blob]}" if uses.count(blob) > 1 else blob)
      rows.append(
        f"{kind:24} {name:20} {len(ins)} {len(outputs)} "
        f"{' '.join([*ins, *outputs])} {params}"
      )
      for blob in outputs:
        count = uses.count(blob)
        if count > 1:
          copies = " ".join(f"{blob}_{i}" for i in range(count))
          rows.append(f"Split split_{blob} 1 {count} {blob} {copies}")
    path = folder / "net.param"
    path.write_text(
      "\n".join(["7767517", f"{len(rows)} {len(uses)}", *rows]) + "\n"
    )
    path.with_suffix(".bin").write_bytes(b"".join(self.blobs))
    return path


@pytest.fixture
def written(tmp_path):
  writer = _Writer(fp16=True)
  writer.rrdbnet()
  return writer.save(tmp_path), writer


def test_layers_and_weights(written):
  path, writer = written
  layers = read_ncnn(path)
  names = [layer.name for layer in layers if layer.kind != "Split"]
  assert names == [line[1] for line in writer.lines]
  convs = [layer for layer in layers if layer.kind == "Convolution"]
  assert all(layer.arrays for layer in convs)
  assert not any(x.arrays for x in layers if x.kind != "Convolution")
  assert convs[1].params[9] == 2
  assert convs[1].params[10] == [0.2]
  weights = [a for layer in convs for a in layer.arrays.values()]
  for have, want in zip(weights, writer.arrays.values(), strict=True):
    np.testing.assert_array_equal(have, want, strict=True)


@pytest.mark.parametrize("fp16", [True, False])
def test_rrdbnet_is_told_by_its_graph(tmp_path, fp16):
  writer = _Writer(fp16=fp16)
  writer.rrdbnet()
  path = writer.save(tmp_path)
  want = from_torch(SMALL, writer.arrays)
  for given in (path, path.with_suffix(".bin")):
    for model, have in (load_ncnn(given), load(given, scale=4)):
      assert model == SMALL
      jax.tree.map(np.testing.assert_array_equal, have, want)
  with pytest.raises(ValueError, match=r"network for x4, and scale 2"):
    load(path, scale=2)


def test_srvggnet_is_told_by_its_graph(tmp_path):
  writer = _Writer(fp16=True)
  writer.srvggnet()
  path = writer.save(tmp_path)
  model, variables = load(path)
  assert model == SRVGGNetCompact(scale=3, num_features=4, num_blocks=2)
  want = from_torch(model, writer.arrays)
  jax.tree.map(np.testing.assert_array_equal, variables, want)
  text = path.read_text()
  for old, new, message in (
    ("0=1 1=3.0", "0=2 1=3.0", "Interp whose number 0 is 1"),
    ("1=3.0", "1=2.0", "Interp whose number 1 is 3"),
    ("BinaryOp  ", "Eltwise  ", "where it has BinaryOp"),
    ("PixelShuffle  ", "ReLU  ", "where it has PixelShuffle"),
  ):
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message) as error:
      load(path)
    assert "like SRVGGNetCompact" in str(error.value)
  writer.layer("Interp", [f"b{len(writer.lines) - 1}"], {0: 3, 1: 0.5, 2: 0.5})
  with pytest.raises(ValueError, match=r"makes the image smaller again.* x3"):
    load(writer.save(tmp_path))


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("Interp", "PixelShuffle", "is a PixelShuffle of .* where it has Interp"),
    ("=1,2.000000e-01", "=1,1.000000e-01", "one without a LeakyReLU"),
    ("1.0,2.000000e-01", "1.0,3.0e-01", "Eltwise whose number 1 is"),
    ("0=4 1=3 4=1", "0=4 1=3 4=0", "Convolution whose number 4 is 1"),
    ("0=1 1=2.0", "0=2 1=2.0", "Interp whose number 0 is 1"),
    (" 0=1 1=2.0 2=2.000000e+00", " 0=1", "Interp whose number 1 is 2"),
    ("BinaryOp  ", "Eltwise  ", "where it has BinaryOp"),
  ],
)
def test_another_graph_is_refused(written, old, new, message):
  path, _ = written
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))
  with pytest.raises(ValueError, match=message) as error:
    load_ncnn(path)
  assert "like RRDBNet x4" in str(error.value)
  assert len(read_ncnn(path)) > 90


def test_the_residual_s_order_counts(written):
  """0.2 x + branch is another network."""
  path, _ = written
  text = path.read_text().replace("2,1.0,2.000000e-01", "2,2.000000e-01,1.0")
  path.write_text(text)
  with pytest.raises(ValueError, match="Eltwise whose number 1"):
    load_ncnn(path)


def test_a_graph_that_goes_on_or_ends_early(written):
  path, writer = written
  text = path.read_text()
  lines = text.splitlines()
  count = len(lines) - 2
  longer = text.replace(f"\n{count} ", f"\n{count + 1} ", 1)
  path.write_text(longer + f"ReLU more 1 1 b{len(writer.lines) - 1} end\n")
  with pytest.raises(
    ValueError, match=r"'more' is a ReLU of .* has nothing more"
  ):
    load_ncnn(path)
  path.write_text("\n".join(["7767517", "1 1", "Input data 0 1 b0"]))
  path.with_suffix(".bin").write_bytes(b"")
  with pytest.raises(ValueError, match="ends too early"):
    load_ncnn(path)


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("7767517", "7767518", "begin with 7767517"),
    ("Concat", "InnerProduct", "type InnerProduct, whose weights"),
    ("6=108", "6=109", "has 109 weights, which is no multiple"),
    ("6=108", "6=72", "quantised"),
    ("0=4", "0=0", "number 0 is 0, not a positive"),
    ("0=4", "0=4.5", "number 0 is 4.5, not a positive"),
    ("0=4", "0=99999999999", "no 32-bit integer"),
    ("0=4", "0=x", "line 4: could not convert"),
    (" 5=1 ", " 5=1 8=1 ", "are quantised"),
    ("=1,2.0", "=2,2.0", "another length"),
    ("l5 ", "l5 9", "line .*not all there"),
    ("Concat", "Kön", "ascii"),
  ],
)
def test_a_text_that_does_not_fit_is_refused(written, old, new, message):
  path, _ = written
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))
  with pytest.raises(ValueError, match=message):
    read_ncnn(path)


def test_every_byte_is_used(written):
  path, _ = written
  weights = path.with_suffix(".bin")
  data = weights.read_bytes()
  weights.write_bytes(data + b"\0")
  with pytest.raises(ValueError, match="1 bytes are left over"):
    read_ncnn(path)
  weights.write_bytes(data[:-1])
  with pytest.raises(ValueError, match="ends within layer"):
    read_ncnn(path)
  weights.write_bytes(struct.pack("<I", 0x000D4B38) + data[4:])
  with pytest.raises(ValueError, match=r"quantised \(flag 0x000d4b38\)"):
    read_ncnn(path)
  weights.unlink()
  for given in (path, weights):
    with pytest.raises(FileNotFoundError, match=r"no .*net.bin.*side by side"):
      read_ncnn(given)


@pytest.mark.parametrize("suffix", [".param", ".bin"])
def test_a_damaged_file_is_a_value_error(written, suffix, monkeypatch):
  path, _ = written
  monkeypatch.setattr(ncnn_networks, "from_torch", lambda model, arrays: arrays)
  file = path.with_suffix(suffix)
  refused = 0
  for broken in pth_bytes.damage(file.read_bytes(), 200):
    file.write_bytes(broken)
    try:
      load_ncnn(path)
    except ValueError:
      refused += 1
  assert refused >= 100  # flipped bits of a weight are not seen


# Of shared/data/README.md: X. Wang et al.'s recipe on DF2K, measured elsewhere.
REALSR = {
  "baby": 31.50,
  "bird": 33.32,
  "butterfly": 27.43,
  "head": 30.77,
  "woman": 28.95,
}


def _figures(data_dir, names, path):
  """PSNR on Y of images of Set5, LR rounded to 8 bits, 4 pixels cropped."""
  model, variables = load(path)
  run = jax.jit(model.apply)
  figures = {}
  for name in names:
    (file,) = (data_dir / "Set5").glob(f"{name}*")
    hr = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    hr = hr[: hr.shape[0] // 4 * 4, : hr.shape[1] // 4 * 4]
    lr = np.round(np.clip(imresize(hr / 255.0, 1 / 4), 0, 1) * 255) / 255
    sr = np.asarray(run(variables, lr[None].astype(np.float32)))[0]
    sr = np.uint8(np.clip(sr, 0, 1) * 255 + 0.5)
    figures[name] = float(psnr(sr, hr, crop_border=4, y_channel=True))
  return model, variables, figures


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_the_real_weights_give_their_figures(data_dir, real_weights):
  path = real_weights("realsr/REALSR_DF2K_UP4X.param")
  model, variables, figures = _figures(data_dir, REALSR, path)
  assert model == RRDBNet(scale=4)
  assert sum(x.size for x in jax.tree.leaves(variables)) == 16_697_987
  assert abs(np.mean(list(figures.values())) - 30.39) < 0.01
  for name, figure in REALSR.items():
    assert abs(figures[name] - figure) < 0.01, figures


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "network", "figure"),
  [
    ("realesrgan-x4plus", RRDBNet(scale=4), 25.88),
    ("realesr-animevideov3-x4", SRVGGNetCompact(), 26.40),
  ],
)
@pytest.mark.usefixtures("optimized")
def test_real_esrgan_s_weights(data_dir, real_weights, name, network, figure):
  path = real_weights(f"realesrgan/{name}.bin")
  names = ("bird", "butterfly", "woman")
  model, _, figures = _figures(data_dir, names, path)
  assert model == network
  assert abs(np.mean(list(figures.values())) - figure) < 0.02, figures
