"""Physical memory protection (RISC-V privileged architecture 1.13, section 3.7): sixteen entries, a grain of 4 bytes.

The entry with the lowest number that holds any byte of an access decides; if it does not hold all of them, the access
fails whatever it permits. Each halfword of an instruction is an access of its own.
"""

from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled

_ALL = (1 << 57) - 1


@compiled
def _config(state: Words, entry: int) -> int:
    return (state[s.PMPCFG + (entry >> 3)] >> 8 * (entry & 7)) & 0xFF


@compiled
def _range(state: Words, entry: int, config: int) -> tuple[int, int]:
    """First and last address of an entry that is on; an empty range ends before it begins."""
    address = state[s.PMPADDR + entry]
    match = (config >> s.PMP_MATCH_LSB) & 3
    if match == s.PMP_TOR:
        first = state[s.PMPADDR + entry - 1] << 2 if entry else 0
        return first, (address << 2) - 1
    if match == s.PMP_NA4:
        return address << 2, (address << 2) + 3
    # NAPOT: the lowest zero bit, and the ones below it, say how large it is.
    inside = (((address ^ (address + 1)) << 2) | 3) & _ALL
    return (address << 2) & ~inside, (address << 2) | inside


@compiled
def pmp_allows(state: Words, address: int, size: int, permission: int, priv: int) -> bool:
    """May mode `priv` access these bytes? `permission` is PMP_R, PMP_W or PMP_X. Of a whole page, False may also mean
    that its parts differ.
    """
    if state[s.PMPCFG] == 0 and state[s.PMPCFG + 1] == 0:
        return priv == s.MACHINE
    last = address + size - 1
    for entry in range(s.PMP_ENTRIES):
        config = _config(state, entry)
        if (config >> s.PMP_MATCH_LSB) & 3 == 0:
            continue
        low, high = _range(state, entry, config)
        if last < low or high < address or high < low:
            continue
        if address < low or high < last:
            return False
        if priv == s.MACHINE and config & s.PMP_LOCKED == 0:
            return True
        return config & permission != 0
    return priv == s.MACHINE


@compiled
def write_pmpcfg(state: Words, word: int, value: int) -> None:
    """pmpcfg0 (word 0) or pmpcfg2 (word 1): eight entries; those that are locked stay. W without R is reserved, and
    such an entry gets neither.
    """
    old = state[s.PMPCFG + word]
    result = 0
    for place in range(0, 64, 8):
        config = (old >> place) & 0xFF
        if config & s.PMP_LOCKED == 0:
            config = (value >> place) & s.PMPCFG_WRITABLE
            if config & (s.PMP_R | s.PMP_W) == s.PMP_W:
                config &= ~s.PMP_W
        result |= config << place
    state[s.PMPCFG + word] = result


@compiled
def write_pmpaddr(state: Words, entry: int, value: int) -> None:
    """Ignored where the entry is locked, or the next one is and takes this address for its lower bound."""
    if _config(state, entry) & s.PMP_LOCKED:
        return
    if entry + 1 < s.PMP_ENTRIES:
        after = _config(state, entry + 1)
        if after & s.PMP_LOCKED and (after >> s.PMP_MATCH_LSB) & 3 == s.PMP_TOR:
            return
    state[s.PMPADDR + entry] = value & s.PMPADDR_WRITABLE
