"""What a network costs: a table of its layers, measured on one forward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinyres.autograd import Tensor, no_grad
from tinyres.nn import Conv2d, Linear, Module
from tinyres.profiler import multiply_adds


class Layer(NamedTuple):
    """One module without children: `multiply_adds` counts convolutions and matrix products, for one image."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int

    @property
    def bytes(self) -> int:
        """Memory of the output in float32."""
        return 4 * math.prod(self.output_shape)


@dataclass
class Summary:
    """A network's layers in the order they ran, for input (1, C, H, W)."""

    model: str
    input_shape: tuple[int, ...]
    layers: list[Layer]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def parameter_bytes(self) -> int:
        """Memory of the parameters in float32, bytes."""
        return 4 * self.parameters

    @property
    def activation_bytes(self) -> int:
        """Memory of all layer outputs for one image in float32, bytes: what training keeps, nearly."""
        return sum(layer.bytes for layer in self.layers)

    def __str__(self) -> str:
        rows = [("layer", "kind", "output shape", "parameters", "multiply-adds")]
        for layer in self.layers:
            shape = "×".join(map(str, layer.output_shape[1:]))
            rows.append((layer.name, layer.kind, shape, f"{layer.parameters:,}", f"{layer.multiply_adds:,}"))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
            for r in rows
        ]
        return "\n".join([*(line.rstrip() for line in lines), self.totals()])

    def totals(self) -> str:
        return (
            f"{self.model}: {self.parameters:,} parameters ({self.parameter_bytes / 2**20:.1f} MiB), "
            f"{self.multiply_adds / 1e9:.3f} G multiply-adds, {self.activation_bytes / 2**20:.1f} MiB of outputs, "
            f"for one image of {'×'.join(map(str, self.input_shape[1:]))} in float32"
        )


def summary(model: Module, input_shape: tuple[int, int, int] = (3, 224, 224)) -> Summary:
    """Run `model` once on one random image (C, H, W) in evaluation mode, and say what each layer is and costs.

    The model is left as it was: its mode, its weights, its hooks, its running statistics.
    """
    layers: list[Layer] = []
    modes = [(module, module.training) for module in model.modules()]

    def note(name: str, module: Module) -> Any:
        def hook(_module: Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
            parameters = sum(math.prod(parameter.shape) for parameter in module.parameters())
            cost = 0
            if isinstance(module, Conv2d | Linear):
                cost = multiply_adds("linear", output.shape[1:], module.weight.shape)
            layers.append(Layer(name, type(module).__name__, output.shape, parameters, cost))

        return module.register_forward_hook(hook)

    handles = [note(name, m) for name, m in model.named_modules() if not any(True for _ in m.children())]
    image = np.random.default_rng(0).standard_normal((1, *input_shape), dtype=np.float32)
    first = next(iter(model.parameters()))
    try:
        with no_grad():
            model.eval()(Tensor(image).to(first.dtype).to(first.device))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return Summary(type(model).__name__, (1, *input_shape), layers)
