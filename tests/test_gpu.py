"""On a real GPU, wherever CuPy finds one: every kernel and whole training steps against the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from conftest import gpus
from kernel_cases import CASES
from numeric import copied, gradients_of
from test_backend_swap import OPTIMISERS, step
from tinyres import Tensor, flow
from tinyres import functional as F

cupy = pytest.importorskip("cupy", reason="CuPy (extra 'cuda12' or 'cuda13') is not installed")


pytestmark = pytest.mark.skipif(gpus() == 0, reason="CuPy finds no GPU here")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_kernel_gives_the_cpus_numbers(row, dtype):
    arguments = [v.astype(dtype) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v for v in row.arguments]
    there = [cupy.asarray(value) if isinstance(value, np.ndarray) else value for value in arguments]
    y, pullback = row.kernel(*there, **row.options)
    g = np.asarray(np.random.default_rng(0).standard_normal(y.shape).astype(dtype))
    found = gradients_of(pullback, cupy.asarray(g), row.wrt)
    expected_y, expected_pullback = row.kernel(*copied(arguments), **row.options)
    expected = gradients_of(expected_pullback, g, row.wrt)
    tolerance = 100 * float(np.finfo(dtype).eps)
    for a, b in [(y, expected_y), *((found[i], expected[i]) for i in row.wrt)]:
        assert isinstance(a, cupy.ndarray) and a.dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a.get(), b, rtol=tolerance, atol=tolerance * (1 + np.abs(b).max()))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_training_steps_equal_the_cpus(optimiser):
    expected, _ = step("cpu", np.float64, OPTIMISERS[optimiser])
    found, _ = step("cuda", np.float64, OPTIMISERS[optimiser])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("make", [tinyres.models.resnet18, tinyres.models.resnet50, tinyres.models.preact_resnet20])
def test_networks_give_the_cpus_logits_and_records(make):
    x = np.random.default_rng(0).standard_normal((4, 3, 64, 64))
    labels = np.arange(4)
    results = []
    for device in ("cpu", "cuda"):
        tinyres.manual_seed(0)
        model = make(num_classes=10).to(np.float64).to(device)
        record = flow.snapshot(model, Tensor(x).to(device), Tensor(labels).to(device))
        results.append((F.softmax(model(Tensor(x).to(device)), 1).numpy(), record.depth("weight_grad")[2]))
    for here, there in zip(*results, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-7, atol=1e-10)
