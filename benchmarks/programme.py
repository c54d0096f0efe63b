"""Which contests there are: a function for each group, with its sizes in a table above it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from benchmarks.contest import Contest, Entry
from benchmarks.contestants.inputs import IMAGENET
from tinyres import models

GEMM = 2048  # side of the square product that the floor is measured with
Available = Collection[str]  # modules of `benchmarks.contestants` whose framework is there
Named = Iterator[tuple[str, Sequence[Entry]]]  # a contest's name and entries


def contests(
    groups: Sequence[str], available: Available, threads: Sequence[int], quick: bool, device: str = "cpu"
) -> list[Contest]:
    """The groups' contests, each with each number of threads; start-up with the largest only."""
    return [
        Contest(group, name, count, entries, device)
        for group in groups
        for name, entries in GROUPS[group](available, quick)
        for count in (threads if group != "startup" else [max(threads)])
    ]


def against_pytorch(task: dict[str, Any], multiply_adds: int, available: Available) -> Sequence[Entry]:
    """All who can be set this task, and the floor: a matrix product of as many multiply-adds."""
    entries = [
        Entry("tinyres", "tinyres_", task),
        Entry("PyTorch NCHW", "torch_", task | {"channels_last": False}),
        Entry("PyTorch channels-last", "torch_", task | {"channels_last": True}),
    ]
    if task["kind"] == "training" and task["depth"] not in IMAGENET:  # for these two, CIFAR's networks are written
        entries += [Entry("Chainer", "chainer_", task), Entry("DeZero", "dezero_", task)]
    if multiply_adds:
        entries.append(Entry("GEMM floor", "numpy_", {"kind": "product", "size": GEMM}, multiply_adds / GEMM**3))
    return [entry for entry in entries if entry.contestant in available]


@cache
def multiply_adds(depth: int, side: int) -> int:
    """Of one image's way forward through a ResNet."""
    return models.summary(models.get(f"resnet{depth}"), (3, side, side)).multiply_adds


# Depth, batch, side of the images.
TRAINING = [(20, 128, 32), (56, 128, 32), (18, 8, 224), (18, 32, 224), (50, 8, 224), (50, 32, 224)]
TRAINING_QUICK = [(20, 16, 32), (18, 2, 64)]


def training(available: Available, quick: bool) -> Named:
    """A step: forward, backward (which has twice the forward's multiply-adds), SGD with momentum."""
    for depth, batch, side in TRAINING_QUICK if quick else TRAINING:
        task = dict(kind="training", depth=depth, batch=batch, side=side)
        cost = 3 * batch * multiply_adds(depth, side)
        yield f"ResNet-{depth}, {side}², batch {batch}", against_pytorch(task, cost, available)


INFERENCE = [(50, 1, 224), (50, 8, 224), (50, 32, 224)]
INFERENCE_QUICK = [(50, 1, 64)]


def inference(available: Available, quick: bool) -> Named:
    """Forward alone, with no graph; plain, and with each batch norm folded into the convolution before it."""
    for depth, batch, side in INFERENCE_QUICK if quick else INFERENCE:
        for fused in (False, True):
            task = dict(kind="inference", depth=depth, batch=batch, side=side, fused=fused)
            cost = batch * multiply_adds(depth, side)
            name = f"ResNet-{depth}, {side}², batch {batch}" + (", fused" if fused else "")
            yield name, against_pytorch(task, cost, available)


class Kernel(NamedTuple):
    """One operation: the shapes of its inputs, its options, and its multiply-adds, for the floor."""

    name: str
    operation: str
    shapes: Sequence[tuple[int, ...]]
    options: dict[str, int]
    multiply_adds: int


