"""Modules: what they find in themselves, load, save, hook and print."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, nn
from tinyres import functional as F
from tinyres.backend import generator, get_rng_state


class Net(nn.Module):
    """Assigned in an order that is not the alphabet's, with one layer used under two names."""

    def __init__(self):
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 4))
        self.again = self.head[1]
        self.alpha = nn.Parameter(np.ones((), np.float32))
        self.note = "not a parameter"

    def forward(self, x):
        return self.alpha * self.head(self.bn(self.stem(x)))


@pytest.fixture
def net():
    tinyres.manual_seed(0)
    return Net()


def images(n=2, dtype=np.float32):
    return Tensor(np.random.default_rng(1).standard_normal((n, 2, 4, 4)).astype(dtype))


NAMES = [
    *("alpha", "stem.weight", "stem.bias", "bn.weight", "bn.bias"),
    *("head.1.weight", "head.1.bias", "head.3.weight", "head.3.bias"),
]
BUFFERS = ["bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]


def test_parameters_in_the_order_of_their_definition(net):
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [id(p) for p in net.parameters()] == [id(p) for _, p in net.named_parameters()]
    assert [name for name, _ in net.named_buffers()] == BUFFERS
    assert all(isinstance(p, nn.Parameter) and p.requires_grad and p.is_leaf for p in net.parameters())
    assert not any(buffer.requires_grad for _, buffer in net.named_buffers())


def test_modules_before_their_children_and_only_once(net):
    assert [name for name, _ in net.named_modules()] == [
        *("", "stem", "bn", "head", "head.0", "head.1", "head.2", "head.3"),
    ]
    assert [name for name, _ in net.named_children()] == ["stem", "bn", "head", "again"]
    assert len(list(net.modules())) == 8 and len(list(net.children())) == 4
    assert dict(net.named_modules())["head.1"] is net.again


def test_a_shared_parameter_appears_once():
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    tied = nn.Sequential(first, second)
    assert [name for name, _ in tied.named_parameters()] == ["0.weight"]
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    g = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    tied(Tensor(x)).backward(g)
    w = first.weight.data
    np.testing.assert_allclose(first.weight.grad.data, g.T @ (x @ w.T) + (g @ w).T @ x, rtol=1e-5)


def test_reassigning_an_attribute_replaces_it(net):
    net.bn = nn.Identity()
    assert not list(net.named_buffers())
    net.stem.bias = None
    assert "stem.bias" not in dict(net.named_parameters())


# State


def test_state_dict_holds_the_arrays_themselves(net):
    state = net.state_dict()
    assert sorted(state) == sorted(NAMES + BUFFERS)
    assert state["stem.weight"] is net.stem.weight.data
    assert state["bn.running_var"] is net.bn.running_var.data


def test_state_dict_round_trip(net):
    net(images())
    saved = {name: array.copy() for name, array in net.state_dict().items()}
    expected = net.eval()(images()).data
    tinyres.manual_seed(1)
    other = Net()
    assert not np.array_equal(other.eval()(images()).data, expected)
    parameter, array = other.stem.weight, other.stem.weight.data
    other.load_state_dict(saved)
    assert np.array_equal(other(images()).data, expected)
    assert other.stem.weight is parameter and other.stem.weight.data is array  # filled, for an optimiser holds it
    assert other.bn.num_batches_tracked.item() == 1
    saved["stem.weight"] += 1
    assert not np.shares_memory(saved["stem.weight"], other.stem.weight.data)
    assert np.array_equal(other(images()).data, expected)


def test_loading_keeps_the_modules_dtype_and_memory_order(net):
    strides = net.stem.weight.data.strides
    net.load_state_dict({name: np.array(array, np.float64, order="C") for name, array in Net().state_dict().items()})
    assert net.stem.weight.dtype == np.float32 and net.stem.weight.data.strides == strides
    assert net.bn.num_batches_tracked.dtype == np.int64


def test_loading_takes_tensors_and_lists(net):
    state = dict(net.state_dict())
    state["stem.bias"], state["head.3.bias"] = Tensor([1.0, 2.0, 3.0]), [4.0, 5.0, 6.0, 7.0]
    net.load_state_dict(state)
    assert net.stem.bias.data.tolist() == [1, 2, 3] and net.head[3].bias.data.tolist() == [4, 5, 6, 7]


def test_strict_loading_names_every_problem_and_changes_nothing(net):
    before = {name: array.copy() for name, array in net.state_dict().items()}
    state = {name: array + 1 for name, array in net.state_dict().items()}
    del state["stem.bias"], state["bn.running_mean"]
    state["tail.weight"] = np.ones(2)
    state["head.1.weight"] = np.ones((48, 4))
    with pytest.raises(ValueError) as caught:
        net.load_state_dict(state)
    message = str(caught.value)
    assert message.startswith("load_state_dict into Net: ") and "\n" not in message
    assert "missing: stem.bias, bn.running_mean" in message
    assert "unexpected: tail.weight" in message
    assert "head.1.weight is (48, 4), expected (4, 48)" in message
    for name, array in net.state_dict().items():
        assert np.array_equal(array, before[name])


def test_loading_that_is_not_strict_takes_what_fits_but_no_wrong_shape(net):
    net.load_state_dict({"alpha": np.float32(7), "other": np.ones(3)}, strict=False)
    assert net.alpha.item() == 7
    with pytest.raises(ValueError, match=r"mis-shaped: stem.bias is \(4,\), expected \(3,\)"):
        net.load_state_dict({"alpha": np.float32(8), "stem.bias": np.ones(4)}, strict=False)
    assert net.alpha.item() == 7


def test_old_files_without_num_batches_tracked_load(net):
    state = {name: array for name, array in net.state_dict().items() if "num_batches" not in name}
    net.load_state_dict(state)


def test_to_another_dtype_in_place(net):
    parameters = list(net.parameters())
    assert net.to(np.float64) is net
    assert [id(p) for p in net.parameters()] == [id(p) for p in parameters]
    assert {p.dtype for p in net.parameters()} == {np.dtype(np.float64)}
    assert net.bn.running_var.dtype == np.float64 and net.bn.num_batches_tracked.dtype == np.int64
    y = net(images(dtype=np.float64))
    y.backward(np.random.default_rng(2).standard_normal(y.shape))
    assert all(p.grad.dtype == np.float64 for p in net.parameters())
    with pytest.raises(TypeError, match="conv2d: input is float32 but weight is float64"):
        net(images())


def test_to_keeps_what_is_frozen(net):
    net.stem.requires_grad_(False)
    net.to("float64")
    assert not net.stem.weight.requires_grad and net.alpha.requires_grad


def test_to_the_gpu_and_back(net, cupy):
    expected = net.eval()(images()).data
    net.to("cuda")
    assert {p.device for p in net.parameters()} == {b.device for _, b in net.named_buffers()} == {"cuda"}
    np.testing.assert_allclose(net(images().to("cuda")).numpy(), expected, rtol=1e-5, atol=1e-6)
    host = {name: np.ones(array.shape, array.dtype) for name, array in net.state_dict().items()}
    net.load_state_dict(host)
    net.to("cpu")
    assert all((array == 1).all() for array in net.state_dict().values())


def test_a_copied_module_is_trained_alone(net):
    other = copy.deepcopy(net)
    assert np.array_equal(other.eval()(images()).data, net.eval()(images()).data)
    other(images()).sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(parameter.grad is not None for parameter in other.parameters())
    assert not any(
        np.shares_memory(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert other.again is other.head[1]


def test_to_a_dtype_without_gradients_changes_nothing(net):
    with pytest.raises((TypeError, ValueError), match="int64"):
        net.to("int64")
    assert {parameter.dtype for parameter in net.parameters()} == {np.dtype(np.float32)}


# Modes, freezing, gradients


def test_train_and_eval_reach_every_module(net):
    assert net.training
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    net.train()
    assert all(module.training for module in net.modules())
    net.head.eval()
    assert net.training and not net.again.training


def test_batch_norm_uses_and_moves_statistics_by_mode(net):
    x = images(4)
    net(x)
    tracked = net.bn.num_batches_tracked
    assert tracked.item() == 1
    moved = net.bn.running_mean.data.copy()
    assert moved.any()
    alone = net.eval()(Tensor(x.data[:1])).data
    np.testing.assert_allclose(net(x).data[:1], alone, rtol=1e-5, atol=1e-6)  # the batch does not matter
    assert np.array_equal(net.bn.running_mean.data, moved) and tracked.item() == 1


def test_freezing_and_zero_grad(net):
    net.stem.requires_grad_(False)
    y = net(images())
    y.backward(np.random.default_rng(2).standard_normal(y.shape).astype(np.float32))
    assert net.stem.weight.grad is None
    assert all(parameter.grad is not None for parameter in net.head.parameters())
    net.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
    net.stem.requires_grad_()
    net(images()).sum().backward()
    assert net.stem.weight.grad is not None


# Hooks


def test_a_forward_hook_sees_inputs_and_output(net):
    calls = []
    net.head.register_forward_hook(lambda *call: calls.append(call))
    y = net(images())
    ((module, inputs, output),) = calls
    assert module is net.head
    assert isinstance(inputs, tuple) and inputs[0].shape == (2, 3, 4, 4)
    assert np.array_equal(y.data, net.alpha.data * output.data)


def test_a_forward_hook_may_replace_the_output(net):
    net.head.register_forward_hook(lambda module, inputs, output: output * 2)
    net.head.register_forward_hook(lambda module, inputs, output: output + 1)
    net.eval()
    hooked = net(images()).data
    net.head._forward_hooks.clear()
    np.testing.assert_allclose(hooked, 2 * net(images()).data + 1, rtol=1e-5, atol=1e-6)


def test_a_forward_hook_can_be_removed(net):
    calls = []
    handles = [net.stem.register_forward_hook(lambda *_, i=i: calls.append(i)) for i in range(2)]
    net(images())
    handles[0].remove()
    handles[0].remove()
    net(images())
    assert calls == [0, 1, 1]


def test_a_module_without_forward_says_so():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty"):
        Empty()(1)


# What it looks like


def test_repr(net):
    assert repr(nn.Conv2d(4, 6, (3, 1), 2, padding=(1, 0), groups=2, bias=False)) == (
        "Conv2d(4, 6, kernel_size=(3, 1), stride=2, padding=(1, 0), groups=2, bias=False)"
    )
    assert repr(nn.Linear(3, 2)) == "Linear(3, 2)"
    assert repr(nn.Sequential()) == "Sequential()"
    lines = repr(net).splitlines()
    assert lines[0].startswith("Net(") and lines[-1] == ")"
    assert "  (bn): BatchNorm2d(3, eps=1e-05, momentum=0.1)" in lines
    assert lines[3].startswith("  (head): Sequential(")
    assert lines[4] == "    (0): Flatten()"
    assert lines[8] == "  )"


# Containers and single layers


def test_sequential(net):
    assert len(net.head) == 4
    assert [type(module) for module in net.head] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert net.head[1] is net.again and net.head[-1] is net.head[3]
    with pytest.raises(IndexError):
        net.head[4]


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (nn.ReLU(), F.relu),
        (nn.Sigmoid(), F.sigmoid),
        (nn.Tanh(), F.tanh),
        (nn.Identity(), lambda x: x),
        (nn.Flatten(), lambda x: x.reshape(len(x), -1)),
        (nn.MaxPool2d(3, 2, 1), lambda x: F.max_pool2d(x, 3, 2, 1)),
        (nn.MaxPool2d(2), lambda x: F.max_pool2d(x, 2)),
        (nn.AvgPool2d(2, 1), lambda x: F.avg_pool2d(x, 2, 1)),
        (nn.AdaptiveAvgPool2d((2, 1)), lambda x: F.adaptive_avg_pool2d(x, (2, 1))),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, nn.Module) else "",
)
def test_layers_are_their_functions(layer, function):
    assert np.array_equal(layer(images()).data, function(images()).data)


def test_dropout_by_mode():
    layer = nn.Dropout(0.5)
    x = Tensor(np.ones((100, 100), np.float32))
    assert set(np.unique(layer(x).data)) == {0, 2}
    assert np.array_equal(layer.eval()(x).data, x.data)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "in_channels 3.*groups 2"),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), "out_channels 3.*groups 2"),
        (lambda: nn.Conv2d(0, 4, 3), "in_channels 0"),
        (lambda: nn.Conv2d(3, 4, 0), "kernel_size.*0"),
        (lambda: nn.Linear(0, 4), "in_features.*0"),
        (lambda: nn.Dropout(1.5)(images()), "p is 1.5"),
    ],
)
def test_impossible_layers_get_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_unchanged_puts_everything_back(net):
    net.head.eval()
    net.bn.running_mean.data[...] = 5
    modes, state = [m.training for m in net.modules()], {key: a.copy() for key, a in net.state_dict().items()}
    arrays, random = net.state_dict(), get_rng_state()
    with pytest.raises(ZeroDivisionError), net.unchanged():
        net.train()(images())
        net.note = "another"
        net.bn.running_var.data = np.zeros(3, np.float32)
        generator().random()
        raise ZeroDivisionError
    assert [m.training for m in net.modules()] == modes
    assert net.note == "not a parameter" and get_rng_state() == random
    for key, array in net.state_dict().items():
        assert array is arrays[key] and np.array_equal(array, state[key])
