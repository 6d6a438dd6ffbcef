/* A host of a network, with nothing but its card: whoever asks for an IPv4 address that ends in .15 hears that it is
 * here; datagrams to port 7 go back (RFC 862), and so does what is said on TCP connections to port 7.
 *
 * TCP needs no memory of what was said: our sequence numbers are the peer's own, so the answer to a segment follows from
 * the segment, and one that comes twice is answered twice in the same way. The peer has to wait for its echo before it
 * says more. Which connections there are is remembered: a guest that forgot would reset them.
 *
 * (Virtual I/O Device 1.2, section 5.1; RFC 826, 791, 768, 9293.) */
#include <stdbool.h>

#include "board.h"

#include "memory.h"
#include "plic.h"
#include "virtio.h"

#define FEATURE_MAC (1 << 5) /* VIRTIO_NET_F_MAC: the configuration space begins with the card's address */
#define RECEIVE 0
#define SEND 1
#define BUFFER_SIZE 2048
#define HEADER_SIZE 12 /* struct virtio_net_hdr */

#define ETHERNET_SIZE 14
#define IP_SIZE 20
#define TCP_SIZE 20
#define UDP_SIZE 8
#define FRAME_SIZE_MIN 60
#define OWN_LAST_BYTE 15
#define ECHO_PORT 7
#define IP_TCP 6
#define IP_UDP 17
#define FIN 1
#define SYN 2
#define RST 4
#define ACK 16
#define CONNECTIONS_MAX 64

static struct queue queues[2];
static uint8_t buffers[2][QUEUE_SIZE][BUFFER_SIZE];
static uint16_t seen; /* of the received frames */
static uint8_t mac[6];
static uint64_t connections[CONNECTIONS_MAX]; /* the peer's address and port; 0: none */

static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }
static uint32_t get32(const uint8_t *at) { return (uint32_t)get16(at) << 16 | get16(at + 2); }
static void put16(uint8_t *at, uint32_t value) { at[0] = (uint8_t)(value >> 8), at[1] = (uint8_t)value; }
static void put32(uint8_t *at, uint32_t value) { put16(at, value >> 16), put16(at + 2, value); }

static void offer(struct queue *queue, uint16_t descriptor) {
    virtio_put(queue, descriptor);
    virtio_notify(queue);
}

static bool set_up(void) {
    uintptr_t device = virtio_find(ID_NET);
    if (!device) return false;
    virtio_negotiate(device, FEATURE_MAC);
    for (uint32_t number = 0; number < 2; number++) virtio_set_up_queue(queues + number, device, number);
    virtio_start(device);
    for (uint32_t at = 0; at < sizeof mac; at++) mac[at] = read8(device + CONFIG + at);
    for (uint16_t number = 0; number < QUEUE_SIZE; number++) {
        struct queue *queue = queues + RECEIVE;
        queue->table[number].address = (uintptr_t)buffers[RECEIVE][number];
        queue->table[number].size = BUFFER_SIZE;
        queue->table[number].flags = WRITABLE;
        offer(queue, number);
    }
    write32(PLIC_PRIORITY(virtio_irq(device)), 1);
    write32(PLIC_ENABLE, 1u << virtio_irq(device));
    write32(PLIC_THRESHOLD, 0);
    write_csr(mie, MIE_EXTERNAL);
    return true;
}

/* The device takes what it is given at once. */
static void send(const uint8_t *frame, size_t size) {
    struct queue *queue = queues + SEND;
    uint16_t number = queue->available.index % QUEUE_SIZE;
    memset(buffers[SEND][number], 0, HEADER_SIZE + FRAME_SIZE_MIN);
    memcpy(buffers[SEND][number] + HEADER_SIZE, frame, size);
    queue->table[number].address = (uintptr_t)buffers[SEND][number];
    queue->table[number].size = HEADER_SIZE + (uint32_t)(size < FRAME_SIZE_MIN ? FRAME_SIZE_MIN : size);
    offer(queue, number);
}

static uint32_t sum(const uint8_t *data, size_t size, uint32_t total) {
    for (size_t at = 0; at + 1 < size; at += 2) total += get16(data + at);
    return size & 1 ? total + (uint32_t)(data[size - 1] << 8) : total;
}

static uint16_t checksum(uint32_t total) {
    while (total >> 16) total = (total & 0xffff) + (total >> 16);
    return (uint16_t)~total;
}

static void swap(uint8_t *left, uint8_t *right, size_t size) {
    for (size_t at = 0; at < size; at++) {
        uint8_t byte = left[at];
        left[at] = right[at], right[at] = byte;
    }
}

static void answer(uint8_t *frame, size_t size) {
    memcpy(frame, frame + 6, 6);
    memcpy(frame + 6, mac, 6);
    send(frame, size);
}

