"""What a program multiplies and exchanges, counted by hand beside it."""

import jax
import jax.numpy as jnp
import pytest

from sr_jax import models
from sr_jax.training import hlo


def _cost(function, *args):
  """As it is written, and after the compiler's passes on a CPU: the same."""
  lowered = jax.jit(function).lower(*args)
  found = hlo.cost(hlo.written(lowered))
  assert found == hlo.cost(lowered.compile().as_text())
  return found


def test_loops_count_in_full():
  """Three times seven products of matrices, where XLA counts one."""

  def inner(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

  def outer(x, w):
    return jax.lax.scan(lambda x, _: (inner(x, w), None), x, None, length=3)[0]

  found = _cost(outer, jnp.ones((64, 32)), jnp.ones((7, 32, 32)))
  assert found.flops == 3 * 7 * 2 * 64 * 32 * 32
  assert found.unknown_loops == 0
  assert not found.collectives


def test_convolutions_and_their_gradients():
  x, kernel = jnp.ones((2, 16, 12, 8)), jnp.ones((3, 3, 8, 4))

  def conv(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  once = 2 * 2 * 16 * 12 * 9 * 8 * 4
  assert _cost(conv, x, kernel).flops == once
  both = jax.grad(lambda *a: jnp.sum(conv(*a) ** 2), argnums=(0, 1))
  assert _cost(both, x, kernel).flops == 3 * once


def test_zeros_between_pixels_do_not_count():
  """The gradient of a stride of 2, by the input, has them in its image."""

  def conv(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  both = jax.grad(lambda *a: jnp.sum(conv(*a) ** 2), argnums=(0, 1))
  args = jnp.ones((2, 16, 12, 8)), jnp.ones((3, 3, 8, 4))
  found = hlo.cost(hlo.written(jax.jit(both).lower(*args)))
  assert found.flops == 3 * 2 * 2 * 8 * 6 * 9 * 8 * 4


def test_products_of_many_matrices():
  """Of which a TPU makes a convolution over their number, padded by it."""
  found = _cost(jnp.matmul, jnp.ones((10, 6, 5)), jnp.ones((10, 5, 7)))
  assert found.flops == 2 * 10 * 6 * 5 * 7


def test_rrdbnet_at_its_published_size():
  """By hand, of one image of 32x32: blocks that are scanned count 23 times."""
  model = models.RRDBNet()
  lr = jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), lr)
  block = 64 * 32 + 96 * 32 + 128 * 32 + 160 * 32 + 192 * 64
  low = 3 * 64 + 23 * 3 * block + 64 * 64
  high = 4 * 64 * 64 + 16 * (64 * 64 + 64 * 64 + 64 * 3)
  # On a CPU convolutions of few channels are others.
  traced = jax.jit(model.apply).trace(variables, lr)
  found = hlo.cost(hlo.written(traced.lower(lowering_platforms=("tpu",))))
  assert found.flops == 2 * 9 * 32 * 32 * (low + high)
  assert found.unknown_loops == 0


def test_of_branches_the_dearer_one_counts():
  def either(which, x):
    return jax.lax.cond(which, lambda x: x @ x, lambda x: x @ x @ x, x)

  found = _cost(either, True, jnp.ones((8, 8)))
  assert found.flops == 2 * 2 * 8**3


_TEXT = """HloModule step

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %sum = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  %there = (bf16[4]{0}, bf16[4]{0}) collective-permute-start(%half)
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %sum)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %limit = s32[]{:T(128)} constant(30)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %loop = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body
  ROOT %y = f32[8]{0} get-tuple-element(%loop), index=1
}
"""


def test_a_loop_of_a_tpu_counts_up_to_its_limit():
  """As libtpu writes it, which does not say how many turns."""
  found = hlo.cost(_TEXT).collectives
  assert found["all-reduce"] == hlo.Exchange(30, 30 * 8 * 4)
  assert found["collective-permute"].count == 30
  endless = hlo.cost(_TEXT.replace("constant(30)", "parameter(1)"))
  assert endless.unknown_loops == 1
  assert endless.collectives["all-reduce"].count == 1


def test_what_is_no_program_is_refused():
  with pytest.raises(ValueError, match=r"or compiled\.as_text"):
    hlo.cost("nothing")
