"""Differential testing of the hart: random programs on unicorn, the reference interpreter and the kernel."""
