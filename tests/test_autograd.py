"""The engine: the tape, accumulation, hooks, memory, and what it says when something is wrong."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import sys
import weakref

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, differentiable, no_grad
from tinyres import functional as F


def leaf(*values, dtype=np.float64):
    """A tensor that requires a gradient."""
    return Tensor(np.array(values, dtype), requires_grad=True)


def values(tensor):
    return tensor.data.tolist()


# Accumulation


def test_x_plus_f_of_x():
    x = leaf(1.0, -2.0, 3.0)
    y = x + x * x
    y.backward(np.array([1.0, 10.0, 100.0]))
    assert values(x.grad) == [1 * (1 + 2), 10 * (1 - 4), 100 * (1 + 6)]


def test_x_plus_x():
    x = leaf(1.0, -2.0)
    (x + x).backward(np.array([3.0, 5.0]))
    assert values(x.grad) == [6, 10]


def test_one_argument_in_both_places():
    x = leaf(2.0, -3.0)
    (x * x).backward(np.array([1.0, 10.0]))
    assert values(x.grad) == [4, -60]


def test_diamond():
    x = leaf(3.0)
    a = x * 2
    b, c = a * a, a + 5
    (b * c).backward()  # 4x²·(2x + 5)
    assert values(x.grad) == [24 * 9 + 40 * 3]


def test_diamonds_in_a_row_cost_one_visit_each():
    """2⁶⁰ paths, 60 nodes."""
    x = y = leaf(1.0)
    for _ in range(60):
        y = y + y
    y.backward()
    assert values(x.grad) == [2.0**60]


def test_a_shared_result_waits_for_all_its_users():
    """The long way back from `early` must arrive before `early` itself is passed on."""
    x = leaf(1.5)
    early = x * 2
    late = early
    for _ in range(10):
        late = late + 1
    calls = []
    early.register_hook(lambda grad: calls.append(grad.item()))
    (late * 3 + early * 5).backward()
    assert calls == [8]
    assert values(x.grad) == [16]


def test_two_backwards_give_twice_the_gradient():
    x, w = leaf(1.0, -2.0), leaf(0.5, 3.0)
    y = (x * w).sum()
    y.backward(retain_graph=True)
    once = x.grad.data.copy(), w.grad.data.copy()
    y.backward()
    assert np.array_equal(x.grad.data, 2 * once[0])
    assert np.array_equal(w.grad.data, 2 * once[1])


def test_gradients_of_two_graphs_add_up():
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    (x * 4).sum().backward()
    assert values(x.grad) == [7, 7]


def test_a_leaf_may_be_its_own_result():
    x = leaf(1.0, 2.0)
    x.backward(np.array([3.0, 4.0]))
    assert values(x.grad) == [3, 4]


def test_a_scalar_needs_no_gradient_argument():
    x = Tensor(np.array([[2.0]]), requires_grad=True)
    (x * 5).backward()
    assert values(x.grad) == [[5]]


def test_only_what_requires_a_gradient_gets_one():
    x, y = leaf(1.0), Tensor(np.array([2.0]))
    z = x * y
    z.backward()
    assert y.grad is None
    assert not y.requires_grad and z.requires_grad and not z.is_leaf and y.is_leaf and x.is_leaf


# What backward refuses


def test_backward_twice_on_a_freed_graph_names_the_operation():
    y = (leaf(1.0) * 2).exp()
    y.backward()
    with pytest.raises(RuntimeError, match=r"backward: exp was run backward before.*retain_graph=True"):
        y.backward()


def test_a_freed_part_of_another_graph_is_named():
    shared = leaf(1.0) * 2
    (shared + 1).backward()
    with pytest.raises(RuntimeError, match="backward: mul was run backward before"):
        (shared + 2).backward()


def test_backward_of_many_values_needs_a_gradient():
    with pytest.raises(ValueError, match=r"shape \(2,\) needs gradient="):
        (leaf(1.0, 2.0) * 2).backward()


def test_backward_without_any_requires_grad():
    with pytest.raises(RuntimeError, match="needs no gradient"):
        (Tensor(1.0) * 2).backward()


@pytest.mark.parametrize(
    ("gradient", "error", "says"),
    [
        (np.ones(3), ValueError, r"gradient has shape \(3,\).*expected shape \(2,\)"),
        (np.ones((2, 1)), ValueError, r"gradient has shape \(2, 1\).*expected shape \(2,\)"),
        (np.ones(2, np.float32), TypeError, r"gradient has .*float32.*expected .*float64"),
        (np.ones(2, int), TypeError, r"gradient has .*int64.*expected .*float64"),
    ],
)
def test_backward_with_a_gradient_that_does_not_fit(gradient, error, says):
    y = leaf(1.0, 2.0) * 2
    for given in (gradient, Tensor(gradient)):
        with pytest.raises(error, match=says):
            y.backward(given)


def test_backward_takes_tensors_and_numbers_as_gradient():
    x = leaf(1.0, 2.0)
    (x * 2).backward(Tensor(np.array([1.0, 3.0])))
    assert values(x.grad) == [2, 6]
    y = Tensor([1.0, 2.0], requires_grad=True)  # float32
    (y * y).sum().backward(Tensor(3.0))
    assert values(y.grad) == [6, 12]


# Devices and dtypes


def test_a_mix_of_dtypes_names_both_arguments():
    x, y = Tensor([1.0]), Tensor(np.array([1.0]))
    with pytest.raises(TypeError, match="add: input is float32 but other is float64"):
        x + y
    with pytest.raises(TypeError, match="conv2d: input is float32 but weight is float64"):
        F.conv2d(Tensor(np.ones((1, 1, 2, 2), np.float32)), weight=np.ones((1, 1, 1, 1)))
    with pytest.raises(TypeError, match="cat"):
        F.cat([x, x, y])


def test_a_mix_of_devices_names_both_arguments(cupy):
    x = Tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="mul: input is on cpu but other is on cuda"):
        x * x.to("cuda")
    with pytest.raises(ValueError, match="mul: input is on cuda but other is on cpu"):
        x.to("cuda") * np.ones(2, np.float32)
    images = Tensor(np.ones((1, 1, 2, 2), np.float32))
    with pytest.raises(ValueError, match="conv2d: input is on cuda but weight is on cpu"):
        F.conv2d(images.to("cuda"), images)


def test_a_gradient_on_the_wrong_device_is_refused(cupy):
    y = leaf(1.0, 2.0).to("cuda") * 2
    with pytest.raises(TypeError, match=r"gradient has .*cpu.*expected .*cuda"):
        y.backward(np.ones(2))


def test_to_the_device_and_back_is_differentiable(cupy):
    x = leaf(1.0, 2.0)
    there = x.to("cuda")
    assert (there.device, x.device) == ("cuda", "cpu")
    back = (there * 3).to("cpu")
    assert back.device == "cpu"
    back.backward(np.array([1.0, 10.0]))
    assert (x.grad.device, values(x.grad)) == ("cpu", [3, 30])
    assert there.to("cuda") is there and x.to("cpu") is x
    assert isinstance(there.numpy(), np.ndarray)


def test_cuda_without_cupy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ModuleNotFoundError, match=r"'cuda' needs CuPy.*pip install"):
        Tensor([1.0]).to("cuda")


def test_cupy_without_a_gpu_says_so(cupy, monkeypatch):
    def no_driver():
        raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    for count in (no_driver, lambda: 0):
        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", count)
        with pytest.raises(RuntimeError, match="CuPy found no GPU"):
            Tensor([1.0]).to("cuda")


@pytest.mark.parametrize("target", ["gpu", "cuda:0", "mars"])
def test_an_unknown_device_gets_a_sentence(target):
    with pytest.raises((ValueError, TypeError), match=f"{target}.*'cpu'.*'cuda'"):
        Tensor([1.0]).to(target)


def test_to_another_dtype_is_differentiable():
    x = leaf(1.5, -2.0, dtype=np.float32)
    y = x.to(np.float64) * 3
    assert y.dtype == np.float64
    y.backward(np.array([1.0, 2.0]))
    assert (x.grad.dtype, values(x.grad)) == (np.float32, [3, 6])
    assert x.to("float32") is x


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("number", [2, 2.0, np.float64(2), np.float32(2), np.int64(2)], ids=lambda n: type(n).__name__)
def test_scalars_do_not_change_the_dtype(dtype, number):
    x = leaf(1.0, 4.0, dtype=dtype)
    results = [
        x + number,
        number + x,
        x - number,
        number - x,
        x * number,
        number * x,
        x / number,
        number / x,
        x**number,
    ]
    expected = [[3, 6], [3, 6], [-1, 2], [1, -2], [2, 8], [2, 8], [0.5, 2], [2, 0.5], [1, 16]]
    for y, wanted in zip(results, expected, strict=True):
        assert y.dtype == dtype
        assert values(y) == wanted
        y.backward(np.ones(2, dtype))
    # 4 + 2·1 with the signs of the differences cancelling: 1 + 1 + 1 − 1 + 2 + 2 + ½ − 2/x² + 2x
    assert x.grad.dtype == dtype
    assert values(x.grad) == [6.5 - 2 + 2, 6.5 - 2 / 16 + 8]


def test_integers_do_not_widen_float32():
    x = Tensor([1.0, 2.0], requires_grad=True)
    for integers in (Tensor([3, 4]), np.array([3, 4]), np.array([3, 4], np.uint8)):
        y = x * integers
        assert y.dtype == np.float32
        x.grad = None
        y.backward(np.ones(2, np.float32))
        assert values(x.grad) == [3, 4]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_reductions_to_one_number_keep_the_dtype(dtype):
    x = Tensor(np.array([[1.0, 2.0], [4.0, 8.0]], dtype), requires_grad=True)
    results = [x.sum(), x.mean(), x.var(), x.amax(), F.mse_loss(x, x.data + 1), F.cross_entropy(x, np.array([0, 1]))]
    for y in results:
        assert (y.dtype, y.shape) == (dtype, ())
        x.grad = None
        y.backward()
        assert x.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_without_axes_accumulate(dtype):
    x = Tensor(np.array(3.0, dtype), requires_grad=True)
    seen = []
    a = x * 2
    a.register_hook(seen.append)
    for _ in range(2):
        (a * a + a * 5 + x).backward(retain_graph=True)
    assert (x.grad.item(), x.grad.shape, x.grad.dtype) == (2 * (24 + 10 + 1), (), dtype)
    assert [(grad.item(), grad.dtype) for grad in seen] == [(17, dtype)] * 2


def test_integers_do_not_widen_float32_in_products_and_joins():
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    for y in (x @ Tensor([[3], [4]]), F.linear(x, Tensor([[3, 4]])), F.cat([x, Tensor([[3, 4]])])):
        assert y.dtype == np.float32
        y.backward(np.ones(y.shape, np.float32))
        assert x.grad.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: F.relu([1.0]), "relu: input is a list"),
        (lambda: Tensor([1.0]) + [1.0], "add: other is a list"),
        (lambda: F.cross_entropy(Tensor([[1.0, 2.0]]), [0]), "cross_entropy: target is a list"),
    ],
)
def test_a_list_for_an_array_gets_a_sentence(call, says):
    """A list would be float64 and widen the rest."""
    with pytest.raises(TypeError, match=says):
        call()


def test_dtypes_of_new_tensors():
    assert Tensor(1.0).dtype == Tensor([1.0, 2]).dtype == np.float32
    assert Tensor(3).dtype == Tensor([1, 2]).dtype == np.int64
    assert Tensor(True).dtype == np.bool_
    assert Tensor(np.float64(1)).dtype == np.float64
    assert Tensor(np.ones(2, np.float16)).dtype == np.float16
    array = np.ones(2)
    assert Tensor(array).data is array
    assert Tensor(Tensor(array)).data is array


@pytest.mark.parametrize("data", ["two", None, {"a": 1}, object()], ids=lambda data: type(data).__name__)
def test_what_is_no_array_gets_a_sentence(data):
    with pytest.raises(TypeError, match=f"{type(data).__name__}"):
        Tensor(data)


def test_requires_grad_on_integers_gets_a_sentence():
    with pytest.raises(TypeError, match="dtype int64 has no gradient, expected a floating dtype"):
        Tensor([1, 2], requires_grad=True)
    with pytest.raises(TypeError, match="dtype bool"):
        Tensor(np.array([True]), requires_grad=True)


def test_requires_grad_can_be_set_on_leaves_only():
    x = leaf(1.0)
    with pytest.raises(RuntimeError, match=r"leaves only.*detach"):
        (x * 2).requires_grad = False
    x.requires_grad = False
    assert not (x * 2).requires_grad
    x.requires_grad = True
    (x * 2).backward()
    assert values(x.grad) == [2]


# Operators and methods: f(a, b), its value and its derivatives, worked out by hand at a = 4, b = 0.5

OPERATORS = {
    "a + b": (4.5, 1, 1),
    "a - b": (3.5, 1, -1),
    "a * b": (2, 0.5, 4),
    "a / b": (8, 2, -16),
    "a ** 2": (16, 8, None),
    "a ** 0.5": (2, 0.25, None),
    "a ** -1": (0.25, -1 / 16, None),
    "-a": (-4, -1, None),
    "3 + a": (7, 1, None),
    "3 - a": (-1, -1, None),
    "3 * a": (12, 3, None),
    "3 / a": (0.75, -3 / 16, None),
    "array + a": (7, 1, None),
    "array - a": (-1, -1, None),
    "array * a": (12, 3, None),
    "array / a": (0.75, -3 / 16, None),
    "array @ a": (12, 3, None),
    "a @ array": (12, 3, None),
    "a @ b": (2, 0.5, 4),
    "a.exp()": (np.exp(4), np.exp(4), None),
    "a.log()": (np.log(4), 0.25, None),
    "a.sqrt()": (2, 0.25, None),
    "(-a).abs()": (4, 1, None),
    "(-a).relu()": (0, 0, None),
    "a.relu()": (4, 1, None),
    "a.tanh()": (np.tanh(4), 1 - np.tanh(4) ** 2, None),
    "b.sigmoid()": (1 / (1 + np.exp(-0.5)), None, np.exp(-0.5) / (1 + np.exp(-0.5)) ** 2),
    "a.clamp(0, 3)": (3, 0, None),
    "a.clamp(max=5)": (4, 1, None),
}


@pytest.mark.parametrize("text", OPERATORS)
def test_operators(text):
    a, b = (Tensor(np.array([[value]]), requires_grad=True) for value in (4.0, 0.5))
    value, da, db = OPERATORS[text]
    y = eval(text, dict(a=a, b=b, array=np.array([[3.0]])))
    assert isinstance(y, Tensor)
    assert y.item() == pytest.approx(value, rel=1e-14)
    y.backward(np.array([[10.0]]))
    for x, expected in ((a, da), (b, db)):
        assert x.grad is None if expected is None else x.grad.item() == pytest.approx(10 * expected, rel=1e-13)


def test_shapes_and_reductions():
    x = Tensor(np.arange(24.0).reshape(2, 3, 4), requires_grad=True)
    assert x.reshape(4, 6).shape == x.reshape((4, 6)).shape == x.reshape(4, -1).shape == (4, 6)
    assert x.flatten(1).shape == (2, 12)
    assert x.T.shape == x.permute(2, 1, 0).shape == (4, 3, 2)
    assert x.transpose(0, 2).shape == (4, 3, 2)
    assert x[0].shape == (3, 4) and x[..., None, 1].shape == (2, 3, 1)
    assert x[:1].expand(5, 3, 4).shape == (5, 3, 4)
    assert len(x) == 2 and x.ndim == 3
    assert x.sum().item() == 276 and x.mean().item() == 11.5 and x.amax().item() == 23
    assert x.sum(0).shape == (3, 4) and x.mean((0, 2), keepdim=True).shape == (1, 3, 1)
    assert x.var().item() == pytest.approx(50.0)  # (24² − 1)/12 · 24/23


def test_numpy_array_on_the_left_makes_one_tensor_and_not_an_array_of_tensors():
    x = leaf(1.0, 2.0)
    y = np.array([[10.0], [20.0]]) + x
    assert isinstance(y, Tensor)
    assert values(y) == [[11, 12], [21, 22]]
    y.backward(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert values(x.grad) == [4, 6]


def test_broadcast_gradients_are_summed_back():
    x, y = Tensor(np.ones((3, 1)), requires_grad=True), leaf(1.0, 2.0)
    (x * y).backward(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert values(x.grad) == [[5], [11], [17]]
    assert values(y.grad) == [9, 12]


def test_repeated_indices_add_up():
    g = np.array([1.0, 10.0, 100.0])
    for index in ([0, 2, 0], np.array([0, 2, 0]), Tensor([0, 2, 0])):
        x = leaf(5.0, 6.0, 7.0)
        y = x[index]
        assert values(y) == [5, 7, 5]
        y.backward(g)
        assert values(x.grad) == [101, 0, 10]


def test_indices_in_pairs():
    rows, columns = [0, 1, 0], [1, 0, 1]
    for pair in ((rows, columns), (np.array(rows), np.array(columns)), (Tensor(rows), Tensor(columns))):
        x = Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]), requires_grad=True)
        y = x[pair]
        assert values(y) == [2, 3, 2]
        y.backward(np.array([1.0, 10.0, 100.0]))
        assert values(x.grad) == [[0, 101], [10, 0]]


def test_slices_masks_and_new_axes():
    x = Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    (x[:, ::2] * 2).sum().backward()
    (x[x.data > 3] * 3).sum().backward()
    (x[None, -1, ..., 1] * 5).sum().backward()
    assert values(x.grad) == [[2, 0, 2], [2, 8, 5]]


def test_tensors_can_be_iterated_over():
    x = Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]), requires_grad=True)
    assert [values(row) for row in x] == [[1, 2], [3, 4]]


def test_cat():
    x, y = leaf(1.0, 2.0), leaf(3.0)
    z = F.cat([x, y, x])
    assert values(z) == [1, 2, 3, 1, 2]
    z.backward(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (values(x.grad), values(y.grad)) == ([5, 7], [3])


# Out of the graph


def test_item_and_conversions():
    assert Tensor([[2.5]]).item() == 2.5 and type(Tensor(2.5).item()) is float
    assert (float(Tensor(2.5)), int(Tensor(2.5)), bool(Tensor(0.0))) == (2.5, 2, False)
    for convert in (Tensor.item, float, int, bool):
        with pytest.raises(ValueError, match=r"shape \(2,\), expected exactly one element"):
            convert(Tensor([1.0, 2.0]))


def test_numpy_sees_the_values():
    x = leaf(1.0, 2.0)
    assert np.asarray(x).dtype == np.float64
    assert np.asarray(x).tolist() == [1, 2]


def test_a_number_cannot_be_iterated_over():
    with pytest.raises(TypeError, match=r"no axes|0-d"):
        list(Tensor(1.0))


def test_a_copy_is_a_leaf_of_its_own():
    x = leaf(1.0, 2.0)
    y = copy.deepcopy(x)
    assert y.requires_grad and not np.shares_memory(x.data, y.data)
    (y * 3).sum().backward()
    assert x.grad is None
    assert values(y.grad) == [3, 3]


def test_detach_shares_the_values_without_the_history():
    x = leaf(1.0, 2.0)
    y = (x * 2).detach()
    assert not y.requires_grad and y.is_leaf
    assert x.detach().data is x.data
    (x * y).sum().backward()
    assert values(x.grad) == [2, 4]


def test_no_grad_as_context():
    x = leaf(1.0)
    with no_grad():
        y = x * 2
        with no_grad():
            pass
        z = x * 3
    assert not y.requires_grad and not z.requires_grad
    assert (x * 2).requires_grad
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert (x * 2).requires_grad


def test_no_grad_as_decorator():
    @no_grad()
    def double(x):
        return x * 2

    x = leaf(1.0)
    assert not double(x).requires_grad and not double(x).requires_grad
    assert (x * 2).requires_grad


def test_backward_works_under_no_grad():
    x = leaf(1.0)
    y = x * 2
    with no_grad():
        y.backward()
    assert values(x.grad) == [2]


# Depth


def test_a_chain_of_100_000_operations():
    """Forward, backward and deletion are loops, not recursions."""
    x = leaf(1.0)
    y = x * 2
    first = weakref.ref(y.data)
    for _ in range(100_000):
        y = y * 1.0
    y.backward(retain_graph=True)
    assert values(x.grad) == [2]
    del y
    assert first() is None


# Memory


@pytest.fixture
def no_gc():
    """The cycle collector is off; afterwards, it finds nothing of ours."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        ours = [type(garbage) for garbage in gc.garbage if type(garbage).__module__.startswith("tinyres")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert ours == []


