"""Real processes on several hosts, faults of every kind, and a check of what their clients saw."""
