/* Gives every virtio device that it finds work without end: frames to the card, characters to the console, requests to
 * the entropy device, flushes to the disks; and notifies each of them again and again also when there is nothing new.
 * Interrupts are taken and never acknowledged, so the next one comes with the next instruction; without any device it is
 * the UART's. (Virtual I/O Device 1.2, sections 2.7, 4.2, 5.1 to 5.4.) */
#include "board.h"

#include "memory.h"
#include "plic.h"
#include "virtio.h"

#define BLOCK_FLUSH 9 /* VIRTIO_BLK_F_FLUSH, and the type of such a request is 4 */
#define BUFFER_SIZE 4096
#define FRAME_SIZE 1526 /* with struct virtio_net_hdr */
#define IER_THR_EMPTY 0x02
#define MSTATUS_MIE 8

static struct queue queues[VIRTIO_SLOTS];
static uint8_t buffers[VIRTIO_SLOTS][BUFFER_SIZE];

/* The chain that begins at descriptor 0: the only one. */
static void describe(struct queue *queue, uint8_t *buffer, uint32_t id) {
    queue->table[0].address = queue->table[1].address = (uintptr_t)buffer;
    switch (id) {
    case ID_NET:
        memset(buffer + 12, 0xff, 6); /* to everybody */
        queue->table[0].size = FRAME_SIZE;
        break;
    case ID_CONSOLE:
        memset(buffer, '#', BUFFER_SIZE);
        queue->table[0].size = BUFFER_SIZE;
        break;
    case ID_ENTROPY:
        queue->table[0].size = BUFFER_SIZE;
        queue->table[0].flags = WRITABLE;
        break;
    default:
        buffer[0] = 4;
        queue->table[0].size = 16;
        queue->table[0].flags = NEXT;
        queue->table[0].next = 1;
        queue->table[1].address += 16;
        queue->table[1].size = 1;
        queue->table[1].flags = WRITABLE;
    }
}

static void set_up(size_t place, uintptr_t device, uint32_t id) {
    struct queue *queue = queues + place;
    describe(queue, buffers[place], id);
    virtio_negotiate(device, id == ID_BLOCK ? 1 << BLOCK_FLUSH : 0);
    virtio_set_up_queue(queue, device, id == ID_NET || id == ID_CONSOLE);
    virtio_start(device);
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
        set_up(count++, device, id);
        plic_enable_also(virtio_irq(device));
    }
    print("storm\n");
    if (!count) write8(UART + UART_IER, IER_THR_EMPTY);
    write_csr(mstatus, read_csr(mstatus) | MSTATUS_MIE);
    for (;;) {
        for (struct queue *queue = queues; queue < queues + count; queue++) {
            if (virtio_used(queue) == queue->available.index) virtio_put(queue, 0);
            virtio_notify(queue);
        }
    }
}
