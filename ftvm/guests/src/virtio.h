/* Virtio devices on virtio-mmio (Virtual I/O Device 1.2, sections 2.7 and 4.2): what drivers of all kinds share. */
#ifndef VIRTIO_H
#define VIRTIO_H

#include "board.h"

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
#define INTERRUPT_STATUS 0x060
#define INTERRUPT_ACK 0x064
#define STATUS 0x070
#define QUEUE_DESC 0x080
#define QUEUE_DRIVER 0x090
#define QUEUE_DEVICE 0x0a0
#define CONFIG 0x100

#define ID_NET 1
#define ID_BLOCK 2
#define ID_CONSOLE 3
#define ID_ENTROPY 4
#define STATUS_DRIVER 3 /* acknowledged, and there is a driver */
#define STATUS_FEATURES_OK 8
#define STATUS_DRIVER_OK 4
#define FEATURES_HIGH 1 /* VIRTIO_F_VERSION_1 */

#define NEXT 1
#define WRITABLE 2

#define QUEUE_SIZE 16

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
    uint32_t number;
} __attribute__((aligned(16)));

/* The first device of this kind; 0 without one. */
static inline uintptr_t virtio_find(uint32_t id) {
    for (uintptr_t slot = 0; slot < VIRTIO_SLOTS; slot++) {
        uintptr_t device = VIRTIO + VIRTIO_STRIDE * slot;
        if (read32(device + DEVICE_ID) == id) return device;
    }
    return 0;
}

/* Of a device's interrupts, at the PLIC. */
static inline uint32_t virtio_irq(uintptr_t device) {
    return VIRTIO_IRQ + (uint32_t)((device - VIRTIO) / VIRTIO_STRIDE);
}

/* Anew, with the lower half of the features that the driver wants. */
static inline void virtio_negotiate(uintptr_t device, uint32_t features_low) {
    write32(device + STATUS, 0);
    write32(device + STATUS, STATUS_DRIVER);
    write32(device + DRIVER_FEATURES_SEL, 0);
    write32(device + DRIVER_FEATURES, features_low);
    write32(device + DRIVER_FEATURES_SEL, 1);
    write32(device + DRIVER_FEATURES, FEATURES_HIGH);
    write32(device + STATUS, STATUS_DRIVER | STATUS_FEATURES_OK);
}

static inline void virtio_write_address(uintptr_t at, const void *address) {
    write32(at, (uint32_t)(uintptr_t)address);
    write32(at + 4, (uint32_t)((uintptr_t)address >> 32));
}

/* After the negotiation. */
static inline void virtio_set_up_queue(struct queue *queue, uintptr_t device, uint32_t number) {
    queue->device = device;
    queue->number = number;
    write32(device + QUEUE_SEL, number);
    write32(device + QUEUE_NUM, QUEUE_SIZE);
    virtio_write_address(device + QUEUE_DESC, queue->table);
    virtio_write_address(device + QUEUE_DRIVER, &queue->available);
    virtio_write_address(device + QUEUE_DEVICE, &queue->used);
    write32(device + QUEUE_READY, 1);
}

static inline void virtio_notify(const struct queue *queue) { write32(queue->device + QUEUE_NOTIFY, queue->number); }

/* Puts the chain that begins at descriptor `head` into the available ring; the device hears of it by a notification. */
static inline void virtio_put(struct queue *queue, uint16_t head) {
    queue->available.ring[queue->available.index % QUEUE_SIZE] = head;
    __asm__ volatile("fence" ::: "memory");
    queue->available.index++;
    __asm__ volatile("fence" ::: "memory");
}

/* How many chains the device has used, modulo 65,536. */
static inline uint16_t virtio_used(const struct queue *queue) { return *(const volatile uint16_t *)&queue->used.index; }

/* After the queues. */
static inline void virtio_start(uintptr_t device) {
    write32(device + STATUS, STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
}

#endif
