"""Our own files: whole, described, refused with one clear message."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sr_jax.models import FSRCNN, SRCNN, Interpolate
from sr_jax.weights import load, native, save

SMALL = FSRCNN(scale=2, num_features=5, shrink_features=3, num_blocks=1)


@pytest.fixture(scope="module")
def variables():
  return jax.jit(SMALL.init)(jax.random.key(1), jnp.zeros((1, 6, 6, 1)))


@pytest.fixture
def file(tmp_path, variables):
  path = tmp_path / "net.safetensors"
  save(path, SMALL, variables)
  return path


def _metadata(path):
  with safetensors.safe_open(path, framework="numpy") as file:
    return file.metadata(), safetensors.numpy.load_file(path)


def test_what_is_saved_is_loaded(tmp_path, variables):
  path = tmp_path / "new" / "net.safetensors"
  config = {"steps": 3, "rates": [1e-3, 1e-4]}
  figures = {"Set5": {"psnr": 36.5}}
  save(path, SMALL, variables, config=config, figures=figures)
  model, back = load(path, scale=2)
  assert model == SMALL
  jax.tree.map(np.testing.assert_array_equal, variables, back)
  lr = jax.random.uniform(jax.random.key(0), (1, 4, 5, 1))
  np.testing.assert_array_equal(
    model.apply(back, lr), SMALL.apply(variables, lr)
  )
  record = native.read_record(path)
  assert record["model"] == "fsrcnn"
  assert (record["config"], record["figures"]) == (config, figures)
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_other_programs_can_read_it(file, variables):
  """The safetensors library agrees, transposed arrays included."""
  metadata, tensors = _metadata(file)
  assert json.loads(metadata["sr_jax"])["arguments"]["scale"] == 2
  kernel = variables["params"]["deconv"]["kernel"]
  np.testing.assert_array_equal(tensors["params/deconv/kernel"], kernel)

  turned = jax.tree.map(np.asarray, variables)
  turned["params"]["deconv"]["kernel"] = np.asfortranarray(kernel)
  save(file, SMALL, turned)
  np.testing.assert_array_equal(
    _metadata(file)[1]["params/deconv/kernel"], kernel
  )


def test_dtype_and_tuples_come_back(tmp_path):
  model = SRCNN(features=(2, 2), kernel_sizes=(3, 1, 3), dtype="bfloat16")
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
  save(tmp_path / "a", model, variables)
  again, _ = load(tmp_path / "a")
  assert again.dtype == "bfloat16"
  assert again.kernel_sizes == (3, 1, 3)


def test_a_network_without_weights(tmp_path):
  save(tmp_path / "bicubic", Interpolate(scale=3), {})
  assert load(tmp_path / "bicubic") == (Interpolate(scale=3), {})


def test_a_failed_save_leaves_the_old_file(file, variables, monkeypatch):
  before = file.read_bytes()

  def full_disk(self, data):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(type(native.epath.Path(file)), "write_bytes", full_disk)
  with pytest.raises(OSError, match="No space left"):
    save(file, SMALL, variables)
  assert file.read_bytes() == before
  assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_save_refuses(tmp_path, variables):
  path = tmp_path / "net"
  with pytest.raises(ValueError, match=r"do not fit fsrcnn.*missing.*map_1"):
    save(path, FSRCNN(num_blocks=2), variables)
  with pytest.raises(ValueError, match=r"do not fit into JSON.*to_dict"):
    save(path, SMALL, variables, config={"seed": np.int64(3)})
  with pytest.raises(ValueError, match="figures are too long"):
    save(path, SMALL, variables, figures={str(i): i for i in range(30_000)})
  assert not path.exists()


def test_load_refuses_what_is_no_weight_file(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no weight file .*gone"):
    load(tmp_path / "gone")
  with pytest.raises(ValueError, match="is a folder"):
    load(tmp_path)
  path = tmp_path / "file"
  for content in (b"", b"hello", bytes(20)):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a weight file known here"):
      load(path)
  path.write_bytes(b"PK\x03\x04" + bytes(30))
  with pytest.raises(ValueError, match=r"not a readable PyTorch checkpoint"):
    load(path)


@pytest.mark.parametrize("keep", [9, 40, 0.3, -1])
def test_load_names_a_truncated_file(file, keep):
  data = file.read_bytes()
  file.write_bytes(data[: int(keep * len(data)) if keep == 0.3 else keep])
  with pytest.raises(ValueError, match=r"net.safetensors is damaged or cut"):
    load(file)


def _rewrite(path, **changes):
  metadata, tensors = _metadata(path)
  record = json.loads(metadata["sr_jax"])
  record.update(changes)
  metadata = {"sr_jax": json.dumps(record)}
  safetensors.numpy.save_file(tensors, path, metadata)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model": "fsrcn"}, r"does not know.*did you mean 'fsrcnn'"),
    ({"arguments": {"width": 3}}, r"does not know.*no argument 'width'"),
    ({"arguments": {"scale": 2}}, r"does not fit.*feature/kernel is \(5, 5"),
    ({"format": 2}, r"format 2.*update sr_jax"),
    ({"arguments": None}, r"does not know"),
  ],
)
def test_load_refuses_another_description(file, changes, message):
  _rewrite(file, **changes)
  with pytest.raises(ValueError, match=message):
    load(file)


def test_load_checks_the_scale(file):
  with pytest.raises(ValueError, match=r"network for x2, and scale 3"):
    load(file, scale=3)


def test_a_broken_record(file):
  _, tensors = _metadata(file)
  record = '{"format": 1, "figures": [1]}'
  for text in ("{", "{}", "[]", record, record.replace("figures", "config")):
    safetensors.numpy.save_file(tensors, file, {"sr_jax": text})
    with pytest.raises(ValueError, match="damaged"):
      load(file)
