"""Bad input gets one clear sentence: the operation, what came, what was expected."""

from __future__ import annotations

import numpy as np
import pytest

from tinyres import kernels


def ones(*shape):
    return np.ones(shape)


IMAGES = ones(2, 3, 5, 7)
WEIGHT = ones(4, 3, 3, 3)
LOGITS = ones(2, 3)
LABELS = np.array([0, 2])


def call(kernel, *arguments, error=ValueError, says, **options):
    """A row: the call, the error, and words that its sentence must hold (numbers and shapes from the call)."""
    name = f"{kernel.__name__}: {says}"
    return pytest.param(kernel, arguments, options, error, says.split(" … "), id=name)


conv2d, batch_norm, cross_entropy = kernels.conv2d, kernels.batch_norm, kernels.cross_entropy

CALLS = [
    # Convolution
    call(conv2d, IMAGES, ones(4, 2, 3, 3), says="weight has 2 input channels … x has 3 … (2, 3, 5, 7) … (4, 2, 3, 3)"),
    call(conv2d, ones(2, 4, 5, 5), WEIGHT, groups=2, says="weight has 3 input channels … 2 groups … x has 4"),
    call(conv2d, ones(3, 5, 7), WEIGHT, says="(3, 5, 7) … (N, C, H, W)"),
    call(conv2d, IMAGES, ones(4, 3, 3), says="(4, 3, 3) … (O, C/groups, KH, KW)"),
    call(conv2d, IMAGES, ones(4, 1, 3, 3), groups=2, says="groups is 2 … 3 input … 4 output"),
    call(conv2d, IMAGES, ones(4, 1, 3, 3), groups=3, says="groups is 3 … 4 output"),
    call(conv2d, IMAGES, WEIGHT, groups=0, says="groups is 0"),
    call(conv2d, IMAGES, WEIGHT, dilation=3, says="7×7 … 5×7 … padding (0, 0)"),
    call(conv2d, IMAGES, ones(4, 3, 6, 1), says="6×1 … 5×7"),
    call(conv2d, ones(0, 3, 5, 7), WEIGHT, says="empty … (0, 3, 5, 7)"),
    call(conv2d, ones(2, 3, 0, 7), WEIGHT, says="3×3 … 0×7"),
    call(conv2d, IMAGES, WEIGHT, ones(3), says="bias is (3,) … (4,)"),
    call(conv2d, IMAGES, WEIGHT, stride=0, says="stride is 0 … at least 1"),
    call(conv2d, IMAGES, WEIGHT, stride=(1, 2, 3), says="stride is (1, 2, 3) … pair"),
    call(conv2d, IMAGES, WEIGHT, padding=-1, says="padding is -1 … at least 0"),
    call(conv2d, IMAGES, WEIGHT, dilation=(1, 0), says="dilation is (1, 0) … at least 1"),
    call(conv2d, IMAGES, WEIGHT, stride=1.5, error=(TypeError, ValueError), says="stride is 1.5 … integer"),
    call(conv2d, IMAGES, WEIGHT, padding="same", error=(TypeError, ValueError), says="padding is … same … integer"),
    call(conv2d, IMAGES, ones(4, 3, 0, 3), says="kernel_size … (0, 3)"),
    call(conv2d, np.ones((2, 3, 5, 7), np.uint8), WEIGHT, error=TypeError, says="uint8 … float"),
    call(kernels.conv2d_add_relu, IMAGES, ones(2, 4, 5, 7), WEIGHT, says="residual is (2, 4, 5, 7) … (2, 4, 3, 5)"),
    # Batch norm
    call(batch_norm, np.ones((2, 3, 5, 7), int), None, None, training=True, error=TypeError, says="int64 … float"),
    call(batch_norm, ones(1, 3, 1, 1), None, None, training=True, says="one value per channel … (1, 3, 1, 1)"),
    call(batch_norm, ones(1, 3), None, None, training=True, says="one value per channel … (1, 3)"),
    call(batch_norm, ones(2, 3, 4), None, None, training=True, says="(2, 3, 4) … (N, C, H, W)"),
    call(batch_norm, ones(0, 3, 4, 4), None, None, training=True, says="(0, 3, 4, 4)"),
    call(batch_norm, IMAGES, None, None, says="running_mean … training is False"),
    call(batch_norm, IMAGES, ones(4), ones(3), says="running_mean is (4,) … (3,)"),
    call(batch_norm, IMAGES, ones(3), ones(4), says="running_var is (4,) … (3,)"),
    call(batch_norm, IMAGES, None, None, ones(2), training=True, says="weight is (2,) … (3,)"),
    call(batch_norm, IMAGES, None, None, ones(3), ones(1), training=True, says="bias is (1,) … (3,)"),
    call(
        kernels.batch_norm_add_relu,
        *(IMAGES, ones(2, 3, 5, 1), None, None),
        training=True,
        says="residual is (2, 3, 5, 1) … (2, 3, 5, 7)",
    ),
    # Pooling
    call(kernels.max_pool2d, IMAGES, 6, says="6×6 … 5×7"),
    call(kernels.max_pool2d, IMAGES, 3, 1, 2, says="padding is 2 … half … 3"),
    call(kernels.max_pool2d, IMAGES, 0, says="kernel_size is 0 … at least 1"),
    call(kernels.max_pool2d, IMAGES, 2, 0, says="stride is 0 … at least 1"),
    call(kernels.max_pool2d, ones(3, 5, 7), 2, says="(3, 5, 7) … (N, C, H, W)"),
    call(kernels.max_pool2d, ones(0, 3, 5, 7), 2, says="(0, 3, 5, 7)"),
    call(kernels.max_pool2d, np.ones((2, 3, 4, 4), int), 2, error=TypeError, says="int64 … float"),
    call(kernels.avg_pool2d, IMAGES, (2, 8), says="2×8 … 5×7"),
    call(kernels.avg_pool2d, IMAGES, 2, 2, (0, 2), says="padding is (0, 2) … half"),
    call(kernels.avg_pool2d, ones(2, 3), 2, says="(2, 3) … (N, C, H, W)"),
    call(kernels.adaptive_avg_pool2d, IMAGES, 6, says="output_size is 6 … 5×7"),
    call(kernels.adaptive_avg_pool2d, IMAGES, 0, says="output_size is 0"),
    call(kernels.adaptive_avg_pool2d, ones(3, 5, 7), 1, says="(3, 5, 7) … (N, C, H, W)"),
    call(kernels.adaptive_avg_pool2d, IMAGES, (1, 2, 3), says="output_size is (1, 2, 3)"),
    # Losses
    call(cross_entropy, LOGITS, np.array([0, 3]), says="label 3 … 0 to 2 … (2, 3)"),
    call(cross_entropy, LOGITS, np.array([-1, 0]), says="label -1 … 0 to 2"),
    call(cross_entropy, LOGITS, np.array([0, 1, 2]), says="(2, 3) … (3,)"),
    call(cross_entropy, ones(2, 3, 4), LABELS, says="(2, 3, 4) … (2,)"),
    call(cross_entropy, ones(3), np.array(0), says="(3,) … (N, C"),
    call(cross_entropy, LOGITS, ones(2), error=TypeError, says="target is float64 … integer"),
    call(cross_entropy, LOGITS, LABELS, reduction="average", says="reduction is 'average' … mean … sum … none"),
    call(cross_entropy, LOGITS, LABELS, label_smoothing=1.5, says="label_smoothing is 1.5 … between 0 and 1"),
    call(cross_entropy, LOGITS, LABELS, ones(2), says="weight is (2,) … 3 classes"),
    call(cross_entropy, ones(0, 3), np.zeros(0, int), says="empty … (0, 3)"),
    call(kernels.binary_cross_entropy_with_logits, ones(3), ones(3, 1), says="(3,) … (3, 1) … same shape"),
    call(kernels.binary_cross_entropy_with_logits, ones(3), ones(3), reduction="all", says="reduction is 'all'"),
    call(kernels.binary_cross_entropy_with_logits, ones(3), ones(3), ones(2), says="weight … (2,) … (3,)"),
    call(kernels.binary_cross_entropy_with_logits, ones(0), ones(0), says="empty … (0,)"),
    call(kernels.mse_loss, ones(3), ones(1), says="(3,) … (1,) … same shape"),
    call(kernels.mse_loss, ones(3), ones(3), "max", says="reduction is 'max'"),
    call(kernels.mse_loss, ones(0), ones(0), says="empty … (0,)"),
    # Products
    call(kernels.linear, ones(2, 3), ones(5, 4), says="(5, 4) … (2, 3) … I = 3"),
    call(kernels.linear, ones(2, 3), ones(3), says="(3,) … (O, I)"),
    call(kernels.linear, ones(2, 3), ones(5, 3), ones(3), says="bias is (3,) … (5,)"),
    call(kernels.linear, np.array(1.0), ones(5, 3), says="() … (5, 3)"),
    call(kernels.matmul, ones(2, 3), ones(2, 3), says="(2, 3) … (2, 3) … (…, K, N)"),
    call(kernels.matmul, ones(3), ones(3, 2), says="(3,) … (3, 2)"),
    call(kernels.matmul, ones(4, 2, 3), ones(5, 3, 2), says="(4, 2, 3) … (5, 3, 2)"),
    # Arithmetic
    call(kernels.add, ones(2, 3), ones(2, 4), says="(2, 3) … (2, 4) … broadcast"),
    call(kernels.sub, ones(2, 3), ones(2), says="(2, 3) … (2,) … broadcast"),
    call(kernels.mul, ones(5, 2, 1), ones(3, 4), says="(5, 2, 1) … (3, 4) … broadcast"),
    call(kernels.div, ones(2, 3), ones(3, 2), says="(2, 3) … (3, 2) … broadcast"),
    call(kernels.pow, ones(2), ones(2), error=TypeError, says="exponent … ndarray … number"),
    call(kernels.clamp, ones(2), says="min … max … None"),
    # Activations
    call(kernels.dropout, ones(2), 1.5, says="p is 1.5 … between 0 and 1"),
    call(kernels.dropout, ones(2), -0.1, says="p is -0.1"),
    call(kernels.dropout, ones(2), float("nan"), says="p is nan"),
    call(kernels.softmax, ones(2, 3), 2, says="dim is 2 … (2, 3)"),
    call(kernels.log_softmax, ones(2, 3), -3, says="dim is -3 … (2, 3)"),
    # Reductions
    call(kernels.sum, ones(2, 3), 2, says="dim is 2 … 2 axes … (2, 3)"),
    call(kernels.mean, ones(2, 3), (0, -3), says="dim is (0, -3) … (2, 3)"),
    call(kernels.mean, ones(0, 3), 0, says="(0, 3) … empty"),
    call(kernels.amax, ones(2, 0), 1, says="(2, 0) … empty"),
    call(kernels.var, ones(2, 1), 1, says="1 values … correction=1"),
    # Shape
    call(kernels.reshape, ones(2, 3), 4, -1, says="6 values … (2, 3) … (4, -1)"),
    call(kernels.reshape, ones(2, 3), (7,), says="6 values … (7,)"),
    call(kernels.reshape, ones(2, 3), -1, -1, says="(-1, -1)"),
    call(kernels.reshape, ones(2, 3), -2, -3, says="(-2, -3)"),
    call(kernels.flatten, ones(2, 3), 2, says="start_dim … 2 … (2, 3)"),
    call(kernels.flatten, ones(2, 3, 4), 2, 1, says="start_dim … 2 … end_dim … 1"),
    call(kernels.permute, ones(2, 3), 0, 0, says="(0, 0) … (2, 3)"),
    call(kernels.permute, ones(2, 3), 0, says="(0,) … (2, 3)"),
    call(kernels.permute, ones(2, 3), 0, 2, says="(0, 2) … (2, 3)"),
    call(kernels.transpose, ones(2, 3), 0, 2, says="0 … 2 … (2, 3)"),
    call(kernels.expand, ones(2, 3), 4, 3, says="(2, 3) … (4, 3)"),
    call(kernels.expand, ones(2, 3), 3, says="(2, 3) … (3,)"),
    call(kernels.cat, ones(2, 3), ones(2, 4), says="(2, 3), (2, 4) … dim 0"),
    call(kernels.cat, ones(2, 3), ones(3), says="(2, 3), (3,) … dim 0"),
    call(kernels.cat, ones(2, 3), ones(2, 3), dim=2, says="dim 2 … (2, 3)"),
    call(kernels.cat, says="at least one"),
    call(kernels.pad, ones(2, 3), (1, 2, 3), says="(1, 2, 3) … (left, right)"),
    call(kernels.pad, ones(2, 3), (1, 1, 1, 1, 1, 1), says="(1, 1, 1, 1, 1, 1) … at most 2 axes"),
    call(kernels.pad, ones(2, 3), (0, -1), says="(0, -1) … non-negative"),
    call(kernels.getitem, ones(2, 3), 2, error=IndexError, says="2 … axis 0 … size 2"),
]


