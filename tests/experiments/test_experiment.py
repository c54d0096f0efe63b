"""What all experiments share: cases that are measured once, wherever; results that are kept; settings as text."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import pytest

from tinyres import experiments
from tinyres.experiments import Claim, Experiment

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


class Row(NamedTuple):
    name: str
    seed: int
    value: float


measured = []


@dataclass(frozen=True)
class Doubling(Experiment):
    factor: float = 2.0
    word: str = "a"
    names: tuple[str, ...] = ("one", "two/three")
    loud: bool = False

    name: ClassVar[str] = "doubling"

    def cases(self):
        return [(name, seed) for name in self.names for seed in range(self.seeds)]

    def measure(self, case, output=None, progress=False):
        measured.append(case)
        if case == ("two/three", 1) and self.loud:
            raise RuntimeError("stopped here")
        return [Row(*case, self.factor * case[1]), Row(*case, 0.1)]

    def plot(self, rows):
        figure = matplotlib.figure.Figure()
        figure.subplots().plot(rows.value)
        return figure

    def claim(self, rows):
        return Claim("doubles", "it did", tuple(rows[rows.name == "one"].value[::2] == [0.0, 2.0]))


@pytest.fixture(autouse=True)
def _fresh():
    measured.clear()


def quiet(experiment, *args):
    return experiments.run(experiment, *args, progress=False)


def test_rows_come_in_the_order_of_the_cases():
    rows = quiet(Doubling(seeds=2)).rows
    assert rows.seed.tolist() == [0, 0, 1, 1] * 2
    assert rows.value.tolist() == [0.0, 0.1, 2.0, 0.1] * 2
    assert rows.name.tolist() == ["one"] * 4 + ["two/three"] * 4


def test_a_finished_case_is_not_measured_again(tmp_path):
    with pytest.raises(RuntimeError, match="stopped here"):
        quiet(Doubling(seeds=2, names=("one", "two/three"), loud=True), tmp_path)
    first = measured.copy()
    assert first[-1] == ("two/three", 1)
    measured.clear()
    with pytest.raises(RuntimeError):
        quiet(Doubling(seeds=2, loud=True), tmp_path)
    assert measured == [("two/three", 1)]
    measured.clear()
    other = quiet(Doubling(seeds=1, loud=True), tmp_path)  # fewer seeds: all are there
    assert measured == [] and len(other.rows) == 4


def test_cases_of_other_settings_are_refused(tmp_path):
    quiet(Doubling(seeds=1), tmp_path)
    with pytest.raises(ValueError, match=r"factor 2.0, not 3.0: choose another folder"):
        quiet(Doubling(seeds=1, factor=3.0), tmp_path)


def test_an_executor_brings_the_same(tmp_path):
    alone = quiet(Doubling(seeds=3))
    with ThreadPoolExecutor(2) as pool:
        together = quiet(Doubling(seeds=3), tmp_path, pool)
    assert (together.rows == alone.rows).all()


def test_a_failure_in_an_executor_is_raised():
    with ThreadPoolExecutor(2) as pool, pytest.raises(RuntimeError, match="stopped here"):
        quiet(Doubling(seeds=2, loud=True), None, pool)


def test_processes_measure_cases_like_this_one(tmp_path):
    study = experiments.get("initialisation")(seeds=1, width=20, batch=30)
    with experiments.processes(2) as executor:
        apart = quiet(study, tmp_path, executor)
    here = quiet(study).rows
    assert apart.rows.net.tolist() == here.net.tolist()
    np.testing.assert_allclose(apart.rows.gradient_rms, here.gradient_rms, rtol=1e-9)


def test_what_is_saved_is_what_was_measured(tmp_path):
    result = quiet(experiments.get("initialisation")(seeds=1, width=20, batch=30))
    paths = result.save(tmp_path)
    assert sorted(path.suffix for path in paths) == [".csv", ".npz", ".png", ".txt"]
    again = experiments.load(tmp_path / "initialisation.npz")
    assert again.experiment == result.experiment
    assert (again.rows == result.rows).all()
    assert again.claim() == result.claim()
    with open(tmp_path / "initialisation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["gradient_rms"]) for row in rows] == result.rows.gradient_rms.tolist()
    assert str(result.claim()) in (tmp_path / "initialisation.txt").read_text(encoding="utf-8")


def test_a_file_that_is_no_result(tmp_path):
    np.savez(tmp_path / "other.npz", rows=np.zeros(3))
    with pytest.raises(ValueError, match="no result of an experiment"):
        experiments.load(tmp_path / "other.npz")


@pytest.mark.parametrize("verdicts, holds", [((True, True), True), ((True, False), False), ((), False)])
def test_a_claim_holds_if_every_seed_shows_it(verdicts, holds):
    claim = Claim("a", "b", verdicts)
    assert claim.holds is holds
    assert ("not seen" in str(claim)) is not holds
    assert f"{sum(verdicts)} of {len(verdicts)} seeds" in str(claim)


def test_settings_as_text():
    texts = ["factor=3", "word=b=c", 'names=["x"]', "loud=true", "seeds=5"]
    assert experiments.parse(Doubling, texts) == dict(factor=3.0, word="b=c", names=("x",), loud=True, seeds=5)


@pytest.mark.parametrize("text", ["factor", "other=1", "seeds=1.5", "seeds=x", "factor=[1]"])
def test_settings_that_are_none(text):
    with pytest.raises(ValueError, match=text.partition("=")[0]):
        experiments.parse(Doubling, [text])


@pytest.mark.parametrize("name", experiments.NAMES)
def test_every_experiment_has_what_all_have(name):
    kind = experiments.get(name)
    assert kind.name == name
    assert experiments.what(name).endswith((".", "?"))
    assert kind(**kind.quick).cases()
    assert replace(kind(), seeds=1).cases() == [case for case in kind().cases() if case[-1] == 0]


def test_no_such_experiment():
    with pytest.raises(ValueError, match="experiment is 'nothing', expected one of initialisation"):
        experiments.get("nothing")
