"""Threads: the work is shared out in order, results agree, and a forked child can go on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from tinyres import kernels, threads


@pytest.fixture
def restored():
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_block_is_done_once_and_results_come_in_order(restored, count):
    threads.set_num_threads(count)
    blocks = list(range(20))
    workers = set()

    def work(block):
        workers.add(threading.get_ident())
        time.sleep(0.01)  # so that others wake up
        return block

    assert threads.for_each(work, blocks, np.zeros(1)) == blocks
    assert len(workers) <= count
    assert threading.get_ident() in workers  # the caller works, too


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("sum_bytes", [8, 1 << 18, 1 << 30])
def test_a_sum_over_blocks_is_the_same_each_time(restored, count, sum_bytes):
    threads.set_num_threads(count)
    numbers = np.random.default_rng(0).standard_normal((20, 1), dtype=np.float32)

    def step(block):
        time.sleep(0.001 * (block % 3))
        return numbers[block].copy()

    sums = {float(threads.for_sum(step, range(20), numbers, sum_bytes)[0]) for _ in range(5)}
    assert len(sums) == 1 and abs(sums.pop() - numbers.sum(dtype=np.float64)) < 1e-5


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("m, k, n", [(900, 90, 70), (70, 90, 900), (2, 3000, 800), (3, 4, 5), (0, 4, 5), (4, 0, 5)])
def test_a_product_is_shared_out_along_its_longer_side(restored, count, m, k, n):
    threads.set_num_threads(count)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)), rng.standard_normal((n, k)).T
    found = threads.matmul(a, b)
    assert found.shape == (m, n)
    np.testing.assert_allclose(found, np.einsum("mk,kn->mn", a, b), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("count, pieces", [(7, 3), (3, 7), (1, 1), (8, 4)])
def test_cut(count, pieces):
    slices = threads.cut(count, pieces)
    assert [index for piece in slices for index in range(count)[piece]] == list(range(count))
    sizes = [piece.stop - piece.start for piece in slices]
    assert len(sizes) == min(count, pieces) and max(sizes) - min(sizes) <= 1


def test_one_that_is_late_keeps_nobody_waiting(restored):
    threads.set_num_threads(2)
    held = threading.Event()
    threads._tasks.put(held.wait)
    assert threads.for_each(lambda block: block, range(3), np.zeros(1)) == [0, 1, 2]
    held.set()


def test_a_thread_that_is_late_holds_no_memory(restored):
    threads.set_num_threads(2)
    held = threading.Event()
    threads._tasks.put(held.wait)
    array = np.ones(3)
    reference = weakref.ref(array)
    assert len(threads.for_each(lambda block, array=array: array[block], range(3), array)) == 3
    del array
    assert reference() is None
    held.set()


def test_an_error_in_any_block_reaches_the_caller(restored):
    threads.set_num_threads(3)
    for bad in range(6):

        def work(block, bad=bad):
            time.sleep(0.001)
            if block == bad:
                raise ArithmeticError(f"block {bad}")

        with pytest.raises(ArithmeticError, match=f"block {bad}"):
            threads.for_each(work, range(6), np.zeros(1))


def test_results_do_not_depend_on_the_number_of_threads(restored, monkeypatch):
    monkeypatch.setitem(threads.BLOCK_BYTES, "cpu", 1 << 12)  # many blocks
    rng = np.random.default_rng(0)
    x, w, g = (rng.standard_normal(s).astype(np.float32) for s in [(64, 5, 9, 8), (4, 5, 3, 3), (64, 4, 9, 8)])
    results = []
    for count in (1, 2, 4):
        threads.set_num_threads(count)
        y, pullback = kernels.conv2d(x, w, padding=1)
        z, pull_norm = kernels.batch_norm_add_relu(y, None, None, None, training=True)
        results.append([y, z, *kernels.gradients(pullback, g)[:2], kernels.gradients(pull_norm, g)[0]])
    for other in results[1:]:
        y, z, dx, dw, dz = results[0]
        for exact, found in zip((y, z, dx, dz), (other[0], other[1], other[2], other[4]), strict=True):
            assert np.array_equal(exact, found)
        np.testing.assert_allclose(other[3], dw, rtol=1e-4, atol=1e-4)  # a sum of one partial sum a thread


def test_repeatable_with_threads(restored):
    threads.set_num_threads(4)
    rng = np.random.default_rng(0)
    x, w, g = (rng.standard_normal(s).astype(np.float32) for s in [(64, 8, 16, 16), (8, 8, 3, 3), (64, 8, 16, 16)])
    first, second = (kernels.gradients(kernels.conv2d(x, w, padding=1)[1], g)[1] for _ in range(2))
    assert np.array_equal(first, second)


def test_a_negative_number_gets_a_sentence():
    with pytest.raises(ValueError, match="threads is -1, expected 1 or more"):
        threads.set_num_threads(-1)


def test_blas_own_setting_is_the_default():
    script = "import tinyres; print(tinyres.get_num_threads())"
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "1\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_makes_its_own_threads():
    script = """
import os, numpy as np, tinyres
from tinyres import kernels
tinyres.set_num_threads(2)
x, w = np.ones((64, 16, 32, 32), np.float32), np.ones((16, 16, 3, 3), np.float32)
expected = kernels.conv2d(x, w)[0]
child = os.fork()
if child == 0:
    tinyres.set_num_threads(2)
    os._exit(0 if np.array_equal(kernels.conv2d(x, w)[0], expected) else 1)
print(os.waitpid(child, 0)[1])
"""
    command = [sys.executable, "-W", "ignore", "-c", script]  # Python 3.12 warns of any fork beside threads
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "0\n"


def test_errstate_holds_in_all_threads(restored):
    threads.set_num_threads(3)
    blocks = [slice(i, i + 1) for i in range(3)]
    with np.errstate(divide="ignore"):
        threads.for_each(lambda block: np.ones(1) / np.zeros(1), blocks, np.zeros(1))
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        threads.for_each(lambda block: np.ones(1) / np.zeros(1), blocks, np.zeros(1))


def test_strides_along_which_there_is_no_step_keep_no_array_whole(restored):
    """Of a 1×1 convolution's weight and its gradient only those of two axes mean anything."""
    threads.set_num_threads(2)
    weight = np.ones((512, 1, 1, 2048), np.float32).transpose(0, 3, 1, 2)
    gradient = np.arange(512 * 2048, dtype=np.float32).reshape(512, 2048, 1, 1)
    assert weight.strides != gradient.strides
    sizes = []

    def step(w, g):
        sizes.append(w.size)
        w -= g

    threads.blockwise(step, weight, gradient)
    assert len(sizes) > 1 and sum(sizes) == weight.size
    np.testing.assert_array_equal(weight, 1 - gradient)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_total_is_made_in_the_first_part(restored, count):
    threads.set_num_threads(2)
    parts = [np.random.default_rng(seed).standard_normal((300, 700)) for seed in range(count)]
    expected = np.add.reduce(parts)
    assert threads.total(parts) is parts[0]
    np.testing.assert_allclose(parts[0], expected, rtol=1e-13, atol=1e-13)
