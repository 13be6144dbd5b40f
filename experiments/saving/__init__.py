"""When a run saves, and how it is ended so that it goes on from there."""
