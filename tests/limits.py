"""How long tests wait. Where all is well nobody waits: these only end what would never end by itself, on a computer
that does several other things at once. How long something takes is never a test's matter, but the benchmarks'."""

WAIT_S = 90.0
"""For one thing to happen: a state, an answer, the end of a process."""

TEST_S = 280.0
"""For a whole test with processes: less than pytest's own limit, which says less."""

TIMEOUT_MS = 1000
"""Of a failure detector: a machine that also compiles and tests other things must not look dead."""
