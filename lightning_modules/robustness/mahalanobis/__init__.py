"""Out-of-distribution and adversarial inputs found by the Mahalanobis distance of their features to the class means."""
