/* Console output and the two ways to end, for every guest that includes board.h. */
#include "board.h"

static void put(char byte) {
    while (!(read8(UART + UART_LSR) & LSR_THR_EMPTY)) {
    }
    write8(UART + UART_THR, (uint8_t)byte);
}

void print(const char *text) {
    while (*text) put(*text++);
}

void print_decimal(uint64_t value) {
    char digits[21];
    char *at = digits + 20;
    *at = 0;
    do *--at = (char)('0' + value % 10);
    while (value /= 10);
    print(at);
}

void print_hex(uint64_t value) {
    for (int shift = 60; shift >= 0; shift -= 4) put("0123456789abcdef"[(value >> shift) & 15]);
}

static _Noreturn void finish(uint32_t word) {
    while (!(read8(UART + UART_LSR) & LSR_IDLE)) {
    }
    write32(FINISHER, word);
    for (;;) wait_for_interrupt();
}

void finish_pass(void) { finish(0x5555); }

void finish_fail(unsigned code) { finish(0x3333 | (uint32_t)code << 16); }

/* Where an unexpected trap ends: it is named on the console and fails the run. */
_Noreturn void unexpected_trap(void) {
    print("trap: mcause ");
    print_hex(read_csr(mcause));
    print(" mepc ");
    print_hex(read_csr(mepc));
    print(" mtval ");
    print_hex(read_csr(mtval));
    print("\n");
    finish_fail(127);
}
