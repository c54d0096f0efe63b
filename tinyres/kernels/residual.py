"""The addition: what makes a network residual (He et al. 2015, eq. 1).

y = F(x) + x. Backward, the sum hands the same gradient to both: dF = dy and, whatever F does to it, dx receives dy
itself. This is the whole reason why gradients reach the first layers of a very deep network. (The kernel that fuses
it with batch norm and rectifier is `batch_norm_add_relu`.)
"""

from __future__ import annotations

from typing import Any

from tinyres import threads
from tinyres.backend import Array, is_array
from tinyres.kernels.elementwise import Result, operands, unbroadcast


def add(input: Array, other: Array) -> Result:
    """input + other, broadcast; either may be a Python number."""
    input, other, a, b = operands("add", input, other)

    def pullback(dy: Array) -> Any:  # dy: like input + other
        return lambda: unbroadcast(dy, a), lambda: unbroadcast(dy, b)

    alike = is_array(input) and is_array(other) and a == b and input.dtype == other.dtype
    return (threads.add(input, other) if alike else input + other), pullback
