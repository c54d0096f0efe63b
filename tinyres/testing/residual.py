"""What holds for every residual block: y = F(x) + x, and backward dx = J_Fᵀ·g + g (He et al. 2016, eq. 5)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from tinyres.autograd import Tensor
from tinyres.backend import to_host
from tinyres.nn import Add, Module
from tinyres.testing.report import Report
from tinyres.testing.subject import Subject
from tinyres.testing.trial import Trial


def check_residual(block: Module, x: Any, branch: str | None = None, seed: int = 0) -> Report:
    """The two paths of a residual block, or of every block of a network, forward and backward.

    * Each addition (`nn.Add`) adds; the gradient is that through the branch alone plus that through the skip alone.
      (It is taken through one of them by detaching the other there, so that the values, and with them all masks of
      rectifiers, stay what they are.)
    * With a branch that ends in zeros, a block whose skip is the identity is itself the identity (or the rectifier, if
      it ends in one), forward and backward, to the bit.

    branch: the name of the module that ends the branch, for a block that adds without an `nn.Add`.
    """
    trial = Trial(check_residual, block, (x,), {}, seed, branch=branch)
    adds = [name for name, module in block.named_modules() if isinstance(module, Add)]
    for name in adds:
        paths(trial, block, x, name)
    ends = branch if branch is not None else ends_branch(block, x, adds[0]) if len(adds) == 1 else None
    if ends is not None:
        without_branch(trial, block, ends)
    if not (adds or ends):
        return trial.does_not_apply("it has no nn.Add: say by branch= which module ends the branch")
    return trial.report()


def paths(trial: Trial, block: Module, x: Any, name: str) -> None:
    """Try that a gradient is the sum of those through either side of one addition."""
    where, run = f"the addition {name}", []

    def through(branch: bool, skip: bool) -> tuple[Any, dict[str, Any]]:
        """Output and gradients where only these operands of the addition pass the gradient on."""

        def add(_: Module, operands: tuple[Tensor, Tensor], output: Tensor) -> Tensor:
            run.append(name)
            left, right = operands
            return (left if branch else left.detach()) + (right if skip else right.detach())

        hooked = copy.deepcopy(block)
        dict(hooked.named_modules())[name].register_forward_hook(add)
        y, pullback = Subject.of(hooked, x).run({})
        return to_host(y), trial.fitting(pullback(trial.g))

    (y, branch), (_, skip), (_, neither) = through(True, False), through(False, True), through(False, False)
    if not run:
        trial.fail(f"{where} is never run: is the skip left out?")
        return
    if not trial.equal(f"{where} is not branch + skip", trial.y, y, ("the output", "with branch + skip")):
        return
    for key, whole in trial.gradients.items():
        passed_by = neither[key]  # in a network, what does not come through this addition at all
        by_branch, by_skip = branch[key] - passed_by, skip[key] - passed_by

        def cause(whole: Any = whole - passed_by, branch: Any = by_branch, skip: Any = by_skip) -> str:
            guesses = {
                "the skip's gradient is left out": branch,
                "the branch's gradient is left out": skip,
                "the skip's gradient is added twice": branch + 2 * skip,
                "the branch's gradient is added twice": 2 * branch + skip,
            }
            return next((text for text, guess in guesses.items() if np.allclose(whole, guess)), "")

        trial.equal(
            f"the gradient for {key} is not the sum of that through the branch and that through the skip of {where}",
            whole,
            by_branch + by_skip + passed_by,
            ("the gradient", "the sum"),
            size=trial.size,
            cause=cause,
        )


def without_branch(trial: Trial, block: Module, ends: str) -> None:
    """Try that a block whose branch gives zeros is the identity, or the rectifier."""
    modules = dict(block.named_modules())
    if ends not in modules:
        raise ValueError(f"branch is {ends!r}, expected one of {', '.join(filter(None, modules))}")
    x = to_host(trial.subject.arrays["input"])
    zeros = {key: 0 * a for key, a in trial.subject.inputs.items() if key.startswith(f"{ends}.")}
    y, gradients = trial.at(zeros)
    passes, g = np.ones(x.shape, bool), to_host(trial.g)
    if y.shape == x.shape and not (y < 0).any() and (x < 0).any():  # it ends in a rectifier
        passes = x > 0
    kind = "identity" if passes.all() else "rectifier"
    sides = "the block", f"the {kind}"
    if trial.same(f"with zeros in {ends}, the block is not the {kind}", y, x * passes, sides):
        trial.same(f"with zeros in {ends}, dx is not that of the {kind}", gradients["input"], g * passes, sides)


def ends_branch(block: Module, x: Any, add: str) -> str | None:
    """The module whose output is the branch of the addition, if the skip is the block's own input."""
    watched, made, added = copy.deepcopy(block), {}, []
    for name, module in watched.named_modules():
        if name == add:
            module.register_forward_hook(lambda _, inputs, output: added.extend(inputs))
        else:
            module.register_forward_hook(lambda _, inputs, output, name=name: made.update({name: output}))
    x = x if isinstance(x, Tensor) else Tensor(x)
    x = x.to(next(watched.parameters(), x).dtype)
    watched(x)
    branch, skip = added or (None, None)
    return next((name for name, output in made.items() if output is branch), None) if skip is x else None