@pytest.mark.parametrize("backward", ["none", "freed", "retained"])
def test_a_deleted_graph_is_gone_at_once(no_gc, backward):
    x, w = leaf(1.0, -2.0), leaf(0.5, 3.0)
    a = x * w
    b = a.relu() + x
    y = (b * b).sum()
    a.retain_grad()
    handle = b.register_hook(lambda grad: grad * 2)
    if backward != "none":
        y.backward(retain_graph=backward == "retained")
    references = [weakref.ref(item) for tensor in (a, b, y) for item in (tensor, tensor.data)]
    assert all(reference() is not None for reference in references)
    del a, b, y
    assert [reference() for reference in references] == [None] * 6
    del handle


def owner(array):
    """The array whose memory this view looks at."""
    return array if array.base is None else owner(array.base)


def test_a_network_leaves_nothing_behind(no_gc):
    model = tinyres.models.CifarResNet(8, width=0.25)
    seen = []
    handle = model.layer1.register_forward_hook(lambda _, inputs, output: seen.append(weakref.ref(owner(output.data))))
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32))
    loss = F.cross_entropy(model(x), np.array([1, 2]))
    assert seen[0]() is not None
    loss.backward()
    parameters = [weakref.ref(parameter) for parameter in model.parameters()]
    del loss
    assert seen[0]() is None
    del model, handle
    assert [reference() for reference in parameters] == [None] * len(parameters)


