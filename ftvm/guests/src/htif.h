/* Berkeley Host-Target Interface: a loader that finds these symbols watches tohost for an exit code. */
#ifndef HTIF_H
#define HTIF_H

#include "board.h"

__attribute__((section(".htif"), used)) volatile uint64_t tohost = 0;
__attribute__((section(".htif"), used)) volatile uint64_t fromhost = 0;

/* Bit 0 says "exit", the rest is the code. */
static _Noreturn void htif_exit(uint64_t code) {
    tohost = code << 1 | 1;
    for (;;) {
    }
}

#endif
