/* Gives every virtio device that it finds work without end: frames to the card, characters to the console, requests to
 * the entropy device, flushes to the disks; and notifies each of them again and again also when there is nothing new.
 * Interrupts are taken and never acknowledged, so the next one comes with the next instruction; without any device it is
 * the UART's. (Virtual I/O Device 1.2, sections 2.7, 4.2, 5.1 to 5.4.) */
#include "board.h"

#include "memory.h"
#include "plic.h"

#define VIRTIO 0x10001000UL
#define VIRTIO_STRIDE 0x1000UL
#define VIRTIO_SLOTS 8
#define VIRTIO_IRQ 1 /* of the first slot */
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
#define ID_NET 1
#define ID_BLOCK 2
#define ID_CONSOLE 3
#define ID_ENTROPY 4
#define STATUS_DRIVER 3
#define STATUS_FEATURES_OK 8
#define STATUS_DRIVER_OK 4
#define FEATURES_HIGH 1 /* VIRTIO_F_VERSION_1 */
#define BLOCK_FLUSH 9   /* VIRTIO_BLK_F_FLUSH, and the type of such a request is 4 */

#define QUEUE_SIZE 4
#define NEXT 1
#define WRITABLE 2
#define BUFFER_SIZE 4096
#define FRAME_SIZE 1526 /* with struct virtio_net_hdr */
#define IER_THR_EMPTY 0x02
#define MSTATUS_MIE 8

struct queue {
    struct {
        uint64_t address;
        uint32_t size;
        uint16_t flags, next;
    } table[QUEUE_SIZE];
    struct {
        uint16_t flags, index, ring[QUEUE_SIZE]; /* the chain is always the one that begins with 0 */
    } available;
    struct {
        uint16_t flags, index;
        struct {
            uint32_t id, size;
        } ring[QUEUE_SIZE];
    } used;
    uintptr_t device;
    uint32_t number;
    uint8_t buffer[BUFFER_SIZE];
} __attribute__((aligned(16)));

static struct queue queues[VIRTIO_SLOTS];

static void write_address(uintptr_t at, const void *address) {
    write32(at, (uint32_t)(uintptr_t)address);
    write32(at + 4, (uint32_t)((uintptr_t)address >> 32));
}

static void describe(struct queue *queue, uint32_t id) {
    queue->table[0].address = queue->table[1].address = (uintptr_t)queue->buffer;
    switch (id) {
    case ID_NET:
        memset(queue->buffer + 12, 0xff, 6); /* to everybody */
        queue->table[0].size = FRAME_SIZE;
        break;
    case ID_CONSOLE:
        memset(queue->buffer, '#', BUFFER_SIZE);
        queue->table[0].size = BUFFER_SIZE;
        break;
    case ID_ENTROPY:
        queue->table[0].size = BUFFER_SIZE;
        queue->table[0].flags = WRITABLE;
        break;
    default:
        queue->buffer[0] = 4;
        queue->table[0].size = 16;
        queue->table[0].flags = NEXT;
        queue->table[0].next = 1;
        queue->table[1].address += 16;
        queue->table[1].size = 1;
        queue->table[1].flags = WRITABLE;
    }
}

static void set_up(struct queue *queue, uintptr_t device, uint32_t id) {
    queue->device = device;
    queue->number = id == ID_NET || id == ID_CONSOLE;
    describe(queue, id);
    write32(device + STATUS, 0);
    write32(device + STATUS, STATUS_DRIVER);
    write32(device + DRIVER_FEATURES_SEL, 0);
    write32(device + DRIVER_FEATURES, id == ID_BLOCK ? 1 << BLOCK_FLUSH : 0);
    write32(device + DRIVER_FEATURES_SEL, 1);
    write32(device + DRIVER_FEATURES, FEATURES_HIGH);
    write32(device + STATUS, STATUS_DRIVER | STATUS_FEATURES_OK);
    write32(device + QUEUE_SEL, queue->number);
    write32(device + QUEUE_NUM, QUEUE_SIZE);
    write_address(device + QUEUE_DESC, queue->table);
    write_address(device + QUEUE_DRIVER, &queue->available);
    write_address(device + QUEUE_DEVICE, &queue->used);
    write32(device + QUEUE_READY, 1);
    write32(device + STATUS, STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
}

__attribute__((interrupt("machine"), aligned(4))) static void trapped(void) { plic_acknowledge(); }

int main(void) {
    write_csr(mtvec, (uintptr_t)trapped);
    plic_enable_uart();
    size_t count = 0;
    for (uint32_t slot = 0; slot < VIRTIO_SLOTS; slot++) {
        uintptr_t device = VIRTIO + VIRTIO_STRIDE * slot;
        uint32_t id = read32(device + DEVICE_ID);
        if (!id) continue;
        set_up(queues + count++, device, id);
        plic_enable_also(VIRTIO_IRQ + slot);
    }
    print("storm\n");
    if (!count) write8(UART + UART_IER, IER_THR_EMPTY);
    write_csr(mstatus, read_csr(mstatus) | MSTATUS_MIE);
    for (;;) {
        for (struct queue *queue = queues; queue < queues + count; queue++) {
            if (*(volatile uint16_t *)&queue->used.index == queue->available.index) {
                __asm__ volatile("fence" ::: "memory");
                queue->available.index++;
                __asm__ volatile("fence" ::: "memory");
            }
            write32(queue->device + QUEUE_NOTIFY, queue->number);
        }
    }
}
