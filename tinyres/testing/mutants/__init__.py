"""The tests of the tests: operations with one known mistake each, and a table of which check notices which."""

from tinyres.testing.mutants import arithmetic, batchnorm, layers, networks
from tinyres.testing.mutants.matrix import KillMatrix, kill_matrix
from tinyres.testing.mutants.mutant import MUTANTS, Mutant, Original


def mutants() -> list[Mutant]:
    """All of them, in the order of the operations that they break."""
    return list(MUTANTS)


__all__ = ["KillMatrix", "Mutant", "Original", "kill_matrix", "mutants"]