@pytest.mark.parametrize(("kernel", "arguments", "options", "error", "words"), CALLS)
def test_bad_input_gets_a_sentence(kernel, arguments, options, error, words):
    with pytest.raises(error) as caught:
        kernel(*arguments, **options)
    message = str(caught.value)
    assert message.startswith(f"{kernel.__name__}: ") or error is IndexError
    assert "\n" not in message
    position = 0
    for word in words:  # all of them, in this order
        assert word in message[position:], message
        position = message.index(word, position) + len(word)


def test_ignored_labels_are_not_out_of_range():
    y, _ = kernels.cross_entropy(LOGITS, np.array([0, -100]))
    assert y == pytest.approx(np.log(3))


def test_numpy_integers_are_integers():
    assert kernels.conv2d(IMAGES, WEIGHT, stride=np.int64(2), padding=(np.int32(1), 0))[0].shape == (2, 4, 3, 3)
    assert kernels.max_pool2d(IMAGES, np.int64(2))[0].shape == (2, 3, 2, 3)
    assert kernels.adaptive_avg_pool2d(IMAGES, np.int64(2))[0].shape == (2, 3, 2, 2)


def test_the_least_that_can_be_normalised_pooled_and_convolved():
    assert kernels.batch_norm(ones(2, 3), None, None, training=True)[0].shape == (2, 3)
    assert kernels.batch_norm(ones(1, 3, 1, 1), ones(3), ones(3))[0].shape == (1, 3, 1, 1)
    assert kernels.conv2d(ones(1, 1, 1, 1), ones(1, 1, 1, 1))[0].shape == (1, 1, 1, 1)
    assert kernels.max_pool2d(ones(1, 1, 1, 1), 1)[0].shape == (1, 1, 1, 1)
