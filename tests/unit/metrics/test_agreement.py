"""Kappa and the confusion table against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from medvision.core.errors import UsageError
from medvision.metrics.agreement import confusion, quadratic_kappa

STAGES = ("pN0", "pN0(i+)", "pN1mi", "pN1", "pN2")


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_scikit_learn(seed):
    random = np.random.default_rng(seed)
    known = random.integers(1, 6)  # some classes may be absent
    reference = [STAGES[i] for i in random.integers(0, known, 60)]
    predicted = [STAGES[i] for i in random.integers(0, 5, 60)]
    table = confusion(reference, predicted, STAGES)
    assert (table == confusion_matrix(reference, predicted, labels=STAGES)).all()
    expected = cohen_kappa_score(reference, predicted, labels=STAGES, weights="quadratic")
    assert quadratic_kappa(table) == pytest.approx(expected, abs=1e-12)


def test_full_agreement_and_its_opposite():
    assert quadratic_kappa(np.diag([3, 2, 5])) == 1
    assert quadratic_kappa(np.array([[0, 4], [4, 0]])) == -1


def test_what_has_no_kappa_is_refused():
    with pytest.raises(UsageError, match="all 4 cases are of one class"):
        quadratic_kappa(np.diag([0, 4, 0]))
    with pytest.raises(UsageError, match="at least one case"):
        quadratic_kappa(np.zeros((3, 3), int))
    with pytest.raises(UsageError, match=r"unknown classes pN3; known: pN0, pN0\(i\+\)"):
        confusion(["pN0"], ["pN3"], STAGES)
    with pytest.raises(UsageError, match="1 reference labels for 2"):
        confusion(["pN0"], ["pN0", "pN0"], STAGES)
