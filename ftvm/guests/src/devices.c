/* Does with its devices what it is told, a line at a time, and answers each with a line:
 *
 *     w N B   fill block N of the first disk with the byte B        ok
 *     r N     read block N: its first and its last byte             BYTE BYTE
 *     f       have everything written last                          ok
 *     x       eight bytes from the entropy device                   in hex
 *     t       the real-time clock                                   nanoseconds since 1970
 *     o       power off
 *
 * Numbers are decimal; a block has 4096 bytes. What fails is answered with `error`. (Virtual I/O Device 1.2, sections
 * 2.7 split virtqueues, 4.2 MMIO, 5.2 block, 5.4 entropy; goldfish RTC.) */
#include <stdbool.h>

#include "board.h"

#include "memory.h"
#include "plic.h"

#define VIRTIO 0x10001000UL
#define VIRTIO_STRIDE 0x1000UL
#define VIRTIO_SLOTS 8
#define DEVICE_ID 0x008
#define DRIVER_FEATURES 0x020
#define DRIVER_FEATURES_SEL 0x024
#define QUEUE_SEL 0x030
#define QUEUE_NUM 0x038
#define QUEUE_READY 0x044
#define QUEUE_NOTIFY 0x050
#define STATUS 0x070
#define QUEUE_DESC 0x080
#define QUEUE_DRIVER 0x090
#define QUEUE_DEVICE 0x0a0
#define ID_BLOCK 2
#define ID_ENTROPY 4
#define STATUS_DRIVER 3 /* acknowledged, and there is a driver */
#define STATUS_FEATURES_OK 8
#define STATUS_DRIVER_OK 4
#define FEATURES_HIGH 1 /* VIRTIO_F_VERSION_1 */
#define BLOCK_FLUSH 9   /* VIRTIO_BLK_F_FLUSH, and the type of such a request is 4 */

#define RTC 0x00101000UL
#define RTC_LOW 0x0
#define RTC_HIGH 0x4

#define BLOCK_SIZE 4096
#define SECTOR_SIZE 512
#define QUEUE_SIZE 4
#define NEXT 1
#define WRITABLE 2
#define LINE_MAX 64

struct descriptor {
    uint64_t address;
    uint32_t size;
    uint16_t flags, next;
};

struct queue {
    struct descriptor table[QUEUE_SIZE];
    struct {
        uint16_t flags, index, ring[QUEUE_SIZE];
    } available;
    struct {
        uint16_t flags, index;
        struct {
            uint32_t id, size;
        } ring[QUEUE_SIZE];
    } used;
    uintptr_t device;
} __attribute__((aligned(16)));

static struct queue disk, entropy;
static struct {
    uint32_t type, reserved;
    uint64_t sector;
} header;
static uint8_t block[BLOCK_SIZE], status;

static void write_address(uintptr_t at, const void *address) {
    write32(at, (uint32_t)(uintptr_t)address);
    write32(at + 4, (uint32_t)((uintptr_t)address >> 32));
}

static void set_up(struct queue *queue, uint32_t id, uint32_t features_low) {
    for (int slot = 0; slot < VIRTIO_SLOTS && !queue->device; slot++) {
        uintptr_t device = VIRTIO + VIRTIO_STRIDE * (uintptr_t)slot;
        if (read32(device + DEVICE_ID) == id) queue->device = device;
    }
    if (!queue->device) return;
    uintptr_t device = queue->device;
    write32(device + STATUS, 0);
    write32(device + STATUS, STATUS_DRIVER);
    write32(device + DRIVER_FEATURES_SEL, 0);
    write32(device + DRIVER_FEATURES, features_low);
    write32(device + DRIVER_FEATURES_SEL, 1);
    write32(device + DRIVER_FEATURES, FEATURES_HIGH);
    write32(device + STATUS, STATUS_DRIVER | STATUS_FEATURES_OK);
    write32(device + QUEUE_SEL, 0);
    write32(device + QUEUE_NUM, QUEUE_SIZE);
    write_address(device + QUEUE_DESC, queue->table);
    write_address(device + QUEUE_DRIVER, &queue->available);
    write_address(device + QUEUE_DEVICE, &queue->used);
    write32(device + QUEUE_READY, 1);
    write32(device + STATUS, STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
}

/* Gives the chain that begins at descriptor 0 to the device, and waits until it is used. */
static bool submit(struct queue *queue) {
    if (!queue->device) return false;
    queue->available.ring[queue->available.index % QUEUE_SIZE] = 0;
    __asm__ volatile("fence" ::: "memory");
    queue->available.index++;
    __asm__ volatile("fence" ::: "memory");
    write32(queue->device + QUEUE_NOTIFY, 0);
    while (*(volatile uint16_t *)&queue->used.index != queue->available.index) {
    }
    return true;
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
    bool done = true;
    if (what == 'w') {
        memset(block, (int)second, BLOCK_SIZE);
        done = request(1, first);
        print(done ? "ok" : "error");
    } else if (what == 'r') {
        done = request(0, first);
        if (!done) print("error");
        if (done) print_decimal(block[0]), print(" "), print_decimal(block[BLOCK_SIZE - 1]);
    } else if (what == 'f') {
        print(request(4, 0) ? "ok" : "error");
    } else if (what == 'x') {
        done = draw();
        if (!done) print("error");
        if (done) print_hex(*(volatile uint64_t *)block);
    } else if (what == 't') {
        uint64_t low = read32(RTC + RTC_LOW);
        print_decimal((uint64_t)read32(RTC + RTC_HIGH) << 32 | low);
    } else if (what == 'o') {
        finish_pass();
    } else {
        print("error");
    }
    print("\n");
}

int main(void) {
    static char line[LINE_MAX + 1];
    size_t size = 0;
    set_up(&disk, ID_BLOCK, 1 << BLOCK_FLUSH);
    set_up(&entropy, ID_ENTROPY, 0);
    write8(UART + UART_LCR, LCR_8N1);
    write8(UART + UART_IER, IER_RECEIVED);
    plic_enable_uart();
    for (;;) {
        if (!(read8(UART + UART_LSR) & LSR_DATA)) {
            plic_acknowledge();
            if (!(read8(UART + UART_LSR) & LSR_DATA)) wait_for_interrupt();
            continue;
        }
        char byte = (char)read8(UART + UART_RBR);
        if (byte == '\n' || byte == '\r') {
            line[size] = 0;
            if (size) obey(line);
            size = 0;
        } else if (byte && size < LINE_MAX) {
            line[size++] = byte;
        }
    }
}
