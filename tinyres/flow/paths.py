"""Through how many residual branches a gradient comes: the exact spectrum of path lengths.

With L additions there are 2^L ways from the loss back to the input, for at each addition a gradient takes the branch
or the skip (Veit et al. 2016, §3). All ways through k branches together bring the gradient G[k], and they need not be
walked one by one: carry the polynomial Σ G[k]·tᵏ back instead of one gradient, and let each addition multiply what
goes into its branch by t,

    G[k] ← skipᵀ G[k] + J_Fᵀ G[k − 1].

That takes O(L²) pullbacks, nothing is sampled and nothing is approximated: ΣG[k] is the gradient.
"""

from __future__ import annotations

import contextlib
import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyres import functional as F
from tinyres.autograd import Node, Tensor
from tinyres.backend import Array, xp
from tinyres.flow import style
from tinyres.nn import Add, Module

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Shares = np.ndarray[Any, Any]  # (L + 1,), of sum 1
Polynomial = dict[int, Array]  # G[k] by k; one that is not there is zero


@dataclass(frozen=True)
class PathSpectrum:
    """gradients: by k = 0 … L, the gradient that comes through exactly k of L branches, each like the input."""

    gradients: list[Array]

    @property
    def shares(self) -> Shares:
        """How much of the gradient comes through k branches, ‖G[k]‖² / Σ‖G[k]‖²: float64 (L + 1,), NaN if all are 0."""
        sizes = np.array([float((gradient.astype("float64") ** 2).sum()) for gradient in self.gradients])
        with np.errstate(invalid="ignore"):
            return np.asarray(sizes / sizes.sum())

    @property
    def mean(self) -> float:
        """The mean path length by these shares."""
        return float(mean_length(self.shares))

    def plot(self, ax: Axes | None = None) -> Axes:
        """`path_plot` of these shares alone."""
        return path_plot({"gradient": self.shares}, ax)


def path_spectrum(model: Module, x: Any, y: Any, loss: Callable[[Any, Any], Tensor] = F.cross_entropy) -> PathSpectrum:
    """The gradient of `loss(model(x), y)` by x, split by the number of branches it came through.

    The branches are those of the model's `nn.Add` modules; norms and dropout work in the mode that the model is in.
    With L additions it costs about L/2 backward passes at most, and the memory of L gradients. Modes, buffers and
    the random generator are afterwards as they were, and no `.grad` is touched.

    x: (N, …), a floating array or Tensor. y: what `loss` takes.

    Raises:
        ValueError: if the model has no additions, or the loss is not one number with a history.
    """
    additions = [module for module in model.modules() if isinstance(module, Add)]
    if not additions:
        raise ValueError(f"path_spectrum: {type(model).__name__} has no nn.Add inside, expected a residual network")
    x = Tensor(x)
    x.requires_grad = True
    with model.unchanged(), noting(additions) as nodes:
        result = loss(model(x), y)
    if result._node is None or result.data.size != 1:
        raise ValueError(f"path_spectrum: the loss has shape {result.shape}, expected one number with a history")
    gradients = walk(result._node, xp(result.data).ones_like(result.data), x._node, nodes)
    nothing = xp(x.data).zeros_like(x.data)
    return PathSpectrum([gradients.get(k, nothing) for k in range(len(nodes) + 1)])


@contextlib.contextmanager
def noting(additions: list[Add]) -> Iterator[set[Node]]:
    """The set of the nodes that these modules put on the tape inside; the branch is the first input of each."""
    nodes: set[Node] = set()

    def note(_module: Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output._node is not None:
            nodes.add(output._node)

    with contextlib.ExitStack() as undo:
        for addition in additions:
            undo.callback(addition.register_forward_hook(note).remove)
        yield nodes


def walk(root: Node, cotangent: Array, target: Node, additions: set[Node]) -> Polynomial:
    """What `backward` does, from `root` to `target`, with a polynomial in the place of each gradient."""
    gradients: dict[Node, Polynomial] = {root: {0: cotangent}}
    queue = [(-root.number, root)]
    while queue and (node := heapq.heappop(queue)[1]) is not target:
        for k, gradient in gradients.pop(node).items():
            for position, parent, part in pull(node, gradient, target):
                if parent not in gradients:
                    gradients[parent] = {}
                    heapq.heappush(queue, (-parent.number, parent))
                polynomial, power = gradients[parent], k + (node in additions and position == 0)
                polynomial[power] = polynomial[power] + part if power in polynomial else part  # never in place
    return gradients.get(target, {})


def pull(node: Node, gradient: Array, target: Node) -> Iterator[tuple[int, Node, Array]]:
    """The node's inputs on the way to `target` (leaves are not, but itself): position, and part of the gradient."""
    inputs = [parent if parent is target or (parent and not parent.is_leaf) else None for parent in node.inputs]
    parts = node.pullback(gradient)  # type: ignore[misc]
    parts = parts([parent is not None for parent in inputs]) if callable(parts) else parts
    parts = parts if isinstance(parts, tuple) else (parts,)
    for position, (parent, part) in enumerate(zip(inputs, parts, strict=False)):
        if parent is not None and part is not None:
            yield position, parent, part() if callable(part) else part


def path_plot(spectra: Mapping[str, Shares], ax: Axes | None = None) -> Axes:
    """Draw which share of a gradient comes through how many branches, each with its mean as an upright line; for each
    number of branches, the paths themselves beside it, which are binomially distributed.

    spectra: shares (L + 1,) by name.
    """
    from matplotlib.ticker import MaxNLocator

    ax = style.axes(ax)
    for index, (name, shares) in enumerate(spectra.items()):
        look = style.line(index)
        mean = mean_length(shares)
        ax.plot(np.arange(len(shares)), shares, **look, label=f"{name}: mean {mean:.1f}")
        ax.axvline(mean, color=look["color"], linestyle=look["linestyle"], linewidth=0.8)
    for count in sorted({len(shares) - 1 for shares in spectra.values()}):
        label = f"all $2^{{{count}}}$ paths: mean {count / 2:.1f}"
        ax.fill_between(np.arange(count + 1), binomial(count), color="0.85", zorder=0, label=label)
    ax.set(xlabel="path length (residual branches taken)", ylabel="share of the gradient")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.legend(ax)
    return ax


def mean_length(shares: Shares) -> Any:
    """Σ k·share[k]. shares: (…, L + 1); returns (…)."""
    return shares @ np.arange(shares.shape[-1])


def binomial(count: int) -> Shares:
    """How many of the 2^count paths take k of the count branches, as a share: (count + 1,)."""
    return np.array([math.comb(count, k) / 2**count for k in range(count + 1)])
