"""Some values of a large array, spread evenly over it."""

from __future__ import annotations

from tinyres.backend import Array, xp


def sample(vector: Array, runs: int, length: int) -> Array:
    """`runs` runs of `length` neighbours in memory, which cost little more to read than one value; all of a vector that
    holds no more. The same ones each time."""
    if vector.size <= runs * length:
        return vector
    rows = vector[: vector.size // length * length].reshape(-1, length)
    # One in each of as many equal parts, at places within them that keep step with no width or height of an image.
    part = xp(vector).arange(runs)
    place = part * 40503 % 65536 * (len(rows) // runs) // 65536  # 40503 / 65536 is nearly the golden ratio
    return rows.take(part * len(rows) // runs + place, axis=0).reshape(-1)
