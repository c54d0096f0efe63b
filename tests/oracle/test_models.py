"""Whole networks against PyTorch: outputs, every gradient and the running statistics of one training step."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from oracle import reference
from tinyres import models

torch = pytest.importorskip("torch", reason="PyTorch (extra 'oracle') is not installed")

NETS = {
    # name: the PyTorch net, the batch
    "resnet18": (lambda: reference.ImageNetResNet(18), (2, 3, 64, 64)),
    "resnet50": (lambda: reference.ImageNetResNet(50), (2, 3, 64, 64)),
    "resnet152": (lambda: reference.ImageNetResNet(152), (2, 3, 64, 64)),
    "resnet20": (lambda: reference.CifarResNet(20, "A"), (4, 3, 32, 32)),
    "resnet20 B": (lambda: reference.CifarResNet(20, "B"), (4, 3, 32, 32)),
    "preact_resnet20": (lambda: reference.CifarResNet(20, preact=True), (4, 3, 32, 32)),
}


def ours(name):
    return models.get("resnet20", shortcut="B") if name == "resnet20 B" else models.get(name)


def random_state(net, rng, branch):
    """He-normal kernels, and norms away from their first values: no two channels alike.

    branch: the range of γ in each block's last norm.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    last = "bn3" if "layer1.0.bn3.weight" in shapes else "bn2"
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(7)
        elif name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 2, shape)
        elif name.endswith(("running_mean", "bias")):
            state[name] = 0.3 * rng.standard_normal(shape)
        elif len(shape) == 1:
            state[name] = rng.uniform(*(branch if name.endswith(f"{last}.weight") else (0.5, 1.5)), shape)
        else:
            state[name] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return state


def draw(name, seed, branch):
    """A net of PyTorch's, a state for it, a batch and a cotangent."""
    make, shape = NETS[name]
    net, rng = make(), np.random.default_rng(seed)
    state = random_state(net, rng, branch)
    return net, state, rng.standard_normal(shape), rng.standard_normal((shape[0], net.fc.out_features))


def step_of_torch(net, state, x, cotangent, dtype):
    net.to(getattr(torch, dtype)).train()  # first: what is loaded into float32 is rounded
    net.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    x = torch.tensor(x.astype(dtype), requires_grad=True)
    y = net(x)
    y.backward(torch.tensor(cotangent.astype(dtype)))
    found = {"output": y, "input gradient": x.grad}
    found |= {f"gradient of {name}": parameter.grad for name, parameter in net.named_parameters()}
    found |= dict(net.named_buffers())
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def step_of_tinyres(net, state, x, cotangent, dtype):
    net.to(dtype).train().load_state_dict(state)
    x = tinyres.Tensor(x.astype(dtype), requires_grad=True)
    y = net(x)
    y.backward(cotangent.astype(dtype))
    found = {"output": y, "input gradient": x.grad}
    found |= {f"gradient of {name}": parameter.grad for name, parameter in net.named_parameters()}
    found |= dict(net.named_buffers())
    return {name: tensor.numpy() for name, tensor in found.items()}


def compare(own, theirs, tolerance):
    """max|a − b| ≤ tolerance · max|b| for every tensor. Returns the largest error."""
    assert own.keys() == theirs.keys()
    errors = {}
    for name, expected in theirs.items():
        assert own[name].dtype == expected.dtype and own[name].shape == expected.shape, name
        errors[name] = np.abs(own[name] - expected).max() / np.abs(expected).max()
    worst = max(errors, key=errors.get)
    assert errors[worst] <= tolerance, f"{worst}: relative error {errors[worst]:.1e}"
    return errors[worst]


@pytest.mark.parametrize("name", NETS)
def test_float64(name):
    net, *case = draw(name, seed=0, branch=(0.5, 1.5))
    compare(step_of_tinyres(ours(name), *case, "float64"), step_of_torch(net, *case, "float64"), 1e-10)


def relu_masks(name, state, x):
    """Which elements each ReLU lets through in float32: PyTorch's, then ours."""
    theirs, own = [], []
    net, model = NETS[name][0]().train(), ours(name).train()
    net.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
    model.load_state_dict(state)
    handle = reference.relu.register_forward_hook(lambda module, inputs, y: theirs.append(y.numpy() > 0))
    for module in model.modules():
        if isinstance(module, tinyres.nn.ReLU):
            module.register_forward_hook(lambda module, inputs, y: own.append(y.numpy() > 0))
    with torch.no_grad(), tinyres.no_grad():
        net(torch.tensor(x.astype(np.float32)))
        model(tinyres.Tensor(x.astype(np.float32)))
    handle.remove()
    return theirs, own


@pytest.mark.parametrize("name", NETS)
def test_float32(name):
    """Where rounding decides whether a ReLU is on, the two nets are different functions from there back, and a single
    such element changes gradients by 1e-2 and more: in resnet152 with branches as large as the skip, a hundred of 3.4
    million are, and PyTorch's own float32 gradients are wrong by 0.5. So the branches are small beside the skip, as
    they are in trained nets, which leaves about one such element, and a net and batch are drawn at which there is none.
    """
    for seed in range(10):
        net, *case = draw(name, seed, branch=(0.03, 0.1))
        theirs, own = relu_masks(name, *case[:2])
        assert len(theirs) == len(own)
        if all(np.array_equal(a, b) for a, b in zip(theirs, own, strict=True)):
            break
    else:
        pytest.fail("the two nets' ReLUs differ in each of 10 draws")
    compare(step_of_tinyres(ours(name), *case, "float32"), step_of_torch(net, *case, "float32"), 2e-4)
