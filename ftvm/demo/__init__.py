"""The demonstration: a pair of real processes, a real client, one kill, and the books audited afterwards."""
