"""Search settings of a configuration by trials, for `tune`."""
