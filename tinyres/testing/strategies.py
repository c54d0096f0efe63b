"""Hypothesis strategies: what to try a backward pass on.

    @given(conv_cases())
    def test_my_convolution(case):
        assert testing.check_vjp(my_conv2d, *case.args, **case.options)

Hypothesis draws what it is good at, sizes, options, memory layouts and a seed, and NumPy draws the values from the
seed. That is fast, and still shrinks: to one pixel, stride 1, no padding, contiguous. What hides a bug is avoided:
the four sizes of an image are drawn one by one and often all differ, values are never all zeros or ones, and a batch
norm's channels have a spread. What shows one is there: strides that leave a rest, groups and dilation, a padding wider
than the window, batches of one image, one channel, views that are not contiguous, repeat themselves, or run backwards
through memory.

Needs Hypothesis: ``pip install 'tinyres[hypothesis]'``.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tinyres.backend import Array, device_of, get_rng_state, is_array, set_rng_state, to_device, xp
from tinyres.nn import BasicBlock, BatchNorm2d, Bottleneck, Conv2d, Module, PreActBlock, Sequential

Shape = tuple[int, ...]
Strategy = st.SearchStrategy

# Profiles

EXAMPLES = {"dev": 25, "ci": 100, "nightly": 1000}  # of each test


def load_profile(name: str | None = None) -> None:
    """Make a profile the default of all tests defined from now on.

    name: "dev" (25 examples), "ci" (100, the same ones in each run) or "nightly" (1000); if None, what the environment
    variable HYPOTHESIS_PROFILE says, or "ci". No example has a deadline, and a failure prints how to see it again.
    """
    name = name or os.environ.get("HYPOTHESIS_PROFILE", "ci")
    if name not in EXAMPLES:
        raise ValueError(f"load_profile: the profile is {name!r}, expected one of {', '.join(map(repr, EXAMPLES))}")
    for each, examples in EXAMPLES.items():
        settings.register_profile(
            each,
            max_examples=examples,
            deadline=None,
            derandomize=each == "ci",  # so that a failure is the change's and not the draw's
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],  # the machine may be busy
        )
    settings.load_profile(name)


# Memory layouts: each function makes a fresh array with the values of the one given, on its device.


def contiguous(array: Array) -> Array:
    return array.copy()


def channels_last(array: Array) -> Array:
    """As the kernels leave it: read (N, C, H, W), in memory (N, H, W, C)."""
    if array.ndim < 3:
        return array.copy()
    module = xp(array)
    return module.moveaxis(module.moveaxis(array, 1, -1).copy(), -1, 1)


def transposed(array: Array) -> Array:
    """All axes in the reverse order, as Fortran has them."""
    return array.T.copy().T


def every_other(array: Array) -> Array:
    """A view of every other element along each axis, NaN in between."""
    inside = (..., *(slice(None, None, 2),) * array.ndim)
    spaced = xp(array).full([2 * size for size in array.shape], math.nan, dtype=array.dtype)
    spaced[inside] = array
    return spaced[inside]


def backwards(array: Array) -> Array:
    """Negative strides along each axis."""
    reverse = (..., *(slice(None, None, -1),) * array.ndim)
    return array[reverse].copy()[reverse]


def broadcast(array: Array) -> Array:
    """Stride 0 along the first axis: one element of it, repeated. It must be the same all along."""
    return xp(array).broadcast_to(array[:1].copy(), array.shape) if array.ndim else array.copy()


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": contiguous,
    "channels-last": channels_last,
    "transposed": transposed,
    "every other": every_other,
    "backwards": backwards,
    "broadcast": broadcast,
}


# Arrays


def seeds() -> Strategy[int]:
    return st.integers(0, 2**32 - 1)


@st.composite
def shapes(draw: st.DrawFn, min_dims: int = 0, max_dims: int = 4, max_side: int = 5) -> Shape:
    """Shapes of few elements, none of them empty."""
    return tuple(draw(st.integers(1, max_side)) for _ in range(draw(st.integers(min_dims, max_dims))))


def layouts(shape: Shape) -> Strategy[str]:
    """Names of memory layouts. "broadcast" only where the values still differ, along an image or a longer row: else
    all of a channel would be one constant, on which much that is wrong looks right."""
    return first_layouts(len(LAYOUTS) if math.prod(shape[2:]) > 1 else len(LAYOUTS) - 1)


@cache  # to make a strategy takes longer than to draw from it
def first_layouts(count: int) -> Strategy[str]:
    return st.integers(0, count - 1).map(list(LAYOUTS).__getitem__)


def normal(rng: np.random.Generator, shape: Shape, layout: str = "contiguous") -> Array:
    """Standard normal float64 values."""
    drawn = rng.standard_normal((1, *shape[1:]) if layout == "broadcast" else shape)
    return LAYOUTS[layout](np.broadcast_to(drawn, shape))


@st.composite
def generic_arrays(draw: st.DrawFn, shape: Shape | None = None, dtype: Any = np.float64) -> Array:
    """Contiguous arrays of standard normal values, of 0 to 4 axes unless `shape` is given."""
    shape = draw(shapes()) if shape is None else shape
    return normal(np.random.default_rng(draw(seeds())), shape).astype(dtype)


@st.composite
def strided_arrays(draw: st.DrawFn, shape: Shape | None = None, dtype: Any = np.float64, device: str = "cpu") -> Array:
    """As `generic_arrays`, in any memory layout: `LAYOUTS` has them all."""
    shape = draw(shapes()) if shape is None else shape
    layout = draw(layouts(shape))
    values = normal(np.random.default_rng(draw(seeds())), shape, layout).astype(dtype)
    return LAYOUTS[layout](to_device(values, device))


def cotangents(like: Array) -> Strategy[Array]:
    """What may come back to an output like this one: random, in any layout, of its shape and dtype, on its device."""
    return strided_arrays(tuple(like.shape), like.dtype, device_of(like))


# Calls


@dataclass(frozen=True, repr=False, eq=False)
class Drawn:
    """Something whose values come from a seed."""

    seed: int

    @cached_property
    def rng(self) -> np.random.Generator:
        """For whatever else a test draws: a stream of its own, never the one of the values."""
        return np.random.default_rng([self.seed, 1])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # how Hypothesis shows it, which would spell out all fields of a dataclass


@dataclass(frozen=True, repr=False, eq=False)
class Case(Drawn):
    """A call to try: ``f(*case.args, **case.options)``.

    Attributes:
        args: arrays on the host, in the order of the operation's arguments, and None where one is left out.
        options: its settings, by name. layouts: of the first of the arguments, "contiguous" for the rest.
    """

    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    layouts: tuple[str, ...] = ()

    def to(self, device: str) -> Case:
        """The same call with fresh arrays, on "cpu" or "cuda", laid out in memory as here."""
        names = (*self.layouts, *["contiguous"] * (len(self.args) - len(self.layouts)))
        moved = (
            LAYOUTS[layout](to_device(value, device)) if is_array(value) else value
            for value, layout in zip(self.args, names, strict=True)
        )
        return replace(self, args=tuple(moved))

    def __repr__(self) -> str:
        names = (*self.layouts, *[""] * len(self.args))
        shown = [
            f"{value.shape} {layout}".strip() if is_array(value) else repr(value)
            for value, layout in zip(self.args, names, strict=False)
        ]
        shown += [f"{key}={value!r}" for key, value in self.options.items()]
        return f"Case({', '.join([*shown, f'seed={self.seed}'])})"


@st.composite
def conv_cases(
    draw: st.DrawFn,
    kernel_size: int | None = None,
    stride: int | None = None,
    padding: int | None = None,
    dilation: int | None = None,
    groups: int | None = None,
) -> Case:
    """Calls of a convolution: input (N, C, H, W), weight (O, C/groups, KH, KW), bias (O,) or None; stride, padding,
    dilation, groups by name. What is given is fixed, the same in height and width."""

    def along() -> tuple[int, int, int, int, int]:  # one axis of the image
        k = kernel_size or draw(st.integers(1, 4))
        s = stride or draw(st.integers(1, 3))
        p = draw(st.integers(0, 4)) if padding is None else padding
        d = dilation or draw(st.integers(1, 3))
        extent = d * (k - 1) + 1
        return draw(st.integers(max(1, extent - 2 * p), extent + 5)), k, s, p, d

    (h, kh, sh, ph, dh), (w, kw, sw, pw, dw) = along(), along()
    g = groups or draw(st.integers(1, 3))
    n, c, o = draw(st.integers(1, 4)), g * draw(st.integers(1, 3)), g * draw(st.integers(1, 3))
    of_input, of_weight = draw(layouts((n, c, h, w))), draw(layouts((o, c // g, kh, kw)))
    with_bias, seed = draw(st.booleans()), draw(seeds())
    rng = np.random.default_rng(seed)
    return Case(
        seed,
        args=(
            normal(rng, (n, c, h, w), of_input),
            normal(rng, (o, c // g, kh, kw), of_weight),
            normal(rng, (o,)) if with_bias else None,
        ),
        options=dict(stride=(sh, sw), padding=(ph, pw), dilation=(dh, dw), groups=g),
        layouts=(of_input, of_weight),
    )


@st.composite
def pool_cases(draw: st.DrawFn) -> Case:
    """Calls of a pooling: input (N, C, H, W); kernel_size, stride, padding by name. A window holds at least one pixel:
    the padding is at most half of it."""

    def along() -> tuple[int, int, int, int]:
        k, s = draw(st.integers(1, 4)), draw(st.integers(1, 5))
        p = draw(st.integers(0, k // 2))
        return draw(st.integers(max(1, k - 2 * p), k + 5)), k, s, p

    (h, kh, sh, ph), (w, kw, sw, pw) = along(), along()
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 4)), h, w
    layout, seed = draw(layouts(shape)), draw(seeds())
    options = dict(kernel_size=(kh, kw), stride=(sh, sw), padding=(ph, pw))
    return Case(seed, (normal(np.random.default_rng(seed), shape, layout),), options, (layout,))


@st.composite
def bn_cases(draw: st.DrawFn, training: bool | None = None, fused: bool = False) -> Case:
    """Calls of a batch norm: input (N, C, H, W) or (N, C), [residual or None,] running mean and variance, weight and
    bias (C,) or None; training, momentum, eps by name.

    training: None for either mode. In training, each channel has a standard deviation between 0.5 and 2.
    fused: with a residual after the input, as `batch_norm_add_relu` takes it.
    """
    training = draw(st.booleans()) if training is None else training
    image: Shape = () if draw(st.integers(0, 2)) == 0 else (draw(st.integers(1, 6)), draw(st.integers(1, 8)))
    least = 2 if training and math.prod(image) == 1 else 1  # values in a channel, to have a variance
    c, n = draw(st.integers(1, 5)), draw(st.integers(least, 4))
    shape = (n, c, *image)
    layout, seed = draw(layouts(shape)), draw(seeds())
    running, with_weight, with_bias, with_residual = (draw(st.booleans()) for _ in range(4))
    rng = np.random.default_rng(seed)
    mean, var = normal(rng, (c,)), rng.uniform(0.5, 2, c)
    weight, bias = rng.choice([-1.0, 1.0], c) * rng.uniform(0.5, 2, c), normal(rng, (c,))
    values = normal(rng, shape, layout)
    if training:
        axes = (0, *range(2, len(shape)))
        values = (values - values.mean(axes, keepdims=True)) / values.std(axes, keepdims=True)
    column = (c, *[1] * len(image))
    values = values * rng.uniform(0.5, 2, c).reshape(column) + rng.normal(0, 3, c).reshape(column)
    residual = (normal(rng, shape) if with_residual else None,) if fused else ()
    momentum, eps = draw(st.sampled_from((0.1, 0.3))), draw(st.sampled_from((0.1, 1e-3, 1e-5)))
    return Case(
        seed,
        args=(
            LAYOUTS[layout](values),
            *residual,
            *((mean, var) if running or not training else (None, None)),
            weight if with_weight else None,
            bias if with_bias else None,
        ),
        options=dict(training=training, momentum=momentum, eps=eps),
        layouts=(layout,),
    )


# Networks


@dataclass(frozen=True, repr=False, eq=False)
class Net(Drawn):
    """A small network and what to feed it: ``net.module(Tensor(net.input))``. Everything is float64."""

    module: Sequential
    input: Array

    def to(self, device: str) -> Net:
        """A copy on "cpu" or "cuda"."""
        module = copy.deepcopy(self.module).to(device)
        assert isinstance(module, Sequential)
        return replace(self, module=module, input=to_device(self.input, device).copy("K"))

    def __repr__(self) -> str:
        blocks = ", ".join(type(block).__name__ for block in self.module)
        return f"Net([{blocks}] of {self.input.shape}, seed={self.seed}): {self.module!r}"


@st.composite
def residual_nets(
    draw: st.DrawFn,
    max_depth: int = 3,
    blocks: Sequence[type[Module]] = (PreActBlock, BasicBlock, Bottleneck),
    identity: bool = False,
) -> Net:
    """Residual blocks in a row, one to `max_depth`, in training mode, no parameter at its usual starting point.

    blocks: the kinds to draw from. identity: all shortcuts the identity; else one block may halve the image, and change
    the number of channels by any of the shortcuts A, B, C.
    """
    depth, n, seed = draw(st.integers(1, max_depth)), draw(st.integers(1, 3)), draw(seeds())
    image = draw(st.integers(4, 6)), draw(st.integers(5, 7))
    layout = draw(st.sampled_from(("contiguous", "channels-last")))
    in_channels = channels = 4 if identity else draw(st.sampled_from((4, 1, 3)))
    halved = None if identity else draw(st.integers(0, depth - 1))
    plan: list[tuple[Any, int, int, dict[str, Any]]] = []  # kind, channels in, channels inside, options
    for i in range(depth):
        kind: Any = draw(st.sampled_from(blocks))
        width, options = channels // kind.expansion, {}
        if i == halved or channels % kind.expansion:
            width = -(-channels // kind.expansion) + draw(st.integers(0, 1))
            options = dict(stride=2 if i == halved else 1, shortcut=draw(st.sampled_from("ABC")))
        plan.append((kind, channels, width, options))
        channels = width * kind.expansion
    before = get_rng_state()  # the initialisers draw from it, in vain
    module = Sequential(*(kind(channels, width, **options) for kind, channels, width, options in plan))
    set_rng_state(before)
    rng = np.random.default_rng(seed)
    randomise(module.to(np.float64), rng)
    return Net(seed, module, normal(rng, (n, in_channels, *image), layout))


def randomise(module: Module, rng: np.random.Generator) -> None:
    """Draw all convolutions and norms of a network anew: no γ = 1, no β = 0."""
    for part in module.modules():
        if isinstance(part, Conv2d):
            part.weight.data[...] = rng.normal(0, math.sqrt(2 / part.weight.data[0].size), part.weight.shape)
        elif isinstance(part, BatchNorm2d):
            c = part.weight.shape
            part.weight.data[...], part.bias.data[...] = rng.uniform(0.5, 1.5, c), rng.standard_normal(c)
            part.running_mean.data[...], part.running_var.data[...] = rng.standard_normal(c), rng.uniform(0.5, 2, c)