def test_backward_frees_what_the_operations_held():
    x = leaf(1.0, 2.0)
    product = x * leaf(3.0, 4.0)
    inner = weakref.ref(product.data)
    y = (product * product).sum()
    del product
    assert inner() is not None  # the second product needs it
    y.backward()
    assert inner() is None  # although y is still there


@pytest.mark.parametrize("way", ["now", "later", "together"])
def test_backward_holds_what_one_operation_needs(no_gc, way):
    """When a pullback runs, what those before it held is gone, and so are their gradients: also where they gave
    functions, and where hooks put other gradients in their place."""
    held, gradients, counts = [], [], []

    def alive(references):
        return sum(reference() is not None for reference in references)

    @differentiable
    def double(x):
        y, kept = 2 * x, x.copy()
        held.append(weakref.ref(kept))

        def pullback(dy):
            gradients.append(weakref.ref(dy))
            counts.append((alive(held), alive(gradients)))

            def gradient():
                return dy * 2 + 0 * kept

            return gradient() if way == "now" else (gradient,) if way == "later" else lambda needed: (gradient(),)

        return y, pullback

    x = y = leaf(1.0, 2.0)
    for _ in range(4):
        y = double(y)
        y.register_hook(lambda grad: grad + 0)
    y.sum().backward()
    assert counts == [(4, 1), (3, 1), (2, 1), (1, 1)]
    assert values(x.grad) == [16, 16]


