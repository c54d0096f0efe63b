"""What the strategies promise: which cases come, in how many of the "ci" profile's draws, and how they shrink."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import find, given, seed, settings

from tinyres import Tensor, kernels, nn, testing
from tinyres.backend import get_rng_state, to_host
from tinyres.testing import strategies
from tinyres.testing.strategies import (
    LAYOUTS,
    Case,
    bn_cases,
    conv_cases,
    cotangents,
    generic_arrays,
    pool_cases,
    residual_nets,
    shapes,
    strided_arrays,
)


def drawn(strategy, start=0):
    """What the profile "ci" draws of a strategy for one test: 100 cases."""
    cases = []

    @seed(start)
    @settings(settings.get_profile("ci"), database=None)
    @given(strategy)
    def collect(case):
        cases.append(case)

    collect()
    assert len(cases) >= 100
    return cases


def assert_has(strategy, features, rare=None):
    """Each feature, a condition on a case, holds for some case of each test, each rare one for some case of three."""
    tests = [drawn(strategy, start) for start in range(3)]
    counts = [{name: sum(map(bool, map(holds, cases))) for name, holds in features.items()} for cases in tests]
    cases = list(chain.from_iterable(tests))
    counts += [{name: sum(map(bool, map(holds, cases))) for name, holds in (rare or {}).items()}]
    for count in counts:
        assert all(count.values()), count
    return cases


def smallest(strategy, condition):
    return find(strategy, condition, settings=settings(settings.get_profile("ci"), max_examples=300, database=None))


# Which cases come


def conv_axes(case):
    """(size, kernel, stride, padding, dilation) down and across."""
    options = case.options
    x, w, _ = case.args
    return zip(x.shape[2:], w.shape[2:], options["stride"], options["padding"], options["dilation"], strict=True)


def any_axis(condition):
    return lambda case: any(condition(*axis) for axis in conv_axes(case))


def extent(k, d):
    return d * (k - 1) + 1


IMAGES = {
    "N, C, H, W pairwise distinct": lambda case: len(set(case.args[0].shape)) == case.args[0].ndim == 4,
    "N = 1": lambda case: case.args[0].shape[0] == 1,
    "C = 1": lambda case: case.args[0].shape[1] == 1,
    "N > 1 and C > 1": lambda case: min(case.args[0].shape[:2]) > 1,
    "not contiguous": lambda case: not case.args[0].flags.c_contiguous,
}
LAID_OUT = {name: lambda case, name=name: case.layouts[0] == name for name in LAYOUTS}
CONVOLUTIONS = IMAGES | {
    "stride leaves a rest": any_axis(lambda size, k, s, p, d: (size + 2 * p - extent(k, d)) % s),
    "stride skips pixels": any_axis(lambda size, k, s, p, d: s > extent(k, d) and size > 1),
    "stride differs": lambda case: len(set(case.options["stride"])) == 2,
    "dilation": any_axis(lambda size, k, s, p, d: d > 1 and k > 1),
    "dilation differs": lambda case: len(set(case.options["dilation"])) == 2,
    "no padding": lambda case: not any(case.options["padding"]),
    "padding > k/2": any_axis(lambda size, k, s, p, d: p > k / 2),
    "padding beyond the window": any_axis(lambda size, k, s, p, d: p >= extent(k, d)),
    "padding differs": lambda case: len(set(case.options["padding"])) == 2,
    "window as large as the image": any_axis(lambda size, k, s, p, d: size == k > 1),
    "1×1 kernel": lambda case: case.args[1].shape[2:] == (1, 1),
    "KH ≠ KW": lambda case: len(set(case.args[1].shape[2:])) == 2,
    "groups": lambda case: case.options["groups"] > 1,
    "depthwise": lambda case: case.options["groups"] > 1 and case.args[1].shape[1] == 1,
    "several channels in each group": lambda case: case.options["groups"] > 1 and case.args[1].shape[1] > 1,
    "bias": lambda case: case.args[2] is not None,
    "no bias": lambda case: case.args[2] is None,
    "weight not contiguous": lambda case: not case.args[1].flags.c_contiguous,
}


def test_convolutions_have_all_that_hides_a_bug():
    assert_has(conv_cases(), CONVOLUTIONS, LAID_OUT)


def test_poolings_have_all_that_hides_a_bug():
    def axes(case):
        return list(zip(case.args[0].shape[2:], *case.options.values(), strict=True))

    features = {
        "stride leaves a rest": lambda case: any((size + 2 * p - k) % s for size, k, s, p in axes(case)),
        "windows overlap": lambda case: any(s < k for size, k, s, p in axes(case)),
        "pixels that no window sees": lambda case: any(s > k for size, k, s, p in axes(case)),
        "padding": lambda case: any(case.options["padding"]),
        "window as large as the image": lambda case: any(size == k > 1 for size, k, s, p in axes(case)),
    }
    cases = assert_has(pool_cases(), IMAGES | features, LAID_OUT)
    assert all(2 * p <= k for case in cases for _, k, _, p in axes(case))


@pytest.mark.parametrize("fused", [False, True])
def test_batch_norms_have_both_modes_and_all_that_hides_a_bug(fused):
    features = {
        "training": lambda case: case.options["training"],
        "evaluation": lambda case: not case.options["training"],
        "(N, C)": lambda case: case.args[0].ndim == 2,
        "two values in a channel": lambda case: case.args[0].size == 2 * case.args[0].shape[1],
        "no running statistics": lambda case: case.args[-4] is None,
        "running statistics in training": lambda case: case.options["training"] and case.args[-4] is not None,
        "weight": lambda case: case.args[-2] is not None,
        "no weight": lambda case: case.args[-2] is None,
        "negative weight": lambda case: case.args[-2] is not None and (case.args[-2] < 0).any(),
        "bias": lambda case: case.args[-1] is not None,
        "no bias": lambda case: case.args[-1] is None,
    }
    if fused:
        features |= {"residual": lambda case: case.args[1] is not None, "none": lambda case: case.args[1] is None}
    for case in assert_has(bn_cases(fused=fused), IMAGES | features, LAID_OUT):
        x = case.args[0]
        assert len(case.args) == 5 + fused
        assert not case.options["training"] or x.std((0, *range(2, x.ndim))).min() > 0.49


def test_one_mode_of_batch_norm_can_be_asked_for():
    for training in (True, False):
        assert {case.options["training"] for case in drawn(bn_cases(training=training))} == {training}


def test_sizes_of_a_convolution_can_be_fixed():
    for case in drawn(conv_cases(kernel_size=3, stride=1, padding=0, dilation=2, groups=2)):
        assert case.args[1].shape[2:] == (3, 3)
        assert case.options == dict(stride=(1, 1), padding=(0, 0), dilation=(2, 2), groups=2)


def test_arrays_come_in_all_layouts_and_numbers_of_axes():
    features = {
        "contiguous": lambda x: x.flags.c_contiguous,
        "not contiguous": lambda x: not x.flags.forc,
        "negative strides": lambda x: min(x.strides, default=0) < 0,
        "stride 0": lambda x: x.ndim and x.strides[0] == 0 and x.shape[0] > 1,
        **{f"{dims} axes": lambda x, dims=dims: x.ndim == dims for dims in range(5)},
    }
    arrays = assert_has(strided_arrays(), {}, features)
    assert all(x.dtype == np.float64 and 0 < x.size <= 5**4 and np.isfinite(x).all() for x in arrays)
    assert all(x.flags.c_contiguous for x in drawn(generic_arrays()))
    assert {(x.shape, x.dtype.name) for x in drawn(strided_arrays((2, 3), np.float32))} == {((2, 3), "float32")}
    assert {len(shape) for shape in drawn(shapes(2, 3))} == {2, 3}


def test_cotangents_are_like_the_output_and_never_constant():
    for shape in [(4, 3), (2, 3, 4, 5), (3, 1, 1, 4)]:
        like = np.zeros(shape, np.float32)
        for g in drawn(cotangents(like)):
            assert g.shape == shape and g.dtype == np.float32 and isinstance(g, np.ndarray)
            assert g.std((0, *range(2, g.ndim))).min() > 0  # for each channel, as batch norm sees it


def test_cotangents_are_on_the_device_of_the_output(cupy):
    for g in drawn(cotangents(cupy.zeros((2, 3, 4, 5)))):
        assert isinstance(g, cupy.ndarray) and g.shape == (2, 3, 4, 5)


def test_networks_have_all_blocks_and_shortcuts():
    nets = [net for start in range(3) for net in drawn(residual_nets(), start)]
    blocks = [block for net in nets for block in net.module]
    counts = Counter(type(block).__name__ for block in blocks)
    counts += Counter(f"depth {len(net.module)}" for net in nets)
    counts += Counter(type(block.downsample).__name__ for block in blocks)
    assert set(counts) == {
        *("BasicBlock", "Bottleneck", "PreActBlock", "depth 1", "depth 2", "depth 3"),
        *("NoneType", "Subsample", "Sequential", "Conv2d"),
    }
    for net in nets[:50]:
        y = net.module(Tensor(net.input))
        assert y.dtype == np.float64 and len(y) == len(net.input) and np.isfinite(y.data).all()
        assert {p.dtype.name for p in net.module.parameters()} == {"float64"}
        for name, parameter in net.module.named_parameters():
            values = parameter.data
            assert not ((values == 0) | (values == 1)).any(), name  # no starting points


def test_identity_networks_keep_the_shape_and_their_depth_is_limited():
    nets = drawn(residual_nets(max_depth=4, blocks=(nn.PreActBlock, nn.Bottleneck), identity=True))
    for net in nets:
        assert all(block.downsample is None for block in net.module)
        assert net.module(Tensor(net.input)).shape == net.input.shape
    assert {type(block) for net in nets for block in net.module} == {nn.PreActBlock, nn.Bottleneck}
    assert {len(net.module) for net in nets} == {1, 2, 3, 4}


def test_drawing_a_network_leaves_the_global_generator_alone():
    before = get_rng_state()
    drawn(residual_nets())
    assert get_rng_state() == before


# Layouts and devices


@pytest.mark.parametrize("on", ["numpy", "cupy"])
def test_layouts_have_the_strides_that_they_promise(on, cupy):
    module = {"numpy": np, "cupy": cupy}[on]
    values = np.broadcast_to(np.arange(60.0).reshape(1, 3, 4, 5), (2, 3, 4, 5))
    strides = {
        "contiguous": (60, 20, 5, 1),
        "channels-last": (60, 1, 15, 3),
        "transposed": (1, 2, 6, 24),
        "every other": (960, 160, 20, 2),
        "backwards": (-60, -20, -5, -1),
        "broadcast": (0, 20, 5, 1),
    }
    assert list(strides) == list(LAYOUTS)
    for name, layout in LAYOUTS.items():
        given_array = module.asarray(values)
        array = layout(given_array)
        assert type(array) is module.ndarray and np.array_equal(to_host(array), values), name
        assert tuple(stride // 8 for stride in array.strides) == strides[name]
        assert not module.shares_memory(array, given_array)
        for shape in [(), (1,), (3,), (1, 4)]:
            small = layout(module.ones(shape))
            assert type(small) is module.ndarray and small.shape == shape and (to_host(small) == 1).all()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_case_moves_with_its_strides(device, cupy):
    for case in drawn(conv_cases()):
        moved = case.to(device)
        assert (moved.options, moved.seed, moved.layouts) == (case.options, case.seed, case.layouts)
        for here, there in zip(case.args, moved.args, strict=True):
            if here is None:
                assert there is None
            else:
                assert type(there) is (np if device == "cpu" else cupy).ndarray
                assert there.strides == here.strides and np.array_equal(to_host(there), here)
                assert device == "cuda" or not np.shares_memory(here, there)


def test_a_network_moves_as_a_copy(cupy):
    net = smallest(residual_nets(), lambda net: len(net.module) > 1)
    moved = net.to("cuda")
    assert {p.device for p in moved.module.parameters()} == {"cuda"} == {Tensor(moved.input).device}
    assert {p.device for p in net.module.parameters()} == {"cpu"}
    copied = net.to("cpu")
    assert not np.shares_memory(copied.input, net.input)
    for a, b in zip(copied.module.parameters(), net.module.parameters(), strict=True):
        assert np.array_equal(a.data, b.data) and not np.shares_memory(a.data, b.data)


# Values


def test_the_values_come_from_the_seed_alone():
    for strategy in (conv_cases(), bn_cases(), pool_cases()):
        first, second = drawn(strategy), drawn(strategy)
        for a, b in zip(first, second, strict=True):
            assert repr(a) == repr(b)
            assert all(np.array_equal(x, y) for x, y in zip(a.args, b.args, strict=True) if x is not None)


def test_what_a_test_draws_besides_is_not_the_input_again():
    case = smallest(conv_cases(), lambda case: case.args[0].size > 4)
    more = case.rng.standard_normal(case.args[0].shape)
    assert not np.array_equal(more, case.args[0])
    assert not np.array_equal(more, case.rng.standard_normal(more.shape))


# How they shrink, and how they look


def test_cases_shrink_to_the_smallest():
    case = smallest(conv_cases(), lambda case: True)
    assert (case.args[0].shape, case.args[1].shape, case.args[2]) == ((1, 1, 1, 1), (1, 1, 1, 1), None)
    assert case.options == dict(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
    assert (case.layouts, case.seed) == (("contiguous", "contiguous"), 0)
    case = smallest(conv_cases(), lambda case: case.options["groups"] > 1 and case.options["padding"][1] > 1)
    assert (case.options["groups"], case.options["padding"], case.args[0].shape) == (2, (0, 2), (1, 2, 1, 1))
    assert smallest(pool_cases(), lambda case: case.args[0].shape[3] > 3).args[0].shape == (1, 1, 1, 4)
    case = smallest(bn_cases(), lambda case: case.options["training"])
    assert (case.args[0].shape, case.args[1:]) == ((2, 1), (None,) * 4)
    x = smallest(strided_arrays(), lambda x: min(x.strides, default=0) < 0)
    assert x.shape == (1,)
    assert [type(block) for block in smallest(residual_nets(), lambda net: True).module] == [nn.PreActBlock]


def test_cases_show_shapes_and_seed_and_no_values():
    x, w = np.zeros((2, 3, 50, 60)), np.zeros((4, 3, 3, 3))
    case = Case(7, (x, w, None, 1.5), dict(stride=(1, 2)), ("backwards",))
    assert repr(case) == "Case((2, 3, 50, 60) backwards, (4, 3, 3, 3), None, 1.5, stride=(1, 2), seed=7)"
    net = smallest(residual_nets(), lambda net: True)
    assert repr(net).startswith("Net([PreActBlock] of (1, 4, 4, 5), seed=0): Sequential(\n")


def test_a_failing_test_shows_its_case():
    @settings(settings.get_profile("ci"), database=None, print_blob=False)
    @given(case=conv_cases())
    def fails(case):
        assert case.args[0].shape[0] == 1

    with pytest.raises(AssertionError) as failure:
        fails()
    assert "case=Case((2, 1, 1, 1) contiguous, (1, 1, 1, 1) contiguous, None, stride=(1, 1)" in "".join(
        failure.value.__notes__
    )


# Profiles


@pytest.fixture
def profile_afterwards():
    """Puts the profile back that the other tests run with."""
    settings.register_profile("before", settings.default)
    yield
    settings.load_profile("before")


@pytest.mark.parametrize("name, examples", [("dev", 25), ("ci", 100), ("nightly", 1000)])
def test_profiles(name, examples, monkeypatch, profile_afterwards):
    for load in (lambda: strategies.load_profile(name), strategies.load_profile):
        load()
        assert settings.default.max_examples == examples
        assert settings.default.deadline is None and settings.default.print_blob
        assert settings.default.derandomize == (name == "ci")
        monkeypatch.setenv("HYPOTHESIS_PROFILE", name)


def test_the_profile_is_ci_unless_something_else_is_said(monkeypatch, profile_afterwards):
    monkeypatch.delenv("HYPOTHESIS_PROFILE", raising=False)
    strategies.load_profile()
    assert settings.default.max_examples == 100


def test_an_unknown_profile_gets_a_sentence(monkeypatch):
    monkeypatch.setenv("HYPOTHESIS_PROFILE", "fast")
    with pytest.raises(ValueError, match=r"the profile is 'fast', expected one of 'dev', 'ci', 'nightly'"):
        strategies.load_profile()


# With the checks


@given(case=conv_cases())
def test_convolution_passes_the_check_of_its_gradients(case):
    assert testing.check_vjp(kernels.conv2d, *case.args, directions=1, **case.options)


@given(case=bn_cases())
def test_batch_norm_passes_the_check_of_its_gradients(case):
    assert testing.check_vjp(kernels.batch_norm, *case.args, directions=1, **case.options)


@given(case=pool_cases())
def test_pooling_passes_the_check_of_its_gradients(case):
    for kernel in (kernels.max_pool2d, kernels.avg_pool2d):
        assert testing.check_vjp(kernel, *case.args, directions=1, **case.options)
