"""Saving at the right moments, and an end from which a run goes on."""