def test_results_outlive_the_leaves_they_came_from():
    x = leaf(1.0)
    y = x * 2
    del x
    y.backward()


def test_interior_gradients_are_not_kept():
    x = leaf(1.0)
    a = x * 2
    y = a * 3
    y.backward()
    assert a.grad is None and y.grad is None


def test_retain_grad_keeps_them():
    x = leaf(1.0, 2.0)
    a = x * 2
    y = a * a
    a.retain_grad()
    y.retain_grad()
    y.backward(np.array([1.0, 10.0]))
    assert values(a.grad) == [4, 80]
    assert values(y.grad) == [1, 10]
    assert values(x.grad) == [8, 160]
    with pytest.raises(RuntimeError, match="retain_grad"):
        Tensor(1.0).retain_grad()


def test_copies_and_pickles_lie_in_memory_as_the_tensor_does():
    """A matrix product of another layout may round otherwise."""
    images = np.random.default_rng(0).standard_normal((2, 5, 4, 3)).transpose(0, 3, 1, 2)
    for array in (images, images.transpose(3, 2, 1, 0), np.ones((2, 3)), np.array(1.5)):
        x = Tensor(array, requires_grad=True)
        for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x)), pickle.loads(pickle.dumps(x, 5))):
            assert twin.data.strides == array.strides and np.array_equal(twin.data, array) and twin.requires_grad