static void resolve(uint8_t *frame, size_t size) {
    uint8_t *arp = frame + ETHERNET_SIZE;
    if (size < ETHERNET_SIZE + 28 || get16(arp + 6) != 1 || arp[27] != OWN_LAST_BYTE) return;
    uint8_t wanted[4];
    memcpy(wanted, arp + 24, 4);
    put16(arp + 6, 2);
    memcpy(arp + 18, arp + 8, 10);
    memcpy(arp + 8, mac, 6);
    memcpy(arp + 14, wanted, 4);
    answer(frame, ETHERNET_SIZE + 28);
}

static void answer_ip(uint8_t *frame, size_t payload_size, size_t check_at) {
    uint8_t *ip = frame + ETHERNET_SIZE, *payload = ip + IP_SIZE;
    swap(ip + 12, ip + 16, 4);
    swap(payload, payload + 2, 2);
    put16(ip + 2, (uint32_t)(IP_SIZE + payload_size));
    put16(ip + 10, 0);
    put16(ip + 10, checksum(sum(ip, IP_SIZE, 0)));
    put16(payload + check_at, 0);
    uint32_t pseudo = sum(ip + 12, 8, ip[9] + (uint32_t)payload_size);
    put16(payload + check_at, checksum(sum(payload, payload_size, pseudo)));
    answer(frame, ETHERNET_SIZE + IP_SIZE + payload_size);
}

/* Whether this connection is known; with `begin` it is from here on, in the place of the one longest known. */
static bool know(uint64_t peer, bool begin) {
    static size_t next;
    for (size_t at = 0; at < CONNECTIONS_MAX; at++) {
        if (connections[at] == peer) return true;
    }
    if (begin) connections[next++ % CONNECTIONS_MAX] = peer;
    return begin;
}

static void converse(uint8_t *ip, uint8_t *tcp, size_t size) {
    size_t offset = (size_t)(tcp[12] >> 4) * 4;
    if (size < TCP_SIZE || offset < TCP_SIZE || offset > size) return;
    uint8_t flags = tcp[13];
    uint32_t sequence = get32(tcp + 4), length = (uint32_t)(size - offset);
    uint64_t peer = (uint64_t)get32(ip + 12) << 16 | get16(tcp);
    if (flags & RST) return;
    uint32_t acknowledged = sequence + length + (flags & SYN ? 1 : 0) + (flags & FIN ? 1 : 0);
    if (!know(peer, flags & SYN)) {
        put32(tcp + 4, get32(tcp + 8));
        length = 0;
        flags = RST;
    } else if (acknowledged == sequence) {
        return; /* it only acknowledges */
    } else {
        put32(tcp + 8, acknowledged);
        flags = (uint8_t)((flags & (SYN | FIN)) | ACK);
    }
    memmove(tcp + TCP_SIZE, tcp + offset, length);
    tcp[12] = TCP_SIZE / 4 << 4;
    tcp[13] = flags;
    put16(tcp + 14, 0xffff);
    put16(tcp + 18, 0);
    answer_ip(ip - ETHERNET_SIZE, TCP_SIZE + length, 16);
}

static void take(uint8_t *frame, size_t size) {
    uint8_t *ip = frame + ETHERNET_SIZE, *payload = ip + IP_SIZE;
    if (size < ETHERNET_SIZE + IP_SIZE) return;
    if (get16(frame + 12) == 0x0806) resolve(frame, size);
    size_t total = get16(ip + 2);
    if (get16(frame + 12) != 0x0800 || ip[0] != 0x45 || ip[19] != OWN_LAST_BYTE) return;
    if (total < IP_SIZE + UDP_SIZE || total > size - ETHERNET_SIZE || get16(payload + 2) != ECHO_PORT) return;
    if (ip[9] == IP_UDP) answer_ip(frame, total - IP_SIZE, 6);
    if (ip[9] == IP_TCP) converse(ip, payload, total - IP_SIZE);
}

static bool take_next(void) {
    struct queue *queue = queues + RECEIVE;
    if (virtio_used(queue) == seen) return false;
    uint32_t id = queue->used.ring[seen % QUEUE_SIZE].id, size = queue->used.ring[seen % QUEUE_SIZE].size;
    seen++;
    if (size > HEADER_SIZE) take(buffers[RECEIVE][id] + HEADER_SIZE, size - HEADER_SIZE);
    offer(queue, (uint16_t)id);
    return true;
}

int main(void) {
    if (!set_up()) finish_fail(1);
    print("ready\n");
    for (;;) {
        if (take_next()) continue;
        write32(queues->device + INTERRUPT_ACK, read32(queues->device + INTERRUPT_STATUS));
        plic_acknowledge();
        if (virtio_used(queues + RECEIVE) == seen) wait_for_interrupt();
    }
}
