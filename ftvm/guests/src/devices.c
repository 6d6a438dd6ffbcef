/* Does with its devices what it is told, a line at a time, and answers each with a line:
 *
 *     w N B   fill block N of the first disk with the byte B        ok
 *     r N     read block N: its first and its last byte             BYTE BYTE
 *     f       have everything written last                          ok
 *     x       eight bytes from the entropy device                   in hex
 *     t       the real-time clock                                   nanoseconds since 1970
 *     z       the size of the virtio console                        columns rows
 *     o       power off
 *
 * It listens and speaks on the virtio console if there is one, and on the UART otherwise. Numbers are decimal; a block
 * has 4096 bytes. What fails is answered with `error`.
 *
 * (Virtual I/O Device 1.2, sections 5.2 block, 5.3 console, 5.4 entropy; goldfish RTC.) */
#include <stdbool.h>

#include "board.h"

#include "memory.h"
#include "plic.h"
#include "virtio.h"

#define BLOCK_FLUSH 9 /* VIRTIO_BLK_F_FLUSH, and the type of such a request is 4 */

#define RTC 0x00101000UL
#define RTC_LOW 0x0
#define RTC_HIGH 0x4

#define BLOCK_SIZE 4096
#define SECTOR_SIZE 512
#define RECEIVE 0 /* of the console */
#define TRANSMIT 1
#define LINE_MAX 64

static struct queue disk, entropy, receive, transmit;
static struct {
    uint32_t type, reserved;
    uint64_t sector;
} header;
static uint8_t block[BLOCK_SIZE], status;

/* Gives the chain that begins at descriptor 0 to the device. */
static void offer(struct queue *queue) {
    virtio_put(queue, 0);
    virtio_notify(queue);
}

static bool is_used(const struct queue *queue) { return virtio_used(queue) == queue->available.index; }

static bool submit(struct queue *queue) {
    if (!queue->device) return false;
    offer(queue);
    while (!is_used(queue)) {
    }
    return true;
}

static char answer[LINE_MAX];
static size_t answer_size;

static void say(const char *text) {
    while (*text) answer[answer_size++] = *text++;
}

static void say_number(uint64_t value) {
    char digits[21];
    char *at = digits + 20;
    *at = 0;
    do *--at = (char)('0' + value % 10);
    while (value /= 10);
    say(at);
}

static void say_hex(uint64_t value) {
    for (int shift = 60; shift >= 0; shift -= 4) answer[answer_size++] = "0123456789abcdef"[(value >> shift) & 15];
}

static void end_line(void) {
    say("\n");
    answer[answer_size] = 0;
    if (transmit.device) {
        transmit.table[0] = (struct descriptor){(uintptr_t)answer, (uint32_t)answer_size, 0, 0};
        submit(&transmit);
    } else {
        print(answer);
    }
    answer_size = 0;
}

static bool request(uint32_t type, uint64_t number) {
    header.type = type;
    header.sector = number * (BLOCK_SIZE / SECTOR_SIZE);
    status = 0xff;
    struct descriptor *at = disk.table;
    *at++ = (struct descriptor){(uintptr_t)&header, sizeof header, NEXT, 1};
    if (type != 4) {
        *at++ = (struct descriptor){(uintptr_t)block, BLOCK_SIZE, (uint16_t)(NEXT | (type ? 0 : WRITABLE)), 2};
    }
    *at = (struct descriptor){(uintptr_t)&status, 1, WRITABLE, 0};
    return submit(&disk) && *(volatile uint8_t *)&status == 0;
}

static bool draw(void) {
    entropy.table[0] = (struct descriptor){(uintptr_t)block, 8, WRITABLE, 0};
    return submit(&entropy) && entropy.used.ring[(entropy.used.index - 1) % QUEUE_SIZE].size == 8;
}

static uint64_t number(const char **at) {
    uint64_t value = 0;
    while (**at == ' ') (*at)++;
    while (**at >= '0' && **at <= '9') value = 10 * value + (uint64_t)(*(*at)++ - '0');
    return value;
}

static void obey(const char *at) {
    char what = *at ? *at++ : ' ';
    uint64_t first = number(&at), second = number(&at);
    if (what == 'w') {
        memset(block, (int)second, BLOCK_SIZE);
        say(request(1, first) ? "ok" : "error");
    } else if (what == 'r' && request(0, first)) {
        say_number(block[0]), say(" "), say_number(block[BLOCK_SIZE - 1]);
    } else if (what == 'f') {
        say(request(4, 0) ? "ok" : "error");
    } else if (what == 'x' && draw()) {
        say_hex(*(volatile uint64_t *)block);
    } else if (what == 't') {
        uint64_t low = read32(RTC + RTC_LOW);
        say_number((uint64_t)read32(RTC + RTC_HIGH) << 32 | low);
    } else if (what == 'z' && receive.device) {
        uint32_t size = read32(receive.device + CONFIG);
        say_number(size & 0xffff), say(" "), say_number(size >> 16);
    } else if (what == 'o') {
        finish_pass();
    } else {
        say("error");
    }
    end_line();
}

static void take(char byte) {
    static char line[LINE_MAX + 1];
    static size_t size;
    if (byte == '\n' || byte == '\r') {
        line[size] = 0;
        if (size) obey(line);
        size = 0;
    } else if (byte && size < LINE_MAX) {
        line[size++] = byte;
    }
}

static uint8_t typed[LINE_MAX];

static void listen(void) {
    receive.table[0] = (struct descriptor){(uintptr_t)typed, sizeof typed, WRITABLE, 0};
    offer(&receive);
}

/* Whether there was anything. */
static bool hear(void) {
    if (!receive.device) {
        if (!(read8(UART + UART_LSR) & LSR_DATA)) return false;
        take((char)read8(UART + UART_RBR));
        return true;
    }
    if (!is_used(&receive)) return false;
    uint32_t size = *(volatile uint32_t *)&receive.used.ring[(receive.used.index - 1) % QUEUE_SIZE].size;
    for (uint32_t at = 0; at < size; at++) take((char)((volatile uint8_t *)typed)[at]);
    listen();
    return true;
}

int main(void) {
    uintptr_t block_device = virtio_find(ID_BLOCK), console = virtio_find(ID_CONSOLE), random = virtio_find(ID_ENTROPY);
    if (block_device) {
        virtio_negotiate(block_device, 1 << BLOCK_FLUSH);
        virtio_set_up_queue(&disk, block_device, 0);
        virtio_start(block_device);
    }
    if (random) {
        virtio_negotiate(random, 0);
        virtio_set_up_queue(&entropy, random, 0);
        virtio_start(random);
    }
    if (console) {
        virtio_negotiate(console, 1); /* VIRTIO_CONSOLE_F_SIZE */
        virtio_set_up_queue(&receive, console, RECEIVE);
        virtio_set_up_queue(&transmit, console, TRANSMIT);
        virtio_start(console);
    }
    write8(UART + UART_LCR, LCR_8N1);
    write8(UART + UART_IER, IER_RECEIVED);
    plic_enable_uart();
    if (console) {
        plic_enable_also(virtio_irq(console));
        listen();
    }
    for (;;) {
        if (hear()) continue;
        if (console) write32(console + INTERRUPT_ACK, 3);
        plic_acknowledge();
        if (!hear()) wait_for_interrupt();
    }
}