def test_no_gradient_shares_memory_with_anything():
    cotangent = np.array([[1.0, 2.0], [3.0, 4.0]])
    x, y = (Tensor(np.ones((2, 2)), requires_grad=True) for _ in range(2))
    total = x + y  # hands both the same array
    views = total.reshape(4).reshape(2, 2).T.T[:, :].expand(2, 2)
    for tensor in (total, views):
        tensor.retain_grad()
    views.backward(cotangent, retain_graph=True)
    held = [cotangent] + [array for t in (x, y, total, views) for array in (t.data, t.grad.data)]
    for i, first in enumerate(held):
        for second in held[i + 1 :]:
            shared = first is total.data and second is views.data  # a view, as it should be
            assert shared or not np.shares_memory(first, second)
    before = cotangent.copy()
    x.grad.data += 100
    assert np.array_equal(y.grad.data, before) and np.array_equal(cotangent, before)
    views.backward(cotangent)
    assert np.array_equal(y.grad.data, 2 * before) and np.array_equal(x.grad.data, 2 * before + 100)


def test_a_leafs_gradient_is_not_the_callers_array():
    x, cotangent = leaf(1.0, 2.0), np.array([3.0, 4.0])
    x.backward(cotangent)
    assert not np.shares_memory(x.grad.data, cotangent)


