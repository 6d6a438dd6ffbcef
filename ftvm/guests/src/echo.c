/* Sends back every byte it receives, asleep in between. A BREAK comes back as a BREAK.
 *
 * The FIFO stays off: turning it on would drop what has come in already. */
#include <stdbool.h>

#include "board.h"

#include "plic.h"

static bool break_next; /* the byte that RBR yields next is a BREAK */

/* Reading LSR clears its BREAK bit: whoever reads it must remember. */
static uint8_t line_status(void) {
    uint8_t status = read8(UART + UART_LSR);
    if (status & LSR_BREAK) break_next = true;
    return status;
}

static void answer(uint8_t byte, bool is_break) {
    while (!(line_status() & LSR_THR_EMPTY)) {
    }
    if (is_break) {
        write8(UART + UART_LCR, LCR_8N1 | LCR_BREAK);
        write8(UART + UART_LCR, LCR_8N1);
    } else {
        write8(UART + UART_THR, byte);
    }
}

int main(void) {
    write8(UART + UART_LCR, LCR_8N1);
    write8(UART + UART_IER, IER_RECEIVED);
    plic_enable_uart();
    for (;;) {
        if (line_status() & LSR_DATA) {
            bool is_break = break_next;
            break_next = false;
            answer(read8(UART + UART_RBR), is_break);
        } else {
            plic_acknowledge();
            if (!(line_status() & LSR_DATA)) wait_for_interrupt();
        }
    }
}
