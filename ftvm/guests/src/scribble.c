/* Fills memory and then goes on writing to random pages of it at a steady rate: a guest that is hard to copy.
 *
 * Commands are lines. `f MIB`: fill so much of RAM with noise, and say `filled`. `w MB`: from now on write so many
 * million bytes in each second, whole pages at a time. `?`: say how much was written since the last `?`, and for how
 * many microseconds at most the guest did not come to look at its clock.
 *
 * It never sleeps: what it does not need for writing, it spends looking at its clock. */
#include "board.h"

#define PAGE_WORDS 512
#define MTIME_PER_US (MTIME_HZ / 1000000)
#define BEHIND_MAX 1000000 /* bytes that are caught up with after a pause; more is forgotten */

extern uint64_t ram_free[];

static uint64_t noise = 88172645463325252u;

static uint64_t next_noise(void) { /* xorshift64, Marsaglia 2003 */
    noise ^= noise << 13;
    noise ^= noise >> 7;
    noise ^= noise << 17;
    return noise;
}

static void scribble(uint64_t page) {
    uint64_t *words = ram_free + page * PAGE_WORDS;
    uint64_t first = next_noise();
    for (unsigned index = 0; index < PAGE_WORDS; index++) words[index] = first + index;
}

static uint64_t pages, rate, written, told, begun, seen, gap;

static void execute(char command, uint64_t number) {
    switch (command) {
    case 'f':
        pages = number * 256;
        for (uint64_t page = 0; page < pages; page++) scribble(page);
        print("filled\n");
        break;
    case 'w':
        rate = number;
        written = told = 0;
        begun = read64(CLINT_MTIME);
        break;
    case '?':
        print("wrote ");
        print_decimal(written - told);
        print(" gap ");
        print_decimal(gap / MTIME_PER_US);
        print("\n");
        told = written;
        break;
    }
    seen = read64(CLINT_MTIME);
    gap = 0;
}

static void listen(void) {
    static char command;
    static uint64_t number;
    if (!(read8(UART + UART_LSR) & LSR_DATA)) return;
    char byte = (char)read8(UART + UART_RBR);
    if (byte == '\n') {
        execute(command, number);
        command = 0;
        number = 0;
    } else if (byte >= '0' && byte <= '9') {
        number = number * 10 + (uint64_t)(byte - '0');
    } else if (byte != ' ') {
        command = byte;
    }
}

int main(void) {
    seen = read64(CLINT_MTIME);
    for (;;) {
        listen();
        uint64_t now = read64(CLINT_MTIME);
        if (now - seen > gap) gap = now - seen;
        seen = now;
        if (!rate || !pages) continue;
        uint64_t due = (now - begun) * rate / 10;
        if (due > written + BEHIND_MAX) {
            begun = now;
            told -= written;
            written = due = 0;
        }
        if (written < due) {
            scribble(next_noise() % pages);
            written += PAGE_WORDS * 8;
        }
    }
}
