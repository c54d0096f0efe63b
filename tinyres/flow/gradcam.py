"""Grad-CAM: where in the image a network sees its evidence for a class (Selvaraju et al. 2017, §3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyres.autograd import Tensor, tape
from tinyres.backend import to_device, to_host
from tinyres.nn import Module


def gradcam(model: Module, x: Any, target: Any = None, layer: str | None = None) -> np.ndarray[Any, Any]:
    """ReLU(Σ_k α_k A^k), where A^k are the maps of a layer and α_k is the mean over the map of the gradient of the
    class's score by A^k (eq. 1 and 2).

    The model runs in evaluation mode; afterwards it, its gradients and the random generator are as they were.

    Args:
        x: images (N, C, H, W), an array or Tensor, as the model takes them.
        target: the class, or one for each image (N,); the one with the highest score by default.
        layer: the name of the module whose maps to take, as in `model.named_modules()`. By default the last one that
            gives maps of more than one pixel: the output of the last stage.

    Returns:
        (N, h, w), the size of the layer's maps; 0 where nothing speaks for the class.

    Raises:
        ValueError: if there is no such layer, its output is no maps, or the scores do not depend on it.
    """
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise ValueError(f"gradcam: layer is {layer!r}, expected one of {', '.join(filter(None, modules))}")
    maps: list[Tensor] = []  # the last that were seen

    def see(_module: Module, _inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and (layer is not None or min(output.shape[2:]) > 1):
            maps[:] = [output]

    parameter = next(model.parameters())
    x = Tensor(to_device(Tensor(x).data, parameter.device).astype(parameter.dtype), requires_grad=True)
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    handles = [module.register_forward_hook(see) for name, module in modules.items() if layer in (None, name)]
    try:
        with model.unchanged(), tape():
            scores = model.eval()(x)  # (N, classes)
            if not maps:
                what = "no layer gives maps" if layer is None else f"layer {layer} gives no maps"
                raise ValueError(f"gradcam: {what}, expected one whose output is (N, K, h, w)")
            a = maps[0]  # (N, K, h, w)
            a.retain_grad()
            scores.backward(to_device(one_hot(scores, target), x.device))
    finally:
        for handle in handles:
            handle.remove()
        for parameter, gradient in gradients:
            parameter.grad = gradient
    if a.grad is None:
        raise ValueError(f"gradcam: the scores do not depend on the output of layer {layer!r}")
    alpha = a.grad.data.mean(axis=(2, 3), keepdims=True)  # (N, K, 1, 1)
    return np.asarray(to_host((alpha * a.data).sum(axis=1)).clip(min=0))


def one_hot(scores: Tensor, target: Any) -> np.ndarray[Any, Any]:
    """1 at each image's class, 0 elsewhere, like scores (N, classes)."""
    count, classes = scores.shape
    target = to_host(scores.data.argmax(axis=1)) if target is None else np.asarray(target)
    if (
        target.shape not in ((), (count,))
        or target.dtype.kind not in "iu"
        or not ((target >= 0) & (target < classes)).all()
    ):
        raise ValueError(
            f"gradcam: target is {target.tolist()}, expected a class below {classes}, or one for each of {count} images"
        )
    chosen = np.zeros(scores.shape, scores.dtype)
    chosen[np.arange(count), target] = 1
    return chosen
