/* The UART's interrupt as a mere wake-up call: WFI returns when it is pending, no handler ever runs.
 *
 * mstatus.MIE stays 0 and mie.MEIE is 1 (Privileged spec, "Wait for Interrupt"). A guest drains the UART, calls
 * plic_acknowledge(), looks at the UART once more and only then waits: a byte that came before the claim is seen
 * by that look, one that comes after it makes the interrupt pending anew.
 */
#ifndef PLIC_H
#define PLIC_H

#include "board.h"

#define PLIC_PRIORITY(source) (PLIC + 4 * (source))
#define PLIC_ENABLE (PLIC + 0x2000)      /* hart 0, M mode; sources 0 to 31 */
#define PLIC_THRESHOLD (PLIC + 0x200000) /* hart 0, M mode */
#define PLIC_CLAIM (PLIC + 0x200004)
#define MIE_EXTERNAL (1 << 11)

static inline void plic_enable_uart(void) {
    write32(PLIC_PRIORITY(UART_IRQ), 1);
    write32(PLIC_ENABLE, 1 << UART_IRQ);
    write32(PLIC_THRESHOLD, 0);
    write_csr(mie, MIE_EXTERNAL);
}

/* After the UART's. */
static inline void plic_enable_also(uint32_t source) {
    write32(PLIC_PRIORITY(source), 1);
    write32(PLIC_ENABLE, read32(PLIC_ENABLE) | 1U << source);
}

static inline void plic_acknowledge(void) {
    uint32_t source = read32(PLIC_CLAIM);
    if (source) write32(PLIC_CLAIM, source);
}

#endif
