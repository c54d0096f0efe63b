"""What of a weight file went into a network, and what did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyres.models.weights import Weights
from tinyres.nn import Bottleneck, Module

HEAD = {"fc.weight", "fc.bias"}


@dataclass(frozen=True)
class Match:
    """A weight file compared with a network, name by name. Printed, it is a table of what differs.

    matched: names in both, with the same shape. missing: only in the network. left_over: only in the file.
    misshaped: name, shape in the file, shape in the network.
    """

    source: str
    network: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    misshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def exact(self) -> bool:
        """Whether every name is in both, with the same shape."""
        return not (self.missing or self.left_over or self.misshaped)

    def __str__(self) -> str:
        rows = [("missing", name, "") for name in self.missing]
        rows += [("left over", name, "") for name in self.left_over]
        rows += [("mis-shaped", name, f"{theirs} in the file, {own} here") for name, theirs, own in self.misshaped]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        counts = f"{len(self.matched)} matched, {len(self.missing)} missing, {len(self.left_over)} left over"
        return "\n".join([*lines, f"{self.source} in {self.network}: {counts}, {len(self.misshaped)} mis-shaped"])

    def complaint(self) -> str:
        """Why the file is not the network's, in one sentence."""
        differing = [name for name, *_ in self.misshaped]
        if not self.missing and not self.left_over and set(differing) <= HEAD:
            _, theirs, own = self.misshaped[0]
            return (
                f"{self.source} has a head of {theirs[0]} classes, {self.network} one of {own[0]}: "
                "strict=False loads all but the head"
            )
        parts = [("missing", self.missing), ("left over", self.left_over), ("mis-shaped", differing)]
        said = "; ".join(f"{len(names)} {what} ({shortened(names)})" for what, names in parts if names)
        return f"{self.source} does not fit {self.network}: {said}; strict=False loads the {len(self.matched)} that fit"


def shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def compare(model: Module, weights: Weights, network: str) -> Match:
    """Which names and shapes of `weights` are the model's. `num_batches_tracked` may be missing: old files lack it."""
    own = {name: array.shape for name, array in model.state_dict().items()}
    theirs = {name: array.shape for name, array in weights.arrays.items()}
    both = [name for name in own if name in theirs]
    return Match(
        weights.source,
        network,
        matched=tuple(name for name in both if own[name] == theirs[name]),
        missing=tuple(name for name in own if name not in theirs and not name.endswith("num_batches_tracked")),
        left_over=tuple(name for name in theirs if name not in own),
        misshaped=tuple((name, theirs[name], own[name]) for name in both if own[name] != theirs[name]),
    )


def load(model: Module, weights: Weights, strict: bool = True, network: str = "") -> Match:
    """Copy `weights` into a network; dtype and device stay the network's own.

    Not `strict`, what has no counterpart of the same shape is left as it is, on both sides: for instance the head of
    a network for other classes. What was loaded, the returned `Match` says.

    Raises:
        ValueError: in one sentence, if something differs and `strict`, if nothing fits at all, or if the weights
            are of a network with the stride elsewhere. Nothing is changed then.
    """
    network = network or type(model).__name__
    match = compare(model, weights, network)
    if (strict and not match.exact) or not match.matched:
        raise ValueError(match.complaint())
    strided = [block for block in model.modules() if isinstance(block, Bottleneck) and block.conv2.stride != 1]
    if weights.options.get("stride_in") == "1x1" and strided:
        raise ValueError(f"{weights.source} is of a network made with stride_in='1x1', {network} has it in the 3×3")
    chosen = set(match.matched)
    model.load_state_dict({name: a for name, a in weights.arrays.items() if name in chosen}, strict=False)
    return match
