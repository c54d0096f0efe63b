"""tinyres: images channels-last in memory, as its data loader hands them over. On a GPU, by CuPy."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

import tinyres
from benchmarks.contestants.inputs import DEVICE, IMAGENET, LEARNING_RATE, images, labels, random
from tinyres import Tensor, flow, models, nn, optim
from tinyres import functional as F
from tinyres.backend import to_device

tinyres.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

VERSION = f"tinyres {tinyres.__version__}"
if DEVICE == "cuda":
    import cupy

    VERSION += f" on CuPy {cupy.__version__}, {cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()}"
OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "conv2d": lambda x, weight, stride: F.conv2d(x, weight, None, stride, weight.shape[-1] // 2),
    "batch_norm_add_relu": lambda x, skip, weight, bias: F.batch_norm_add_relu(x, skip, None, None, weight, bias, True),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "linear": F.linear,
}


def channels_last(array: np.ndarray) -> np.ndarray:
    """The same numbers; maps and kernels (N, C, H, W) lie as (N, H, W, C) in memory."""
    if array.ndim < 4:
        return array
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def tensor(array: np.ndarray, requires_grad: bool = False) -> Tensor:
    return Tensor(to_device(channels_last(array), DEVICE), requires_grad)


def resnet(depth: int) -> nn.Module:
    """ResNet-18 and 50 for ImageNet, and 6n + 2 layers for CIFAR."""
    return models.get(f"resnet{depth}") if depth in IMAGENET else models.CifarResNet(depth)


def synchronize() -> None:
    cupy.cuda.Device().synchronize()


def gpu_memory() -> int:
    """Bytes that CuPy's pool has taken from the GPU."""
    return int(cupy.get_default_memory_pool().total_bytes())


def training(depth: int, batch: int, side: int) -> Callable[[], None]:
    model = resnet(depth).to(DEVICE)
    optimizer = optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9)
    x, y = tensor(images(batch, side)), tensor(labels(batch))

    def step() -> None:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def watching(depth: int, batch: int, side: int, every: int, exact: bool) -> Callable[[], None]:
    """`every` steps of training, of which one is recorded."""
    model = resnet(depth).to(DEVICE)
    optimizer = optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9)
    x, y = tensor(images(batch, side)), tensor(labels(batch))

    def step() -> None:
        with flow.watch(model, optimizer, every, exact=exact):
            for _ in range(every):
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return step


def inference(depth: int, batch: int, side: int, fused: bool) -> Callable[[], None]:
    model: Any = resnet(depth).to(DEVICE).eval()
    if fused:
        model = model.fuse()
    x = tensor(images(batch, side))

    def step() -> None:
        with tinyres.no_grad():
            model(x)

    return step


def kernel(operation: str, shapes: list[list[int]], wanted: list[bool], **options: Any) -> Callable[[], None]:
    """One operation on inputs of these shapes; backward too, where the gradient of an input is wanted."""
    pairs = zip(shapes, wanted, strict=True)
    inputs = [tensor(random(*shape), requires_grad) for shape, requires_grad in pairs]
    operate = OPERATIONS[operation]

    def forward() -> None:
        with tinyres.no_grad():
            operate(*inputs, **options)

    dy = tensor(random(*operate(*inputs, **options).shape)).data

    def forward_and_backward() -> None:
        for tensor in inputs:
            tensor.grad = None
        operate(*inputs, **options).backward(dy)

    return forward_and_backward if any(wanted) else forward