def test_a_gradient_kept_by_a_hook_does_not_change_later():
    x = leaf(1.0, 2.0)
    kept = []
    a = x * 2
    a.register_hook(kept.append)
    (a + a * 3).backward(np.array([1.0, 10.0]))
    before = kept[0].data.copy()
    x.grad.data *= 0
    assert np.array_equal(kept[0].data, before)


def test_second_backward_makes_a_new_gradient():
    """A gradient that somebody kept is not changed behind their back."""
    x = leaf(1.0)
    (x * 2).backward()
    kept = x.grad
    (x * 3).backward()
    assert (values(kept), values(x.grad)) == ([2], [5])


# Hooks


def test_a_hook_is_called_once_with_the_whole_gradient():
    x = leaf(1.0, 2.0)
    a = x * 1
    calls = []
    for tensor in (x, a):
        tensor.register_hook(lambda grad: calls.append(grad))
    (a * 2 + a * 3 + x).sum().backward()
    assert all(isinstance(grad, Tensor) and not grad.requires_grad for grad in calls)
    assert [values(grad) for grad in calls] == [[5, 5], [6, 6]]


def test_a_hooks_replacement_is_used():
    x = leaf(1.0, 2.0)
    a = x * 2
    a.retain_grad()
    a.register_hook(lambda grad: grad * 10)
    a.register_hook(lambda grad: grad + 1)
    x.register_hook(lambda grad: -grad)
    a.sum().backward()
    assert values(a.grad) == [11, 11]
    assert values(x.grad) == [-22, -22]


