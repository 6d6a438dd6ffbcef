/* Sends back every byte it receives, asleep in between. A BREAK comes back as a BREAK.
 *
 * The FIFO stays off: turning it on would drop what has come in already. */
#include "board.h"

#include "plic.h"

int main(void) {
    write8(UART + UART_LCR, LCR_8N1);
    write8(UART + UART_IER, IER_RECEIVED);
    plic_enable_uart();
    for (;;) {
        uint8_t status = read8(UART + UART_LSR);
        if (!(status & LSR_DATA)) {
            plic_acknowledge();
            if (!(read8(UART + UART_LSR) & LSR_DATA)) wait_for_interrupt();
            continue;
        }
        uint8_t byte = read8(UART + UART_RBR);
        while (!(read8(UART + UART_LSR) & LSR_THR_EMPTY)) {
        }
        if (status & LSR_BREAK) {
            write8(UART + UART_LCR, LCR_8N1 | LCR_BREAK);
            write8(UART + UART_LCR, LCR_8N1);
        } else {
            write8(UART + UART_THR, byte);
        }
    }
}
