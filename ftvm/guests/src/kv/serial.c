/* ns16550a, polled, with its interrupt as the wake-up call from WFI. See serial.h and plic.h. */
#include "kv/serial.h"

#include "plic.h"

/* Bytes that came in while a reply was going out. They are taken only to see a BREAK behind them early. */
#define STASH_SIZE 65536

static uint8_t stash[STASH_SIZE] __attribute__((section(".noinit")));
static size_t stash_start, stash_end; /* free-running */
static unsigned transmit_room;        /* bytes that the transmit FIFO surely takes */
static unsigned breaks_unanswered;
static bool client_gone;

static uint8_t line_status(void) { return read8(UART + UART_LSR); }

/* Takes the BREAK's zero byte. QEMU raises LSR.BI as soon as the BREAK comes in, with older bytes in front. */
static void take_break(void) {
    do {
        if (read8(UART + UART_RBR) == 0) break;
    } while (line_status() & LSR_DATA);
    breaks_unanswered++;
}

/* Returns when there is a byte in the receive FIFO. Reading LSR clears its BREAK bit: each value counts. */
static void wait_for_data(uint8_t status) {
    for (bool acknowledged = false;; acknowledged = !acknowledged, status = line_status()) {
        if (status & LSR_BREAK) {
            take_break();
            session_restart();
        }
        if (status & LSR_DATA) return;
        if (acknowledged) {
            wait_for_interrupt();
        } else {
            plic_acknowledge();
        }
    }
}

static inline bool only_data(uint8_t status) { return (status & (LSR_DATA | LSR_BREAK)) == LSR_DATA; }

uint8_t serial_receive(void) {
    if (stash_start != stash_end) return stash[stash_start++ % STASH_SIZE];
    uint8_t status = line_status();
    if (!only_data(status)) wait_for_data(status);
    return read8(UART + UART_RBR);
}

void serial_receive_bytes(uint8_t *to, size_t size) {
    uint8_t *end = to + size;
    while (to != end && stash_start != stash_end) *to++ = stash[stash_start++ % STASH_SIZE];
    while (to != end) {
        uint8_t status = line_status();
        if (!only_data(status)) wait_for_data(status);
        *to++ = read8(UART + UART_RBR);
    }
}

static void stash_input(uint8_t status) {
    while (status & (LSR_DATA | LSR_BREAK)) {
        if (status & LSR_BREAK) {
            take_break();
            stash_start = stash_end;
            client_gone = true;
        } else if (stash_end - stash_start < STASH_SIZE) {
            stash[stash_end++ % STASH_SIZE] = read8(UART + UART_RBR);
        } else {
            return;
        }
        status = line_status();
    }
}

/* Turning the FIFO on drops what it holds, so what came before the server was up is taken first. Loopback cuts
 * the line off meanwhile: with flow control nothing comes in and nothing is lost. */
void serial_open(void) {
    write8(UART + UART_LCR, LCR_8N1);
    write8(UART + UART_MCR, MCR_LOOPBACK);
    stash_input(line_status());
    write8(UART + UART_FCR, FCR_ENABLE);
    write8(UART + UART_MCR, MCR_OUT2);
    write8(UART + UART_IER, IER_RECEIVED);
    plic_enable_uart();
}

static void wait_for_room(void) {
    uint8_t status;
    do {
        status = line_status();
        stash_input(status);
    } while (!client_gone && !(status & LSR_THR_EMPTY));
    transmit_room = UART_FIFO_SIZE;
}

void serial_send(const void *from, size_t size) {
    const uint8_t *at = from;
    while (size) {
        if (transmit_room == 0) wait_for_room();
        if (client_gone) return;
        unsigned chunk = size < transmit_room ? (unsigned)size : transmit_room;
        transmit_room -= chunk;
        size -= chunk;
        for (const uint8_t *end = at + chunk; at != end; at++) write8(UART + UART_THR, *at);
    }
}

bool serial_client_gone(void) { return client_gone; }

void serial_drain(void) {
    uint8_t status;
    do {
        status = line_status();
        stash_input(status);
    } while (!(status & LSR_IDLE));
}

void serial_answer_breaks(void) {
    while (breaks_unanswered) {
        serial_drain();
        write8(UART + UART_LCR, LCR_8N1 | LCR_BREAK);
        write8(UART + UART_LCR, LCR_8N1);
        breaks_unanswered--;
    }
    client_gone = false;
}
