"""Methods that restore signals with degradations other than noise alone."""
