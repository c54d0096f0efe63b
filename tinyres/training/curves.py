"""A picture of a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyres.training.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(history: History) -> Figure:
    """Loss and accuracy after each epoch, in training and, where there was any, in validation.

    Raises:
        ValueError: if no epoch is done.
    """
    if not history.epochs:
        raise ValueError("curves: no epoch is done, expected at least one")
    import matplotlib.pyplot as plt

    from tinyres.flow import style

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    epochs = [row.epoch for row in history.epochs]
    for ax, name, scale in zip(panels, ("loss", "accuracy"), (1, 100), strict=True):
        style.axes(ax)
        for index, (part, label) in enumerate((("train", "training"), ("val", "validation"))):
            values: list[Any] = [getattr(row, f"{part}_{name}") for row in history.epochs]
            if None not in values:
                ax.plot(epochs, [scale * value for value in values], label=label, **style.line(index))
        ax.set(xlabel="epoch", ylabel="loss" if scale == 1 else "right (%)")
        ax.xaxis.get_major_locator().set_params(integer=True)
    style.legend(panels[1])
    return figure
