"""The experiments that train, as `quick` makes them: each shows what it claims. A seed takes up to a minute, so they
run when they are asked for: `pytest -m experiment`."""

from __future__ import annotations

import pytest

from tinyres.experiments.degradation import Degradation
from tinyres.experiments.experiment import run
from tinyres.experiments.identity_mappings import IdentityMappings
from tinyres.experiments.landscape import LossLandscape
from tinyres.experiments.layer_responses import LayerResponses
from tinyres.experiments.lesion import Lesion
from tinyres.experiments.normalisation_free import NormalisationFree
from tinyres.experiments.trained import by_seed

EXPERIMENTS = Degradation, IdentityMappings, LossLandscape, LayerResponses, Lesion, NormalisationFree


@pytest.mark.experiment
@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_the_quick_one_shows_it(experiment):
    claim = run(experiment(**experiment.quick), progress=False).claim()
    assert claim.holds, str(claim)


def test_by_seed():
    assert by_seed({"a": [0.5, 0.25], "b": [1]}, "{:.0%}") == "a 50%, 25%; b 100%"
