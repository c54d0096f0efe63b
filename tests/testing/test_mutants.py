"""The tests of the tests: the unbroken operations pass every check, and each mistake is noticed by one at least."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tinyres
from tinyres import testing
from tinyres.cli import app
from tinyres.testing.mutants import KillMatrix, mutants
from tinyres.testing.mutants.networks import Engine, reused, under

ROOT = Path(__file__).parents[2]
ORIGINALS = list(dict.fromkeys(mutant.original for mutant in mutants()))
UNBROKEN = [(original, *check) for original in ORIGINALS for check in original.all_checks()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that `tinyres mutants --output` filled."""
    folder = tmp_path_factory.mktemp("mutants")
    result = CliRunner().invoke(app, ["mutants", "--output", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def rows(written):
    """The written table, by mutant; the last row, of sums, left out."""
    with open(written / "mutants.csv", encoding="utf-8", newline="") as file:
        return {row["mutant"]: row for row in list(csv.DictReader(file))[:-1]}


def checks(row):
    """The marks of the checks; finite differences with ones are none."""
    return {name: mark for name, mark in row.items() if name not in ("of", "mutant", "ones")}


def test_there_are_many_and_each_has_a_name_of_its_own():
    names = [mutant.name for mutant in mutants()]
    assert len(names) == len(set(names)) >= 30
    assert all(mutant.what.endswith(".") for mutant in mutants())


@pytest.mark.parametrize(
    ("original", "check", "settings"), UNBROKEN, ids=[f"{original.name}-{check}" for original, check, _ in UNBROKEN]
)
def test_the_unbroken_operation_passes(original, check, settings):
    args, options = original.example()
    report = getattr(testing, f"check_{check}")(original.kernel, *args, **settings, **options)
    assert report
    assert report.applies


@pytest.mark.parametrize("name", [mutant.name for mutant in mutants()])
def test_the_mutant_is_noticed(name, rows):
    assert "●" in checks(rows[name]).values()


def test_every_check_notices_a_mutant(rows):
    marks = [checks(row) for row in rows.values()]
    assert set(marks[0]) == {name.removeprefix("check_") for name in testing.__all__ if name.startswith("check_")} - {
        "backend_agreement"  # which needs a second backend
    }
    for check in marks[0]:
        assert "●" in {row[check] for row in marks}, check


def test_ones_miss_what_random_cotangents_catch(rows):
    """The two traps: batch norm passes nothing of a constant back, and neither does anything whose outputs sum to 1."""
    for name in ("norm_gradient_zero", "softmax_gradient_zero"):
        assert (rows[name]["vjp"], rows[name]["ones"]) == ("●", "·")


def test_the_engine_to_be_broken_is_right_before():
    x, z, g = np.random.default_rng(0).standard_normal((3, 2, 3))
    found = []
    for run in (reused, under(reused)(Engine)):
        leaves = [tinyres.Tensor(value, requires_grad=True) for value in (x, z)]
        run(*leaves).backward(g)
        found.append([leaf.grad.numpy() for leaf in leaves])
    np.testing.assert_array_equal(*found)


def test_the_page_is_what_the_command_writes(written):
    page = (ROOT / "docs/mutants.md").read_text(encoding="utf-8")
    assert page == (written / "mutants.md").read_text(encoding="utf-8"), "run: tinyres mutants --output docs"


def test_a_survivor_is_named_and_fails_the_command(monkeypatch):
    first, second = mutants()[:2]
    survived = dict.fromkeys((*checks(dict.fromkeys(KillMatrix({}).header())), "ones"), False)
    matrix = KillMatrix({first: survived | {"ones": True}, second: survived | {"pure": True}})
    assert matrix.survivors == [first]
    monkeypatch.setattr("tinyres.testing.mutants.kill_matrix", lambda: matrix)
    result = CliRunner().invoke(app, ["mutants"])
    assert result.exit_code == 1
    assert first.name in result.output.splitlines()[-1]
    assert second.name not in result.output.splitlines()[-1]


def test_a_mutant_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        mutants()[0].name = "another"
