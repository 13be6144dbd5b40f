"""Linear separation alternating (LSA): PLS, PLS-LSA and PLS-LSA+."""
