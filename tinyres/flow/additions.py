"""Where gradients part: what comes back through the skip of a residual block, and what through its branch.

A block y = F(x) + x has two ways from its input to its addition. Backward, each brings a gradient by x, and x gets
their sum: dy through the skip and J_Fᵀ dy through the branch. (With a projection or with option A the skip has a
Jacobian of its own.) The graph itself says where the ways part, whatever the block looks like, and each part is seen
as it passes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple

from tinyres.autograd import Handle, Node, Tensor
from tinyres.backend import Array

WAYS = ("branch", "skip")  # in the order of Add's arguments


class Edge(NamedTuple):
    """The way from an operation to one of its inputs."""

    node: Node
    position: int  # of the input among the operation's
    way: str  # the part of the block it belongs to, "branch" or "skip"


def find_fork(addition: Node) -> tuple[Node, list[Edge]] | None:
    """The last place that both operands of an addition come from, and the edges that lead to it; None if there is
    none that needs a gradient.

    Both ways are walked back from the addition, later operations first, so that a node is looked at when all edges to
    it are known: the first that both ways lead to is where they part. Of a block it is the input, or, in
    pre-activation blocks with a projection, the activated input.
    """
    edges: dict[Node, list[Edge]] = {}  # by where they lead to
    queue: list[tuple[int, Node]] = []

    def follow(node: Node, position: int, way: str) -> None:
        source = node.inputs[position]
        if source is None:
            return
        if source not in edges:
            edges[source] = []
            heapq.heappush(queue, (-source.number, source))
        edges[source].append(Edge(node, position, way))

    for position, way in enumerate(WAYS):
        follow(addition, position, way)
    while queue:
        node = heapq.heappop(queue)[1]
        ways = {edge.way for edge in edges[node]}
        if len(ways) > 1:
            return node, edges[node]
        for position in range(len(node.inputs)):
            follow(node, position, *ways)
    return None


class Split:
    """Tells `arrive(branch, skip)` both parts of the gradient where the two ways to an addition part, as `backward`
    brings them; None for a part that did not come. `handles` take its hooks off.

    The part that comes first is held until the other is there, and no longer. It is no copy.
    """

    def __init__(
        self, branch: Tensor, skip: Tensor, addition: Tensor, arrive: Callable[[Array | None, Array | None], None]
    ) -> None:
        self.parts: dict[str, Array] = {}
        self.arrive = arrive
        self.handles: list[Handle] = []
        node = addition._node
        found = find_fork(node) if node is not None and node.inputs == (branch._node, skip._node) else None
        if found is not None:
            fork, edges = found
            self.handles.append(Handle(fork.hooks, self.settle))
            for node, position, way in edges:
                self.handles.append(Handle(node.part_hooks, self.listener(position, way)))

    def listener(self, expected: int, way: str) -> Callable[[int, Array], None]:
        def hook(position: int, part: Array) -> None:
            if position == expected:
                self.parts[way] = self.parts[way] + part if way in self.parts else part

        return hook

    def settle(self, _gradient: Tensor) -> None:
        """The whole gradient by the fork is known: all that comes has come."""
        parts, self.parts = self.parts, {}
        self.arrive(parts.get("branch"), parts.get("skip"))
