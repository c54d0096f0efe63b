"""Identity mappings: gradients before training and errors after it, for each variant; the claim by hand-made rows."""

from __future__ import annotations

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from tinyres.experiments.experiment import table  # noqa: E402
from tinyres.experiments.identity_mappings import NETS, ORDERS, SHORTCUTS, IdentityMappings, Row, last_errors  # noqa: E402

TINY = IdentityMappings(seeds=1, train_images=64, image_size=8, depth=20, epochs=2)


def rows_of(errors):
    """Rows of two blocks and two epochs, with each net's last errors, a column for each seed."""
    return table(
        [
            row
            for net, last in zip(NETS, errors, strict=True)
            for seed, error in enumerate(last)
            for row in (
                Row(net, seed, "gradient", 1, 8.0),
                Row(net, seed, "gradient", 2, 2.0),
                Row(net, seed, "error", 1, 0.9),
                Row(net, seed, "error", 2, error),
            )
        ]
    )


def test_cases():
    assert IdentityMappings(seeds=2).cases()[:3] == [("original", 0), ("original", 1), ("½ skip", 0)]


def test_gradients_are_those_of_each_block_before_training():
    """Where norms stand in the branches, a skip that shrinks the signal lets gradients grow faster on their way back:
    by 1.148 a block against 1.0435 in the smallest such net (the experiment "initialisation")."""
    first = {}
    for net in ("original", "½ skip"):
        rows = [row for row in TINY.measure((net, 0)) if row.quantity == "gradient"]
        assert [row.place for row in rows] == list(range(1, 10))
        first[net] = rows[0].value / rows[-1].value
    assert first["½ skip"] > 1.5 * first["original"]


def test_the_error_is_of_each_epoch():
    rows = TINY.measure(("full pre-activation", 0))
    errors = [(row.place, row.value) for row in rows if row.quantity == "error"]
    assert [epoch for epoch, _ in errors] == [1, 2]
    np.testing.assert_allclose([64 * error for _, error in errors], np.round([64 * error for _, error in errors]))


def test_the_claim():
    good = [0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.5, 0.3, 0.3, 0.3]
    skip, order = good.copy(), good.copy()
    skip[list(NETS).index("gate on skip")] = 0.1
    order[list(NETS).index("full pre-activation")] = 0.6
    claim = IdentityMappings().claim(rows_of(np.transpose([good, skip, order])))
    assert claim.verdicts == (True, False, False)
    assert "full pre-activation 30.0%, 30.0%, 60.0%" in claim.seen


def test_the_picture():
    rows = rows_of(np.linspace(0.1, 0.9, 10)[:, None] + [0, 0.05])
    gradients, errors, orders, order_errors = IdentityMappings().plot(rows).axes
    np.testing.assert_allclose(gradients.lines[3].get_ydata(), [4, 1])
    np.testing.assert_allclose(errors.lines[0].get_xdata(), [10, 15])
    np.testing.assert_allclose(last_errors(rows)["½ skip"], [0.1 + 0.8 / 9, 0.15 + 0.8 / 9])
    assert [label.get_text() for label in errors.get_yticklabels()] == list(SHORTCUTS)
    assert [label.get_text() for label in order_errors.get_yticklabels()] == ["original", *ORDERS]
    np.testing.assert_allclose(order_errors.lines[-1].get_xdata(), [90, 95])
    assert len(orders.lines) == 5
    plt.close("all")
