"""Lesions: what a trained network loses when one block is deleted, or when blocks change places (Veit et al. 2016,
§4).

A residual network is still one when a block is gone: half of its paths are left. A plain one has a single path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyres.autograd import Tensor
from tinyres.flow import style
from tinyres.nn import Add, Module, Sequential

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Measure = Callable[[Module], float]  # of a network, such as its error on test images in evaluation mode


def blocks(model: Module) -> dict[str, Module]:
    """The network's blocks by name, in order: what stands in its Sequentials and is made of layers itself."""
    stages = [(name, module) for name, module in model.named_modules() if isinstance(module, Sequential)]
    return {
        f"{name}.{key}" if name else key: child
        for name, stage in stages
        for key, child in stage.named_children()
        if list(child.children()) and not isinstance(child, Sequential)
    }


def named(model: Module, name: str) -> Module:
    """The block of that name."""
    known = blocks(model)
    if name not in known:
        raise ValueError(f"there is no block {name!r} in the model, expected one of {', '.join(known) or 'none'}")
    return known[name]


class CannotDelete(ValueError):
    """A plain block that changes the shape of what passes."""


@contextlib.contextmanager
def deleted(model: Module, *names: str) -> Iterator[None]:
    """Inside, the named blocks do nothing: of a residual block the skip alone remains, with what comes after the
    addition; a plain block hands its input on.

    Raises:
        ValueError: if there is no such block; and from the network itself, where a plain block changes the shape, so
            that nothing can stand in for it.
    """
    handles = []
    try:
        for name in names:
            block = named(model, name)
            add = next((child for child in block.children() if isinstance(child, Add)), None)
            if add is not None:
                handles.append(add.register_forward_hook(lambda _add, inputs, _sum: inputs[1]))  # (branch, skip)
            else:
                handles.append(block.register_forward_hook(lambda _block, inputs, out: instead(inputs[0], out)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def instead(x: Tensor, output: Tensor) -> Tensor:
    """A plain block's input, in place of its output."""
    if x.shape != output.shape:
        raise CannotDelete(
            f"deleted: a plain block turns {x.shape} into {output.shape}, so nothing can stand in for it"
        )
    return x


@contextlib.contextmanager
def reordered(model: Module, order: Mapping[str, str]) -> Iterator[None]:
    """Inside, blocks stand in other places: `order` says of places, by name, whose block stands there.

    Raises:
        ValueError: if the same blocks are not on both sides. Blocks of another shape are refused by the network when
            it runs.
    """
    if sorted(order) != sorted(order.values()):
        raise ValueError(
            f"reordered: places {sorted(order)} get the blocks {sorted(order.values())}, expected the same"
        )
    moved = {place: named(model, origin) for place, origin in order.items()}
    before = {place: named(model, place) for place in order}
    modules = dict(model.named_modules())

    def put(places: Mapping[str, Module]) -> None:
        for place, block in places.items():
            stage, _, key = place.rpartition(".")
            setattr(modules[stage], key, block)

    try:
        put(moved)
        yield
    finally:
        put(before)


def shuffled(model: Module, swaps: int, rng: np.random.Generator) -> dict[str, str]:
    """An order for `reordered`: `swaps` times, two blocks of the same kind and shape change places.

    Blocks with the same shapes of all parameters, in the same Sequential, can; most often all but its first.
    """
    groups: dict[Any, list[str]] = {}
    for name, block in blocks(model).items():
        shapes = tuple((key, parameter.shape) for key, parameter in block.named_parameters())
        strides = tuple(getattr(module, "stride", 1) for module in block.modules())
        groups.setdefault((name.rpartition(".")[0], type(block), shapes, strides), []).append(name)
    free = [group for group in groups.values() if len(group) > 1]
    if not free:
        raise ValueError("shuffled: no two blocks are alike, so none can change places")
    order = {name: name for group in free for name in group}
    pairs = np.array([len(group) * (len(group) - 1) / 2 for group in free])
    for _ in range(swaps):
        group = free[rng.choice(len(free), p=pairs / pairs.sum())]
        first, second = rng.choice(group, 2, replace=False).tolist()
        order[first], order[second] = order[second], order[first]
    return order


def kendall_tau(order: Mapping[str, str]) -> float:
    """How much of the order is left (Kendall 1938): the share of pairs that stand as before less the share that
    stand the other way round; 1 for all, -1 for none."""
    places = list(order)
    ranks = np.array([places.index(order[place]) for place in places])
    first, second = np.triu_indices(len(ranks), 1)
    return float(np.sign(ranks[second] - ranks[first]).mean())


def lesion(model: Module, measure: Measure) -> dict[str, float]:
    """`measure(model)` as the network is, under the name "", and with each block deleted, under the block's.

    NaN where a block cannot be deleted. The model is unchanged afterwards, as long as `measure` changes nothing.
    """
    values = {"": float(measure(model))}
    for name in blocks(model):
        try:
            with deleted(model, name):
                values[name] = float(measure(model))
        except CannotDelete:
            values[name] = float("nan")
    return values


def lesion_plot(
    lesions: Mapping[str, float] | Mapping[str, Mapping[str, float]], ylabel: str = "error", ax: Axes | None = None
) -> Axes:
    """Draw what `lesion` gave, of one network or of several by name: a mark for each block, a line for the whole.

    Blocks run from 0, the first, to 1, the last, so that networks of different depth stand beside each other. Those
    that cannot be deleted have a cross at the bottom.
    """
    several: Mapping[str, Any] = {"": lesions} if "" in lesions else lesions
    ax = style.axes(ax)
    for index, (name, values) in enumerate(several.items()):
        whole, errors = values[""], np.array([value for block, value in values.items() if block])
        place = np.linspace(0, 1, len(errors))
        look, label = style.line(index), f"{name}, " if name else ""
        ax.plot(place, errors, **{**look, "linestyle": "", "markersize": 5}, label=f"{label}one block deleted")
        ax.axhline(whole, color=look["color"], linestyle=look["linestyle"], linewidth=1.2, label=f"{label}whole")
        if (missing := np.isnan(errors)).any():
            bottom = np.full(missing.sum(), 0.02)  # of the axes
            ax.plot(place[missing], bottom, "x", color=look["color"], transform=ax.get_xaxis_transform())
            ax.plot([], [], "x", color=look["color"], label=f"{label}cannot be deleted")
    ax.set(xlabel="deleted block (0: the first, 1: the last)", ylabel=ylabel)
    style.legend(ax)
    return ax
