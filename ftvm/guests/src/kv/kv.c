/* A key-value server for one client at a time, speaking RESP2 over the UART: bare metal, M mode, one hart.
 *
 * Replies follow Redis 7.0 to the byte where a command is supported. The board is all there is: no heap but the
 * store's blocks, no interrupt handler, and WFI whenever the client has said all it wants to say.
 */
#include "board.h"
#include "kv/commands.h"
#include "kv/serial.h"

#define HEAP_SIZE (32 * 1024 * 1024)
#define HEAP_SIZE_MIN 65536

/* In .data: an image can be patched to another size. */
volatile uint64_t heap_size = HEAP_SIZE;

extern uint8_t ram_free[]; /* link.ld */

_Noreturn void serve(void);

/* Entered once for each client, on an empty stack. */
void serve(void) {
    command_forget_session();
    serial_answer_breaks();
    for (;;) {
        if (request_receive()) command_run();
        if (serial_client_gone()) session_restart();
    }
}

int main(void) {
    if (heap_size < HEAP_SIZE_MIN) finish_fail(2);
    serial_open();
    store_open(ram_free, heap_size);
    serve();
}
