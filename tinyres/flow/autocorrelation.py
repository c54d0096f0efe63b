"""How far along a line of inputs gradients stay alike: their autocorrelation (Balduzzi et al. 2017, §2).

Take the gradient of a function at evenly spaced inputs. In a shallow or a well-made residual network neighbours are
alike, as in brown noise; in a deep plain network they can be as unlike as white noise: shattered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyres.flow import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = np.ndarray[Any, Any]


def autocorrelation(gradients: Any) -> Values:
    """The autocorrelation by lag, Σᵢ dᵢ·dᵢ₊ₗ / Σᵢ dᵢ² with d the gradients less their mean: 1 at lag l = 0.

    gradients: (…, N), at evenly spaced inputs. Returns float64 (…, N), for the lags 0 … N − 1; NaN where all of a
    sequence's gradients are equal.
    """
    values = np.asarray(gradients, np.float64)
    if values.ndim < 1 or values.shape[-1] < 2:
        raise ValueError(f"autocorrelation: gradients has shape {values.shape}, expected (…, N) with N of 2 or more")
    count = values.shape[-1]
    deviations = values - values.mean(axis=-1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(deviations, 2 * count)) ** 2  # zeros behind, so that no end meets a beginning
    products = np.fft.irfft(spectrum)[..., :count]
    constant = np.ptp(values, axis=-1, keepdims=True) == 0
    return np.divide(products, products[..., :1], out=np.full_like(products, np.nan), where=~constant)


def white_noise(count: int, rng: np.random.Generator) -> Values:
    """Gradients that know nothing of each other: (count,)."""
    return rng.normal(size=count)


def brown_noise(count: int, rng: np.random.Generator) -> Values:
    """A random walk, each gradient its neighbour's and a little more: (count,)."""
    return np.cumsum(white_noise(count, rng))


def autocorrelation_plot(
    gradients: Mapping[str, Any], lags: int | None = None, ax: Axes | None = None, draws: int = 200
) -> Axes:
    """Draw autocorrelation by lag, with that of white and of brown noise beside it.

    Args:
        gradients: by name, (N,) or several sequences (…, N), of which the mean is drawn.
        lags: how many to show, a quarter of N by default.
        draws: of how many draws of noise the mean is drawn; always the same.
    """
    from matplotlib.ticker import MaxNLocator

    ax = style.axes(ax)
    count = max(np.shape(sequence)[-1] for sequence in gradients.values())
    shown = slice(0, (lags or count // 4) + 1)
    rng = np.random.default_rng(0)
    for noise, colour in ((brown_noise, "saddlebrown"), (white_noise, "0.5")):
        mean = autocorrelation([noise(count, rng) for _ in range(draws)]).mean(axis=0)
        ax.plot(mean[shown], color=colour, linewidth=4, alpha=0.35, label=noise.__name__.replace("_", " "))
    for index, (name, sequences) in enumerate(gradients.items()):
        correlation = autocorrelation(sequences)
        mean = correlation.reshape(-1, correlation.shape[-1]).mean(axis=0)
        ax.plot(mean[shown], **style.line(index), label=name)
    ax.set(xlabel="lag (steps of the grid)", ylabel="autocorrelation of the gradients")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.legend(ax)
    return ax
