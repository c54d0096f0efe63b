"""Each fast path of convolution gives the numbers of the plain one, im2col, in strips of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyres import threads
from tinyres.kernels import conv, fewpixels, rowwise, winograd
from tinyres.kernels.windows import Window
from tinyres.testing.strategies import seeds

sides = st.integers(3, 9)
channels = st.integers(1, 5)
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


def plain(patch):
    """From here on, im2col is the only path."""
    for path in (fewpixels, rowwise, winograd):
        patch.setattr(path, "suits", lambda *args, **options: False)


def operands(seed, n, h, w, c, o, window, dtype):
    rng = np.random.default_rng(seed)
    oh, ow = window.output_size("conv2d", h, w)
    shapes = (n, h, w, c), (*window.kernel, c, o), (n, oh, ow, o)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def check(path, x, kernels, dy, window, block_bytes, wanted):
    """The output, the gradient by the kernels, the two together, and the output finished block by block."""
    bias, residual = dy[0, 0, 0] * 2, dy

    def finish(block, place):
        block += bias + residual[place]

    with pytest.MonkeyPatch.context() as patch:
        plain(patch)
        expected = conv.sweep(x, kernels, window)[0], conv.sweep(x, kernels, window, dy=dy, output=False)[1]
        patch.setitem(threads.BLOCK_BYTES, "cpu", block_bytes)
        patch.setattr(rowwise, "BAND_BYTES", block_bytes)
        kernels = wanted(kernels)
        y, nothing = path.sweep(x, kernels, window)
        nothing_either, dk = path.sweep(x, kernels, window, dy=dy, output=False)
        both = path.sweep(x, kernels, window, dy=dy)
        finished, _ = path.sweep(x, kernels, window, finish)
    assert np.abs(finished - (y + bias + residual)).max() <= TOLERANCE[str(x.dtype)] * (1 + np.abs(y).max()) * 10
    assert nothing is None and nothing_either is None
    for found in ((y, dk), both):
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape and one.dtype == other.dtype
            assert np.abs(one - other).max() <= TOLERANCE[str(x.dtype)] * (1 + np.abs(other).max()) * 10


def as_trained(kernels):
    """As a layer has them in memory: (O, KH, KW, C)."""
    return np.ascontiguousarray(kernels.transpose(3, 0, 1, 2)).transpose(1, 2, 3, 0)


layouts = st.sampled_from([np.asarray, as_trained])
blocks = st.sampled_from([1, 3000, 1 << 20])
dtypes = st.sampled_from(["float64", "float32"])


@given(
    seed=seeds(),
    n=st.integers(1, 4),
    h=sides,
    w=sides,
    c=channels,
    o=channels,
    width=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.integers(1, 2),
    layout=layouts,
    block_bytes=blocks,
    dtype=dtypes,
)
def test_rowwise(seed, n, h, w, c, o, width, stride, padding, dilation, layout, block_bytes, dtype):
    window = Window((3, width), (1, stride), padding, (1, dilation))
    h, w = max(h, window.extent[0]), max(w, window.extent[1])
    check(rowwise, *operands(seed, n, h, w, c, o, window, dtype), window, block_bytes, layout)


@given(
    seed=seeds(),
    n=st.integers(1, 4),
    h=sides,
    w=sides,
    c=channels,
    o=channels,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    layout=layouts,
    block_bytes=blocks,
    dtype=dtypes,
)
def test_winograd(seed, n, h, w, c, o, padding, layout, block_bytes, dtype):
    window = Window((3, 3), (1, 1), padding)
    check(winograd, *operands(seed, n, h, w, c, o, window, dtype), window, block_bytes, layout)


@given(
    seed=seeds(),
    n=st.integers(1, 3),
    h=sides,
    w=sides,
    c=channels,
    o=st.integers(1, 40),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    layout=layouts,
    block_bytes=blocks,
    dtype=dtypes,
    workers=st.integers(1, 3),
)
def test_fewpixels(seed, n, h, w, c, o, kernel, stride, padding, dilation, layout, block_bytes, dtype, workers):
    window = Window(kernel, stride, padding, dilation)
    h, w = max(h, window.extent[0]), max(w, window.extent[1])
    x, kernels, dy = operands(seed, n, h, w, c, o, window, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "threads_for", lambda blocks, array: min(workers, blocks))
        patch.setattr(threads, "WORTH_SHARING_PRODUCTS", 0)
        check(fewpixels, x, kernels, dy, window, block_bytes, layout)
        patch.setattr(fewpixels, "suits", lambda *args: True)
        found, _ = conv.gradients_of(dy, x, layout(kernels), window, True, False)
        plain(patch)
        expected, _ = conv.gradients_of(dy, x, kernels, window, True, False)
    assert np.abs(found - expected).max() <= TOLERANCE[dtype] * (1 + np.abs(expected).max()) * 10


@pytest.mark.parametrize(
    "c, side, size, path",
    [
        (3, 80, 3, "rowwise"),
        (64, 16, 3, "rowwise"),
        (64, 15, 3, None),
        (64, 12, 5, None),
        (96, 9, 3, "winograd"),
        (128, 12, 3, "winograd"),
        (128, 4, 3, "fewpixels"),
        (600, 7, 3, "fewpixels"),
    ],
)
def test_each_size_takes_its_path(monkeypatch, c, side, size, path):
    taken = []
    for module in (fewpixels, rowwise, winograd):
        own = module.sweep
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, "sweep", lambda *args, own=own, name=name: taken.append(name) or own(*args))
    x, kernels = np.ones((4, side, side, c), np.float32), np.ones((size, size, c, c), np.float32)
    conv.sweep(x, kernels, Window((size, size), (1, 1), (size // 2, size // 2)))
    assert taken == ([path] if path else [])
