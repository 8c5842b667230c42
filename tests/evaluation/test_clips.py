"""Protocols of clips against a second computation; eval.py on clips."""

import dataclasses
import json
import math
import re

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from sr_jax import evaluation, weights
from sr_jax.data import load_clips
from sr_jax.evaluation import clips, jobs, networks, records, run, tables
from sr_jax.inference import super_resolve_clip
from sr_jax.models import Interpolate, MSRResNet, build
from tests.evaluation.test_benchmark import _levels, _luma, _resize
from tests.weights import pth_bytes

_SCALE = 2


class _Nearest(nn.Module):
  """Repeats pixels and adds a little, so that clipping matters."""

  in_channels: int = 3
  scale: int = _SCALE

  def __call__(self, lr):
    lr = jnp.repeat(jnp.repeat(lr, self.scale, axis=1), self.scale, axis=2)
    return 1.17 * lr - 0.093


class _Recurrent(nn.Module):
  """Of each frame the nearest pixels, brighter the later it comes."""

  scale: int = _SCALE
  directions: tuple[str, ...] = ("forward",)

  def __call__(self, lr):
    lr = jnp.repeat(jnp.repeat(lr, self.scale, axis=2), self.scale, axis=3)
    return lr + 0.01 * jnp.arange(lr.shape[1])[:, None, None, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Clips of 7, 3 and 5 frames, of which the second has an odd size."""
  folder = tmp_path_factory.mktemp("data") / "my clips"
  rng = np.random.default_rng(0)
  for name, length, height, width in (
    ("a", 7, 32, 36),
    ("b", 3, 33, 31),
    ("c", 5, 32, 36),
  ):
    (folder / name).mkdir(parents=True)
    coarse = rng.random((8, 9, 3)).repeat(5, axis=0).repeat(4, axis=1)
    for t in range(length):
      frame = np.roll(coarse, t, axis=1)[:height, :width]
      frame = frame + rng.normal(scale=0.05, size=frame.shape)
      levels = (np.clip(frame, 0, 1) * 255).astype(np.uint8)
      assert cv2.imwrite(str(folder / name / f"{t}.png"), levels)
  return folder


def _psnr(a, b):
  return 10 * math.log10(255**2 / np.mean((a - b) ** 2))


def _ssim(a, b):
  values = []
  for c in range(a.shape[-1]):
    _, full = structural_similarity(
      a[..., c],
      b[..., c],
      data_range=255,
      gaussian_weights=True,
      sigma=1.5,
      use_sample_covariance=False,
      full=True,
    )
    values.append(full[5:-5, 5:-5].mean())
  return np.mean(values)


def _expected(image, colour):
  """PSNR and SSIM of `_Nearest` and of bicubic, from the definitions."""
  height, width = (n - n % _SCALE for n in image.shape[:2])
  hr = image[:height, :width].astype(np.float64)
  lr = _levels(_resize(hr / 255, height // _SCALE, width // _SCALE)) / 255
  nearest = 1.17 * lr.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1) - 0.093
  figures = []
  for output in (nearest, _resize(lr, height, width)):
    sr, target = _levels(output), hr
    if colour == "Y":
      sr, target = _luma(sr), _luma(target)
    figures += [_psnr(sr, target), _ssim(sr, target)]
  return figures


def test_figures_follow_from_the_definitions(folder):
  prepared = evaluation.prepare_clips(str(folder), scale=_SCALE)
  assert prepared.dataset == "my clips"
  assert prepared.num_frames == 15
  native = evaluation.evaluate_clips(_Nearest(), {}, prepared)
  for result, colour in ((native, "RGB"), (native.on_luma, "Y")):
    assert result.protocol.colour == colour
    assert result.frames == 15
    assert [score.name for score in result.images] == ["a", "b", "c"]
    of_clips = []
    for score, (_, frames) in zip(
      result.images, load_clips(str(folder)), strict=True
    ):
      expected = [_expected(image, colour) for _, image in frames]
      for measured, figures in zip(score.frames, expected, strict=True):
        np.testing.assert_allclose(
          [
            measured.psnr,
            measured.ssim,
            measured.bicubic_psnr,
            measured.bicubic_ssim,
          ],
          figures,
          rtol=0,
          atol=1e-9,
        )
      of_clips.append(np.mean(expected, axis=0))
    # The mean of the clips' means: frames of a long clip count for less.
    np.testing.assert_allclose(
      [result.psnr, result.ssim, result.bicubic_psnr, result.bicubic_ssim],
      np.mean(of_clips, axis=0),
      atol=1e-9,
    )


def _with(monkeypatch, folder, **changes):
  """The folder, measured by another protocol."""
  protocol = clips.ClipProtocol(title="mine", dataset=str(folder), **changes)
  monkeypatch.setitem(clips.CLIP_PROTOCOLS, "mine", protocol)
  return evaluation.prepare_clips("mine", scale=_SCALE)


def test_a_protocol_that_leaves_frames_and_pixels_out(folder, monkeypatch):
  full = evaluation.prepare_clips(str(folder), scale=_SCALE)
  full = evaluation.evaluate_clips(_Nearest(), {}, full)
  part = _with(monkeypatch, folder, skip=1)
  part = evaluation.evaluate_clips(_Nearest(), {}, part)
  assert part.on_luma is None
  for whole, score in zip(full.on_luma.images, part.images, strict=True):
    assert score.frames == whole.frames[1:-1]
  assert part.protocol.frames == "all frames but the first and last 1"
  cropped = _with(monkeypatch, folder, crop_border=3)
  assert cropped.protocols["Y"]["psnr"].crop_border == 3
  psnr = evaluation.evaluate_clips(_Nearest(), {}, cropped).images[0].psnr
  assert psnr != full.on_luma.images[0].psnr
  with pytest.raises(ValueError, match="clip 'b' has 3 frames, of which all"):
    _with(monkeypatch, folder, skip=2)


def test_the_middle_frame_of_a_mirrored_clip(folder, monkeypatch):
  """The frame comes at 3 and at 10 of 14: the mean of the two is 6.5."""
  prepared = _with(monkeypatch, folder, middle=True, mirror=True)
  result = evaluation.evaluate_clips(_Recurrent(), {}, prepared)
  assert result.frames == 15  # of 7, 3 and 5, each restored twice
  score = result.images[0]
  assert [frame.name for frame in score.frames] == ["3"]
  image = load_clips(str(folder))[0][1][3][1]
  lr = _levels(_resize(image / 255, 16, 18)) / 255
  sr = lr.repeat(2, axis=0).repeat(2, axis=1) + 0.065
  expected = _psnr(_luma(_levels(sr)), _luma(image.astype(np.float64)))
  assert score.psnr == pytest.approx(expected, abs=0.01)
  plain = _with(monkeypatch, folder, middle=True)
  plain = evaluation.evaluate_clips(_Recurrent(), {}, plain)
  assert plain.images[0].psnr > score.psnr  # 0.03 too bright and not 0.065
  every = _with(monkeypatch, folder, mirror=True)
  every = evaluation.evaluate_clips(_Recurrent(), {}, every).images[0]
  assert [frame.name for frame in every.frames] == list("0123456")
  assert every.frames[3] == score.frames[0]


def test_frames_that_are_not_compared_are_counted_all_the_same(
  folder, monkeypatch
):
  """And restored only by networks that pass along them."""
  prepared = _with(monkeypatch, folder, middle=True)
  told = []
  result = evaluation.evaluate_clips(
    _Nearest(), {}, prepared, on_frame=told.append
  )
  assert (result.frames, sum(told)) == (3, prepared.num_frames)


@pytest.mark.slow
def test_what_a_clip_took_is_told():
  """That of the longest clip, as the network's own run tells it."""
  model = build(
    "basicvsr", num_features=4, num_blocks=1, spynet_widths=(4, 4, 4, 4)
  )
  variables = jax.jit(model.init)(
    jax.random.key(0), jnp.zeros((1, 2, 16, 16, 3))
  )
  rng = np.random.default_rng(0)
  frames = [
    (str(t), rng.integers(0, 256, (64, 64, 3), np.uint8)) for t in range(5)
  ]
  prepared = evaluation.prepare_clips(
    "mine", scale=4, clips=[("short", frames[:2]), ("long", frames)]
  )
  result = evaluation.evaluate_clips(model, variables, prepared)
  own = []
  lr = [np.zeros((16, 16, 3), np.float32)] * 5
  list(super_resolve_clip(model, variables, lr, on_memory=own.append))
  assert result.memory == own[0]
  row = tables.Row(
    label="x", dataset="mine", scale=4, published=None, result=result
  )
  device = f"{own[0].device_bytes / 1e9:.2f} GB on the device"
  assert device in tables.cost_lines([row])[0]
  assert records.as_json([row])[0]["host_bytes"] == own[0].host_bytes


def test_published_protocols():
  chosen = clips.clip_protocol
  assert chosen("Vid4").colours == ("Y",)
  assert chosen("reds").title == "REDS4"
  assert chosen("reds4").colours == ("RGB",)
  assert chosen("vimeo90k") is chosen("vimeo90k-t")
  assert list(chosen("vimeo90k-t").chosen(7)) == [3]
  assert chosen("udm10").degradation == "BD"
  assert list(chosen("vid4_crop8").chosen(6)) == [2, 3]
  assert chosen("set5") is None
  assert chosen("/no/such/folder") is None


def test_table_and_json(folder, tmp_path, capsys):
  out = tmp_path / "out.json"
  code = run.run(
    weights=["nearest"],
    benchmarks=[str(folder)],
    scales=["2"],
    details=True,
    json_path=str(out),
    report_path=str(tmp_path / "out.html"),
  )
  assert code == 0
  rgb, luma = json.loads(out.read_text())
  assert rgb["protocol"]["degradation"].startswith("BI: MATLAB bicubic")
  assert rgb["protocol"]["crop_border"] == 0
  assert rgb["seconds_per_frame"] > 0
  assert [clip["name"] for clip in rgb["images"]] == ["a", "b", "c"]
  frames = luma["images"][0]["frames"]
  assert [frame["name"] for frame in frames] == list("0123456")
  mean = np.mean([frame["psnr"] for frame in frames])
  assert luma["images"][0]["psnr"] == pytest.approx(mean)
  printed = capsys.readouterr().out
  assert re.search(rf"nearest +my clips +x2 +RGB +{rgb['psnr']:.2f} ", printed)
  assert (
    "Y: PSNR in dB and SSIM (per_channel), BI: MATLAB bicubic, 8-bit LR, crop "
    "none, SR clipped and rounded to 8 bits, mean over all frames of a clip, "
    "then over clips"
  ) in " ".join(printed.split())
  assert re.search(r"my clips: [\d.e-]+ s a frame .* over 15 frames", printed)
  assert "GiB on the host" in printed
  assert re.search(r"clip +PSNR", printed)
  assert "<td" in (tmp_path / "out.html").read_text()


def test_a_pytorch_checkpoint_and_its_network(tmp_path, folder, capsys):
  model = MSRResNet(scale=2, num_features=4, num_blocks=1)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  path, one = tmp_path / "net.pth", tmp_path / "one"
  one.mkdir()
  (one / "b").symlink_to(folder / "b")
  path.write_bytes(pth_bytes.save(weights.to_torch(model, variables)))
  options = {"weights": [str(path)], "benchmarks": [str(one)]}
  out = tmp_path / "out.json"
  prepared = evaluation.prepare_clips(str(one), scale=2)
  expected = evaluation.evaluate_clips(model, variables, prepared)
  for name in (None, "msrresnet:scale=2,num_features=4,num_blocks=1"):
    assert run.run(model=name, json_path=str(out), **options) == 0
    assert json.loads(out.read_text())[0]["psnr"] == expected.psnr
  capsys.readouterr()
  for wrong, message in (
    ("msrresnet", "net.pth as --model=msrresnet: state_dict does not fit"),
    ("msrresnt", "did you mean 'msrresnet'?"),
    ("msrresnet:4", "'4' is not written as name=number"),
    ("msrresnet:scale=", "'scale=' is not written as name=number"),
  ):
    assert run.run(model=wrong, **options) == 2
    assert message in capsys.readouterr().err


def test_networks_and_sets_that_do_not_go_together(folder, capsys, tmp_path):
  def problem(**arguments):
    assert run.run(data_dir=str(tmp_path), **arguments) == 2
    return " ".join(capsys.readouterr().err.split())

  bicubic = {"weights": ["bicubic"], "scales": [2]}
  images = str(folder / "a")
  assert "--degradation=BD is for clips" in problem(
    degradation="BD", benchmarks=[images], **bicubic
  )
  told = problem(degradation="bd", benchmarks=[str(folder)], **bicubic)
  assert "BD is defined for x4 alone" in told
  assert "frame" not in told
  assert "pairs are for training; give the folder" in problem(
    benchmarks=[f"{folder}:lr={folder}"], **bicubic
  )
  uneven = tmp_path / "uneven" / "a"
  uneven.mkdir(parents=True)
  for t, side in enumerate((32, 32, 36)):
    cv2.imwrite(str(uneven / f"{t}.png"), np.zeros((side, 32, 3), np.uint8))
  assert "frame '2' of clip 'a' of" in problem(
    benchmarks=[str(uneven.parent)], **bicubic
  )
  assert "degradation 'DB' is not one of" in problem(
    degradation="DB", **bicubic
  )
  with pytest.raises(ValueError, match="niqe is not measured on clips"):
    evaluation.prepare_clips(str(folder), metrics=["psnr", "niqe"])
  assert "'vid4' is not in" in problem(benchmarks=["vid4"], **bicubic)
  with pytest.raises(ValueError, match=r"3 and 3 channels cannot .* scale 2"):
    evaluation.evaluate_clips(
      Interpolate(scale=3),
      {},
      evaluation.prepare_clips(str(folder), scale=2),
    )
  with pytest.raises(ValueError, match="'set5' is not a benchmark of clips"):
    evaluation.prepare_clips("set5")
  options = {"degradation": None, "data_dir": None}
  network = networks.Network(
    label="x", model=_Recurrent(), variables={}, published=None
  )
  job = jobs.Job(label="x", dataset="set5", scale=2, network=network)
  with pytest.raises(ValueError, match="'set5' holds images, and the network"):
    run._prepare(job, options, lambda _: None)
  luma = dataclasses.replace(network, model=_Nearest(in_channels=1))
  job = dataclasses.replace(job, dataset="vid4", network=luma)
  with pytest.raises(ValueError, match="on Y cannot be measured on clips"):
    run._prepare(job, options, lambda _: None)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
  ("degradation", "psnr", "ssim"),
  # Published are 23.78 / 0.6347 and, by the degradation of DUF, 21.80. By that
  # of BasicSR's weights the LR image lies where bicubic expects it.
  [("BI", 23.78, 0.6347), ("DUF", 21.80, None), ("BD", 23.44, None)],
)
@pytest.mark.usefixtures("optimized")
def test_bicubic_on_vid4(degradation, psnr, ssim, data_dir):
  prepared = evaluation.prepare_clips(
    "vid4", degradation=degradation, data_dir=str(data_dir)
  )
  assert prepared.num_frames == 171
  figures = [
    np.mean([[f["bicubic_psnr"], f["bicubic_ssim"]] for f in clip], axis=0)
    for clip in prepared.beside["Y"]
  ]
  measured = np.mean(figures, axis=0)
  assert abs(measured[0] - psnr) < 0.01
  if ssim:
    assert abs(measured[1] - ssim) < 0.0001


@pytest.mark.data
def test_real_frames(data_dir):
  """The first frames of two clips of Vid4."""
  found = load_clips("vid4", data_dir=data_dir)
  some = [(name, frames[:1]) for name, frames in (found[1], found[2])]
  prepared = evaluation.prepare_clips("Vid4's beginning", clips=some)
  result = evaluation.evaluate_clips(Interpolate(scale=4), {}, prepared)
  assert result.psnr == pytest.approx(result.bicubic_psnr, abs=0.01)
  for score, low, high in zip(
    result.on_luma.images, (24.9, 23.0), (25.5, 23.9), strict=True
  ):
    assert low < score.psnr < high
