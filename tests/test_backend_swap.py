"""The same code on CuPy: every kernel, and a whole training step, on a strict fake of it against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from kernel_cases import CASES
from numeric import copied, gradients_of
from tinyres import Tensor, kernels, optim, threads
from tinyres import functional as F
from tinyres.backend import device_of, to_device, to_host, xp


def on_device(cupy, value):
    return cupy.asarray(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_kernel_runs_on_cupy_and_gives_numpys_numbers(cupy, row, dtype):
    arguments = [v.astype(dtype) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v for v in row.arguments]
    there = [on_device(cupy, value) for value in arguments]
    before = cupy.synchronisations()
    y, pullback = row.kernel(*there, **row.options)
    g = np.asarray(np.random.default_rng(0).standard_normal(y.shape).astype(dtype))
    found = gradients_of(pullback, cupy.asarray(g), row.wrt)
    assert cupy.synchronisations() == before, "waits for the device"

    here = copied(arguments)
    expected_y, expected_pullback = row.kernel(*here, **row.options)
    expected = gradients_of(expected_pullback, g, row.wrt)
    tolerance = 30 * float(np.finfo(dtype).eps)  # sums run in another order: channels-last does not survive the way
    pairs = [(y, expected_y)]
    pairs += [(found[i], expected[i]) for i in row.wrt]
    pairs += [(a, b) for a, b in zip(there, here, strict=True) if isinstance(b, np.ndarray)]  # running statistics
    for a, b in pairs:
        assert isinstance(a, cupy.ndarray) and a.dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a.get(), b, rtol=tolerance, atol=tolerance * (1 + np.abs(b).max()))


def test_boolean_indices_and_nothing_else_wait_for_the_device(cupy):
    x = cupy.asarray(np.arange(6.0).reshape(2, 3))
    y, pullback = kernels.getitem(x, x > 2)
    assert y.get().tolist() == [3, 4, 5]
    (dx,) = kernels.gradients(pullback, cupy.asarray(np.array([1.0, 2.0, 3.0])))
    assert dx.get().tolist() == [[0, 0, 0], [1, 2, 3]]


def step(device, dtype, optimiser, steps=2):
    """State, losses and optimiser state after some steps of training, and how often the host waited."""
    tinyres.manual_seed(0)
    model = tinyres.models.CifarResNet(8, width=0.25).to(dtype).to(device)
    optimizer = optimiser(model.parameters())
    rng = np.random.default_rng(1)
    batches = [(rng.standard_normal((4, 3, 9, 8)).astype(dtype), rng.integers(0, 10, 4)) for _ in range(steps)]
    batches = [(Tensor(x).to(device), Tensor(labels).to(device)) for x, labels in batches]
    losses, norms = [], []
    waited = synchronisations()
    for x, labels in batches:
        loss = F.cross_entropy(model(x), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        norms.append(optim.clip_grad_norm_(model.parameters(), 0.5))
        optimizer.step()
        losses.append(loss)
    waited = synchronisations() - waited
    assert {p.device for p in model.parameters()} == {device}
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {np.dtype(dtype)}
    state = {name: to_host(array) for name, array in model.state_dict().items()}
    state |= {f"gradient of {name}": p.grad.numpy() for name, p in model.named_parameters()}
    state |= {"losses": [loss.item() for loss in losses], "norms": [norm.item() for norm in norms]}
    for position, entry in optimizer.state_dict()["state"].items():
        state |= {f"{position} {name}": value for name, value in entry.items()}
    return state, waited


def synchronisations():
    import cupy

    return cupy.synchronisations() if hasattr(cupy, "synchronisations") else 0  # a real GPU does not count them


OPTIMISERS = {
    "SGD": lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "Nesterov": lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda parameters: optim.AdamW(parameters, lr=1e-2),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_steps_equal_the_cpus_and_wait_for_nothing(cupy, optimiser, dtype):
    expected, _ = step("cpu", dtype, OPTIMISERS[optimiser])
    found, waited = step("cuda", dtype, OPTIMISERS[optimiser])
    assert waited == 0
    assert list(found) == list(expected)
    # Adam divides by the size of gradients that may be nearly zero, which makes rounding large.
    tolerance = {np.float32: 2e-3 if optimiser == "AdamW" else 2e-5, np.float64: 1e-10}[dtype]
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def test_reading_the_loss_waits_once(cupy):
    loss = Tensor(np.array([1.0, 3.0])).to("cuda").mean()
    before = cupy.synchronisations()
    assert loss.item() == 2
    assert cupy.synchronisations() == before + 1


def test_dropout_draws_the_same_on_both(cupy):
    x = np.random.default_rng(0).standard_normal((4, 5))
    tinyres.manual_seed(3)
    expected = F.dropout(Tensor(x), 0.5)
    tinyres.manual_seed(3)
    assert np.array_equal(F.dropout(Tensor(x).to("cuda"), 0.5).numpy(), expected.numpy())


def test_anomaly_detection_works_on_cupy(cupy):
    x = Tensor(np.array([1.0, -1.0]), requires_grad=True).to("cuda")
    with tinyres.detect_anomaly(), pytest.raises(FloatingPointError, match="log: the output has 1 NaN or Inf of 2"):
        x.log()


def test_backend(cupy, monkeypatch):
    host = np.ones(3, np.float32)
    device = to_device(host, "cuda")
    assert (xp(host), xp(device)) == (np, cupy)
    assert (device_of(host), device_of(device)) == ("cpu", "cuda")
    assert to_device(host, "cpu") is host and to_device(device, "cuda") is device
    assert isinstance(to_host(device), np.ndarray) and to_host(host) is host
    monkeypatch.setattr(threads, "get_num_threads", lambda: 2)
    assert [s.stop - s.start for s in threads.blocks(10, 1 << 19, host)] == [2] * 5
    assert [s.stop - s.start for s in threads.blocks(10, 1 << 19, device)] == [10]
    with pytest.raises(ValueError, match=r"device is 'tpu', expected one of 'cpu', 'cuda'"):
        to_device(host, "tpu")
