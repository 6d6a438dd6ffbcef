/* A trap vector that points at nothing: every trap's first instruction traps again, for ever.
 *
 * No instruction retires, so a machine that counts only retired ones would never get to the end of its slice.
 */
#include "board.h"

int main(void) {
    print("trap storm\n");
    write_csr(mtvec, 0x40000000UL);
    __asm__ volatile("ecall");
    finish_fail(1);
}