def test_a_hook_can_be_removed():
    x = leaf(1.0)
    calls = []
    first = x.register_hook(lambda grad: calls.append("first"))
    x.register_hook(lambda grad: calls.append("second"))
    (x * 2).backward()
    first.remove()
    first.remove()
    (x * 2).backward()
    assert calls == ["first", "second", "second"]


def test_a_hook_may_remove_itself():
    x = leaf(1.0)
    calls = []

    def once(grad):
        calls.append(grad)
        handle.remove()

    handle = x.register_hook(once)
    x.register_hook(lambda grad: None)
    for _ in range(2):
        (x * 2).backward()
    assert len(calls) == 1


def test_gradients_are_the_same_to_the_bit_with_and_without_hooks():
    def gradients(watched):
        tinyres.manual_seed(0)
        model = tinyres.models.CifarResNet(8, width=0.25)
        x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32))
        for parameter in model.parameters() if watched else ():
            parameter.register_hook(lambda grad: None)
        F.cross_entropy(model(x), np.array([1, 2])).backward()
        return [parameter.grad.data for parameter in model.parameters()]

    for plain, watched in zip(gradients(False), gradients(True), strict=True):
        assert np.array_equal(plain, watched)


@pytest.mark.parametrize(
    ("hook", "error", "says"),
    [
        (lambda grad: Tensor(np.ones(3)), ValueError, r"mul.*hook.*\(3,\).*expected.*\(2,\)"),
        (lambda grad: Tensor([1.0, 2.0]), TypeError, r"mul.*hook.*float32.*expected.*float64"),
        (lambda grad: grad.data, TypeError, r"mul.*hook.*ndarray.*Tensor"),
    ],
)
def test_a_hooks_replacement_must_fit(hook, error, says):
    a = leaf(1.0, 2.0) * 2
    a.register_hook(hook)
    with pytest.raises(error, match=says):
        a.backward(np.array([1.0, 10.0]))


def test_a_hook_needs_a_gradient_to_watch():
    with pytest.raises(RuntimeError, match="register_hook"):
        Tensor(1.0).register_hook(print)


# Operations of one's own


@differentiable
def cube(x):
    """The third power."""
    return x**3, lambda dy: dy * 3 * x**2


def test_an_operation_of_ones_own():
    x = leaf(2.0, -1.0)
    y = cube(x)
    y.backward(np.array([1.0, 10.0]))
    assert (values(y), values(x.grad)) == ([8, -1], [12, 30])
    assert cube.__name__ == "cube" and cube.__doc__ == "The third power."
    assert values(cube(np.array([2.0]))) == [8]


def test_arguments_may_be_given_by_name():
    @differentiable
    def scale(x, y, factor=1.0):
        return factor * x * y, lambda dy: (factor * dy * y, factor * dy * x)

    x, y = leaf(2.0), leaf(3.0)
    scale(y=y, x=x, factor=10.0).backward()
    assert (values(x.grad), values(y.grad)) == ([30], [20])


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda dy: dy[:1], ValueError, r"broken.*input 0.*\(1,\).*expected.*\(2,\)"),
        (lambda dy: dy[None], ValueError, r"broken.*input 0.*\(1, 2\).*expected.*\(2,\)"),
        (lambda dy: dy.astype(np.float32), TypeError, r"broken.*input 0.*float32.*expected.*float64"),
        (lambda dy: (None, dy[:1]), ValueError, r"broken.*input 1.*\(1,\).*expected.*\(2,\)"),
        (lambda dy: (dy, lambda: dy[:1]), ValueError, r"broken.*input 1.*\(1,\).*expected.*\(2,\)"),
        (lambda dy: dy.sum(), ValueError, r"broken.*input 0.*\(\).*expected.*\(2,\)"),
        (lambda dy: dy, (TypeError, ValueError), "broken.*1 gradient.*2"),  # of two inputs that need one
        (lambda dy: (dy, dy, dy, dy), (TypeError, ValueError), "broken.*4 gradients.*2"),
        (lambda dy: (dy, Tensor(dy)), TypeError, "broken.*input 1.*Tensor.*array"),
    ],
)
def test_a_wrong_pullback_is_named(wrong, error, says):
    @differentiable
    def broken(x, y):
        return x + y, wrong

    with pytest.raises(error, match=says):
        broken(leaf(1.0, 2.0), leaf(3.0, 4.0)).backward(np.array([1.0, 10.0]))


