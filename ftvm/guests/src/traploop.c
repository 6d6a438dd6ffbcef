/* ecall in a loop, answered by a minimal M-mode handler: the cost of a trap and of MRET. */
#include "compute.h"

#define TRAPS 1000000

COMPUTE("traploop", TRAPS, ROUNDS_OR(20));

void trap_counter(void);

/* The handler owns t0 and t1; the loop below tells the compiler so. */
__asm__(".balign 4\n"
        "trap_counter:\n"
        "    csrr t0, mepc\n"
        "    addi t0, t0, 4\n"
        "    csrw mepc, t0\n"
        "    addi a0, a0, 1\n"
        "    mret\n");

uint64_t compute_round(void) {
    register uint64_t count __asm__("a0") = 0;
    uint64_t vector = read_csr(mtvec);
    write_csr(mtvec, trap_counter);
    for (int i = 0; i < TRAPS; i++) __asm__ volatile("ecall" : "+r"(count)::"t0", "memory");
    write_csr(mtvec, vector);
    return count;
}