def conv(batch: int, in_channels: int, channels: int, side: int, size: int, stride: int = 1) -> Kernel:
    """A convolution of square maps, padded by half its window."""
    shapes = [(batch, in_channels, side, side), (channels, in_channels, size, size)]
    cost = batch * channels * (side // stride) ** 2 * in_channels * size**2
    name = f"conv {size}×{size}{f'/{stride}' * (stride > 1)}, {in_channels}→{channels}, {side}², batch {batch}"
    return Kernel(name, "conv2d", shapes, dict(stride=stride), cost)


def norm(batch: int, channels: int, side: int) -> Kernel:
    shapes = [(batch, channels, side, side)] * 2 + [(channels,)] * 2
    return Kernel(f"norm+add+ReLU, {channels}, {side}², batch {batch}", "batch_norm_add_relu", shapes, {}, 0)


def pool(batch: int, channels: int, side: int) -> Kernel:
    shapes = [(batch, channels, side, side)]
    return Kernel(f"max-pool 3×3/2, {channels}, {side}², batch {batch}", "max_pool2d", shapes, {}, 0)


def linear(batch: int, features: int, classes: int) -> Kernel:
    shapes = [(batch, features), (classes, features), (classes,)]
    return Kernel(f"linear, {features}→{classes}, batch {batch}", "linear", shapes, {}, batch * features * classes)


KERNELS = [
    *(conv(128, c, c, side, 3) for c, side in [(16, 32), (32, 16), (64, 8)]),
    *(conv(8, c, c, side, 3) for c, side in [(64, 56), (128, 28), (256, 14), (512, 7)]),
    conv(8, 64, 256, 56, 1),
    conv(8, 1024, 256, 14, 1),
    conv(8, 3, 64, 224, 7, stride=2),
    norm(128, 16, 32),
    norm(8, 256, 56),
    pool(8, 64, 112),
    linear(128, 2048, 1000),
]
KERNELS_QUICK = [conv(16, 16, 16, 32, 3), norm(16, 16, 32), pool(1, 64, 56)]


def kernels(available: Available, quick: bool) -> Named:
    """Each operation alone: forward without a graph, and forward and backward, to all inputs but photographs."""
    for name, operation, shapes, options, cost in KERNELS_QUICK if quick else KERNELS:
        for backward in (False, True):
            wanted = [backward and shape[1:2] != (3,) for shape in shapes]  # a photograph has 3 channels
            task = dict(kind="kernel", operation=operation, shapes=shapes, wanted=wanted, **options)
            products = 1 + sum(wanted[:2])  # forward, one for the gradient of x, one for that of the weight
            yield name + (", with backward" if backward else ""), against_pytorch(task, products * cost, available)


class Law(NamedTuple):
    """How cost grows: networks (depth, batch, side), and the size that is counted of each."""

    name: str
    networks: Sequence[tuple[int, int, int]]
    sizes: Sequence[int]


def laws(quick: bool) -> list[Law]:
    batches = (4, 8, 16, 32, 64) if quick else (256, 512, 1024, 2048, 4096)
    depths, batch = ((20, 32, 44, 56, 110), 4) if quick else ((56, 110, 164, 218, 272), 128)
    sides, few = ((32, 48, 64, 80, 96), 2) if quick else ((64, 80, 112, 160, 224), 8)
    return [
        Law("images in a batch (ResNet-20)", [(20, count, 32) for count in batches], batches),
        Law(
            f"layers (ResNet-{depths[0]} to {depths[-1]}, batch {batch})",
            [(depth, batch, 32) for depth in depths],
            depths,
        ),
        Law(
            f"pixels of an image (ResNet-18, batch {few})",
            [(18, few, side) for side in sides],
            [side * side for side in sides],
        ),
    ]


def scaling(available: Available, quick: bool) -> Named:
    """Training steps of tinyres against each other; the entries are named by their sizes."""
    for name, networks, sizes in laws(quick):
        tasks = [dict(kind="training", depth=depth, batch=batch, side=side) for depth, batch, side in networks]
        yield name, [Entry(str(size), "tinyres_", task) for size, task in zip(sizes, tasks, strict=True)]


def startup(available: Available, quick: bool) -> Named:
    """From the start of a fresh interpreter to the end of its first import; "Python" imports nothing."""
    statements = {"tinyres": "import tinyres", "PyTorch": "import torch", "NumPy": "import numpy", "Python": "pass"}
    if "torch_" not in available:
        del statements["PyTorch"]
    yield "import", [Entry(name, "python_", dict(kind="fresh", statement=text)) for name, text in statements.items()]


GROUPS: dict[str, Callable[[Available, bool], Named]] = dict(
    training=training, inference=inference, kernels=kernels, scaling=scaling, startup=startup
)
