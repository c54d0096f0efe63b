"""The strict fake of CuPy refuses what CuPy refuses, and gives what CuPy gives."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

Setup = tuple[ModuleType, Any, np.ndarray]


@pytest.fixture
def setup(cupy: ModuleType) -> Setup:
    """The module, an array on the "device" and its twin on the host."""
    host = np.random.default_rng(0).standard_normal((2, 3, 4), dtype=np.float32)
    return cupy, cupy.asarray(host), host


def test_is_found_by_import(setup: Setup) -> None:
    cupy, x, _ = setup
    assert importlib.import_module("cupy") is cupy
    assert importlib.import_module("cupy.lib.stride_tricks") is cupy.lib.stride_tricks
    assert (type(x).__module__, type(x).__name__) == ("cupy", "ndarray")
    assert cupy.get_array_module(x) is cupy
    assert cupy.get_array_module(np.ones(2)) is np
    assert cupy.cuda.runtime.getDeviceCount() == 1
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, RuntimeError)


IMPLICIT = "Implicit conversion to a NumPy array is not allowed. Please use `.get()`"
UNSUPPORTED = "Unsupported type <class 'numpy.ndarray'>"

REFUSED: dict[str, tuple[Callable[[Any, Any, Any], Any], type[Exception], str]] = {
    # host and device arrays do not mix
    "np.asarray": (lambda cp, x, h: np.asarray(x), TypeError, IMPLICIT),
    "np.array of a list": (lambda cp, x, h: np.array([x, x]), TypeError, IMPLICIT),
    "host += device": (lambda cp, x, h: h.__iadd__(x), TypeError, UNSUPPORTED),
    "host item = device": (lambda cp, x, h: h.__setitem__(0, x[0]), TypeError, IMPLICIT),
    "cupy.asarray of a mixed list": (lambda cp, x, h: cp.asarray([x[0, 0, 0], 1.0]), TypeError, IMPLICIT),
    "np.add": (lambda cp, x, h: np.add(x, h), TypeError, UNSUPPORTED),
    "device + host": (lambda cp, x, h: x + h, TypeError, UNSUPPORTED),
    "host + device": (lambda cp, x, h: h + x, TypeError, UNSUPPORTED),
    "device @ host": (lambda cp, x, h: x @ h.T, TypeError, UNSUPPORTED),
    "device += host": (lambda cp, x, h: x.__iadd__(h), TypeError, UNSUPPORTED),
    "ufunc of host": (lambda cp, x, h: cp.exp(h), TypeError, UNSUPPORTED),
    "function of host": (lambda cp, x, h: cp.sum(h), TypeError, UNSUPPORTED),
    "list of host": (lambda cp, x, h: cp.concatenate([x, h]), TypeError, UNSUPPORTED),
    "host index": (lambda cp, x, h: x[np.array([0, 1])], TypeError, UNSUPPORTED),
    "host value": (lambda cp, x, h: x.__setitem__(0, h[0]), TypeError, UNSUPPORTED),
    "host take": (lambda cp, x, h: cp.take(x, np.array([0]), axis=0), TypeError, UNSUPPORTED),
    "host where": (lambda cp, x, h: cp.where(x > 0, h, 0), TypeError, UNSUPPORTED),
    "host einsum": (lambda cp, x, h: cp.einsum("abc,abc->a", x, h), TypeError, "arrays on the device"),
    "host out": (lambda cp, x, h: cp.exp(x, out=h), TypeError, UNSUPPORTED),
    "host out of a function": (lambda cp, x, h: cp.sum(x, out=h), TypeError, "must be cupy.ndarray"),
    # lists and numbers are not arrays
    "sum of a list": (lambda cp, x, h: cp.sum([1, 2]), TypeError, "Unsupported type <class 'list'>"),
    "sum of a number": (lambda cp, x, h: cp.sum(1.0), TypeError, "Unsupported type <class 'float'>"),
    "list operand": (lambda cp, x, h: x * [1, 2, 3, 4], TypeError, "Unsupported type <class 'list'>"),
    "== None": (lambda cp, x, h: x == None, TypeError, "NoneType"),  # noqa: E711
    "text": (lambda cp, x, h: cp.asarray(["a"]), ValueError, "Unsupported dtype"),
    # parameters that CuPy lacks
    "sum where": (lambda cp, x, h: cp.sum(x, where=x > 0), TypeError, "'where'"),
    "sum initial": (lambda cp, x, h: x.sum(initial=0), TypeError, "'initial'"),
    "mean where": (lambda cp, x, h: x.mean(where=x > 0), TypeError, "'where'"),
    "max initial": (lambda cp, x, h: cp.max(x, initial=0), TypeError, "'initial'"),
    "ufunc where": (lambda cp, x, h: cp.exp(x, where=True), TypeError, "'where'"),
    "ufunc order": (lambda cp, x, h: cp.exp(x, order="K"), TypeError, "'order'"),
    "clip min, max": (lambda cp, x, h: cp.clip(x, min=0, max=1), TypeError, "clip()"),
    "clip of one side": (lambda cp, x, h: cp.clip(x, 0), TypeError, "'a_max'"),
    "astype casting": (lambda cp, x, h: x.astype(float, casting="safe"), TypeError, "casting"),
    "einsum order": (lambda cp, x, h: cp.einsum("abc->a", x, order="C"), TypeError, "order"),
    "as_strided writeable": (
        lambda cp, x, h: cp.lib.stride_tricks.as_strided(x, writeable=False),
        TypeError,
        "'writeable'",
    ),
    # names that CuPy lacks, and some that only the fake lacks
    "errstate": (lambda cp, x, h: cp.errstate(), AttributeError, "no attribute 'errstate'"),
    "einsum_path": (lambda cp, x, h: cp.einsum_path, AttributeError, "no attribute 'einsum_path'"),
    "setflags": (lambda cp, x, h: x.setflags(write=False), AttributeError, "setflags"),
    "ctypes": (lambda cp, x, h: x.ctypes, AttributeError, "ctypes"),
    "flags.writeable": (lambda cp, x, h: x.flags.writeable, AttributeError, "writeable"),
    "as a Python index": (lambda cp, x, h: range(x[0, 0, 0].astype(int)), TypeError, "integer"),
    "RawKernel": (lambda cp, x, h: cp.RawKernel, AttributeError, "does not model it"),
    "maximum.reduce": (lambda cp, x, h: cp.maximum.reduce(x), NotImplementedError, "maximum"),
    "multiply.at": (lambda cp, x, h: cp.multiply.at(x, [0], 2), NotImplementedError, "multiply.at"),
    "add.at of int64": (lambda cp, x, h: cp.add.at(cp.arange(3), [0], 1), TypeError, "scatter_add"),
    # what CuPy lets pass and computes wrongly
    "duplicate indices": (lambda cp, x, h: x.__setitem__(cp.asarray([0, 0]), 1), IndexError, "duplicate"),
    "-1 is the last": (lambda cp, x, h: x.__setitem__(([0, 0], [2, -1]), 1), IndexError, "duplicate"),
    "duplicate put": (lambda cp, x, h: cp.put(x, cp.asarray([1, 1]), 1), IndexError, "duplicate"),
    "duplicate put_along_axis": (
        lambda cp, x, h: cp.put_along_axis(x, cp.zeros((2, 3, 2), int), 1.0, 2),
        IndexError,
        "duplicate",
    ),
    "index out of range": (lambda cp, x, h: x[cp.asarray([2])], IndexError, "out of bounds"),
    "take out of range": (lambda cp, x, h: cp.take(x, 2, axis=0), IndexError, "out of bounds"),
    "two masks": (lambda cp, x, h: x[[True, False], [True, False, True]], ValueError, "boolean"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(setup: Setup, name: str) -> None:
    call, error, message = REFUSED[name]
    with pytest.raises(error) as caught:
        call(*setup)
    assert message in str(caught.value)


def test_the_left_operand_defers_only_to_classes_that_ask_for_it(setup: Setup) -> None:
    class Plain:
        def __radd__(self, other: Any) -> str:
            return "mine"

    class Asking(Plain):
        __array_ufunc__ = None

    _, x, _ = setup
    assert x + Asking() == "mine"
    with pytest.raises(TypeError):
        x + Plain()


def test_synchronisations_are_counted(setup: Setup) -> None:
    cupy, x, _ = setup
    waits = {
        "item": lambda: x.sum().item(),
        "float": lambda: float(x.sum()),
        "int": lambda: int(x.sum()),
        "bool": lambda: bool((x > 0).any()),
        "if": lambda: 1 if x.sum() > 0 else 0,
        "get": lambda: x.get(),
        "asnumpy": lambda: cupy.asnumpy(x),
        "tolist": lambda: x.tolist(),
        "repr": lambda: repr(x),
        "format": lambda: f"{x.sum():.3f}",
        "mask": lambda: x[x > 0],
        "nonzero": lambda: cupy.nonzero(x),
        "where": lambda: cupy.where(x > 0),
        "unique": lambda: cupy.unique(x),
        "synchronize": lambda: cupy.cuda.Device(0).synchronize(),
        "stream": lambda: cupy.cuda.Stream.null.synchronize(),
    }
    for name, wait in waits.items():
        before = cupy.synchronisations()
        wait()
        assert cupy.synchronisations() == before + 1, name


def test_work_on_the_device_does_not_synchronise(setup: Setup) -> None:
    cupy, x, host = setup
    before = cupy.synchronisations()
    y = cupy.asarray(host).mean(axis=(0, 2), keepdims=True)
    y = cupy.where(x > y, x, 0) @ cupy.ones((4, 2), np.float32)
    y[cupy.arange(2), cupy.asarray([0, 2])] -= 1
    cupy.allclose(y, y)
    assert cupy.synchronisations() == before


def test_reductions_give_arrays_of_no_dimensions(setup: Setup) -> None:
    cupy, x, host = setup
    for y in (x.sum(), cupy.sum(x), cupy.mean(x), x.argmax(), cupy.add(1, 2), x[0, 0, 0], (x == x).all()):
        assert isinstance(y, cupy.ndarray) and y.shape == ()
    assert isinstance(cupy.allclose(x, x), cupy.ndarray)
    np.testing.assert_array_equal(x.sum(axis=(0, 2)).get(), host.sum(axis=(0, 2)))


def test_scalars_promote_as_nep_50_says(setup: Setup) -> None:
    _, x, _ = setup
    assert (x * 2.0).dtype == (np.float32(2) * x).dtype == np.float32
    assert (x * np.float64(2)).dtype == (np.float64(2) * x).dtype == np.float64


def test_device_memory_is_apart_from_host_memory(setup: Setup) -> None:
    cupy, x, host = setup
    before = host.copy()
    x += 1
    x[0] = 0
    np.testing.assert_array_equal(host, before)
    assert not np.may_share_memory(x.get(), x.get())
    assert cupy.asarray(x) is x and x.astype(np.float32, copy=False) is x


def test_views_share_memory_and_out_is_returned(setup: Setup) -> None:
    cupy, x, _ = setup
    row, item = x[0], x[1, 1, 1]
    x.fill(7)
    assert float(row.sum()) == 7 * 12 and float(item) == 7
    assert row.base is not None and x.base is None
    out = cupy.empty_like(x)
    assert cupy.exp(x, out) is out and cupy.add(x, 1, out=out) is out
    total = cupy.empty(3, np.float32)
    assert cupy.sum(x, axis=(0, 2), out=total) is total


def test_layout_of_results_is_that_of_cupy(setup: Setup) -> None:
    """Ufuncs, reductions and transfers give C order; copies with order "K" and `..._like` keep the layout."""
    cupy, _, _ = setup
    x = cupy.zeros((2, 5, 5, 3), np.float32).transpose(0, 3, 1, 2)  # channels-last
    assert not x.flags.c_contiguous and x.transpose(0, 2, 3, 1).flags.c_contiguous
    for keeps in (cupy.empty_like(x), cupy.copy(x), x.astype(np.float64), x[1:], cupy.array(x)):
        assert keeps.transpose(0, 2, 3, 1).flags.c_contiguous
    for loses in (x + 1, x + x, cupy.maximum(x, 0), cupy.where(x > 0, x, 0), x.copy(), copy.deepcopy(x)):
        assert loses.flags.c_contiguous
    assert x.get().flags.c_contiguous
    on_host = np.zeros((2, 5, 5, 3)).transpose(0, 3, 1, 2)
    assert cupy.asarray(on_host).flags.c_contiguous


def test_parameters_are_those_of_cupy_not_of_numpy(setup: Setup) -> None:
    cupy, x, host = setup
    assert cupy.empty(3, np.float32, "C").dtype == np.float32
    assert cupy.argmax(x, axis=2, keepdims=True).shape == (2, 3, 1)
    np.testing.assert_array_equal(cupy.concatenate(tup=[x, x]).get(), np.concatenate([host, host]))
    np.testing.assert_array_equal(cupy.reshape(x, newshape=(6, 4)).get(), host.reshape(6, 4))
    np.testing.assert_array_equal(cupy.clip(x, None, 0.5).get(), np.minimum(host, 0.5))


def test_numpy_functions_dispatch_to_the_device(setup: Setup) -> None:
    cupy, x, host = setup
    for y, expected in (
        (np.exp(x), np.exp(host)),
        (np.sum(x), host.sum()),
        (np.matmul(x, x.mT), host @ host.mT),
    ):
        assert isinstance(y, cupy.ndarray)
        np.testing.assert_array_equal(y.get(), expected)


def test_scatter_adds_duplicates(setup: Setup) -> None:
    cupy, _, _ = setup
    y = cupy.zeros(3, np.float32)
    cupy.add.at(y, cupy.asarray([0, 2, 0]), cupy.asarray([1, 2, 3], np.float32))
    assert y.get().tolist() == [4, 0, 2]


def test_pickles_and_copies(setup: Setup) -> None:
    _, x, host = setup
    for y in (pickle.loads(pickle.dumps(x)), copy.copy(x), copy.deepcopy(x)):
        np.testing.assert_array_equal(y.get(), host)


def test_functions_written_by_hand_have_cupys_parameters(cupy: ModuleType) -> None:
    from strict_cupy.array import ndarray
    from strict_cupy.functions import BY_HAND
    from strict_cupy.signatures import SNAPSHOT, same_parameters

    for name, function in BY_HAND.items():
        if function is not cupy.matmul:  # which is bound to the snapshot itself
            assert same_parameters(function, SNAPSHOT["functions"][name]), name
    for name in ("astype", "get", "item", "set", "view"):
        assert same_parameters(getattr(ndarray, name), SNAPSHOT["methods"][name]), name


def test_offers_no_name_that_cupy_lacks(cupy: ModuleType) -> None:
    from strict_cupy.functions import namespace
    from strict_cupy.signatures import SNAPSHOT

    assert not set(namespace()) - set(SNAPSHOT["names"])
    own = {name for name in set(dir(cupy.ndarray)) - set(dir(object)) if name != "_host"}
    assert not own - set(SNAPSHOT["attributes"]) - {"__weakref__"}


def test_snapshot_is_that_of_the_installed_cupy() -> None:
    pytest.importorskip("cupy", reason="CuPy is not installed, so its snapshot cannot be checked")
    import snapshot_cupy

    recorded = json.loads(snapshot_cupy.SNAPSHOT.read_text())
    installed = sys.modules["cupy"].__version__
    if installed != recorded["version"]:
        pytest.skip(f"the snapshot is of CuPy {recorded['version']}, CuPy {installed} is installed")
    assert snapshot_cupy.snapshot() == recorded
