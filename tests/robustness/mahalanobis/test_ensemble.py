import numpy as np
import pytest
import torch

from lightning_modules.metrics.detection import detection_metrics
from lightning_modules.robustness.mahalanobis.ensemble import Sample, best_column, fit_ensemble, logistic_regression


@pytest.mark.filterwarnings("ignore")
def test_logistic_regression_is_scikit_learns_with_its_usual_solver() -> None:
    from sklearn.linear_model import LogisticRegressionCV

    random = torch.Generator().manual_seed(0)
    in_distribution = torch.randn(40, 2, generator=random, dtype=torch.float64)
    other = torch.randn(40, 2, generator=random, dtype=torch.float64) - torch.tensor([1.0, 0.5])
    weight, bias = logistic_regression(in_distribution, other)
    target = np.array([0] * 40 + [1] * 40)
    usual = LogisticRegressionCV(cv=5, scoring="accuracy", tol=1e-8, max_iter=1000)
    usual.fit(torch.cat([in_distribution, other]).numpy(), target)
    np.testing.assert_allclose(weight, usual.coef_[0], rtol=1e-3)
    np.testing.assert_allclose(bias, usual.intercept_[0], rtol=1e-3)


def test_the_ensemble_takes_the_layer_and_the_epsilon_that_tell_the_two_apart() -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 60, 2, 3, generator=random, dtype=torch.float64)
    scores[1::2, :, 1, 2] -= 6  # other inputs have far lower scores in layer 1 at the last epsilon
    ensemble = fit_ensemble(Sample(scores[0], scores[1]), Sample(scores[2], scores[3]), "tnr95")
    assert ensemble.column == 2
    assert abs(float(ensemble.weight[1])) > 3 * abs(float(ensemble.weight[0]))
    metrics = detection_metrics(ensemble.confidence(scores[2]), ensemble.confidence(scores[3]))
    assert metrics["auroc"] > 0.99
    assert best_column(scores[2, :, 1], scores[3, :, 1]) == 2
    with pytest.raises(ValueError, match="at least 2 inputs of each kind"):
        fit_ensemble(Sample(scores[0, :1], scores[1]), Sample(scores[2], scores[3]), "auroc")