def test_a_gradient_given_as_a_function_is_computed_only_if_needed():
    calls = []

    def expensive(name, gradient):
        calls.append(name)
        return gradient

    @differentiable
    def product(x, y):
        return x * y, lambda dy: (lambda: expensive("x", dy * y), lambda: expensive("y", dy * x))

    x, y = leaf(2.0), leaf(3.0)
    product(x, y.detach()).backward()
    assert (calls, values(x.grad), y.grad) == (["x"], [3], None)
    product(x.data, y).backward()
    assert (calls, values(y.grad)) == (["x", "y"], [2])


def test_gradients_that_share_work_are_told_which_are_needed():
    told = []

    @differentiable
    def product(x, y, scale=1):
        def pullback(dy):
            def gradients(needed):
                told.append(needed)
                return (dy * y * scale if needed[0] else None), (dy * x * scale if needed[1] else None)

            return gradients

        return x * y * scale, pullback

    x, y = leaf(2.0), leaf(3.0)
    product(x, y).backward()
    product(x.data, y, scale=2).backward()
    assert (values(x.grad), values(y.grad)) == ([3], [2 + 4])
    assert told == [[True, True, False], [False, True, False]]


# Anomalies


def line_number():
    return inspect.currentframe().f_back.f_lineno


def test_anomaly_mode_names_operation_shapes_and_line_of_a_forward_nan():
    x = leaf(1.0, -1.0, 4.0)
    with np.errstate(all="ignore"), tinyres.detect_anomaly(), pytest.raises(FloatingPointError) as caught:
        line = line_number() + 1
        x.log()
    message = str(caught.value)
    assert "log: the output has 1 NaN or Inf of 3 values" in message
    assert "input: (3,)" in message
    assert f"{__file__}:{line}: x.log()" in message


def test_anomaly_mode_names_operation_shapes_and_line_of_a_backward_nan():
    x, w = leaf(0.0, 4.0), leaf(1.0, 1.0)
    with np.errstate(all="ignore"), tinyres.detect_anomaly():
        line = line_number() + 1
        root = (x * w).sqrt()
        y = root.sum()
        with pytest.raises(FloatingPointError) as caught:
            y.backward()
    message = str(caught.value)
    assert "sqrt: the gradient for input 0 has 1 NaN or Inf of 2 values" in message
    assert "input: (2,)" in message
    assert f"{__file__}:{line}: root = (x * w).sqrt()" in message


def test_anomaly_mode_ends_with_its_block():
    with np.errstate(all="ignore"):
        with pytest.raises(ZeroDivisionError), tinyres.detect_anomaly():
            raise ZeroDivisionError
        assert np.isnan(Tensor([-1.0]).log().item())
        with tinyres.detect_anomaly():
            assert values(Tensor([1, 2])[1:]) == [2]


def test_anomaly_mode_changes_no_bits():
    x = leaf(0.3, 0.7)
    (x.exp() * x).sum().backward()
    plain, x.grad = x.grad, None
    with tinyres.detect_anomaly():
        (x.exp() * x).sum().backward()
    assert np.array_equal(plain.data, x.grad.data)


# What it looks like


def test_repr():
    assert repr(Tensor([1.0, -2.5])) == "tensor([ 1. , -2.5])"
    assert repr(Tensor([1, 2])) == "tensor([1, 2])"
    assert repr(Tensor(np.array([1.0]))) == "tensor([1.], dtype=float64)"
    assert repr(leaf(1.0, dtype=np.float32)) == "tensor([1.], requires_grad=True)"
    assert repr(leaf(1.0, dtype=np.float32) * 2) == "tensor([2.], op=mul)"
    assert repr(Tensor([[1.0, 2.0], [3.0, 4.0]])) == "tensor([[1., 2.],\n        [3., 4.]])"
    assert len(repr(Tensor(np.zeros((100, 100, 100))))) < 2000


def test_repr_on_a_gpu(cupy):
    assert repr(Tensor([1.0]).to("cuda")) == "tensor([1.], device='cuda')"
