/* Waits for an interrupt with every interrupt disabled: nothing can ever wake this hart. */
#include "board.h"

int main(void) {
    print("asleep for ever\n");
    write_csr(mie, 0);
    for (;;) wait_for_interrupt();
}
