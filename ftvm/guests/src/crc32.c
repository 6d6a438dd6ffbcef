/* CRC-32 (IEEE 802.3) with a 256-entry table over pseudo-random bytes: a chain of dependent loads. */
#include "compute.h"

#define SIZE (256 * 1024)

static uint32_t table[256];
static uint8_t data[SIZE];

COMPUTE("crc32", 0xda7c8b54, ROUNDS_OR(150));

static void fill(void) {
    uint64_t seed = 1;
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t c = n;
        for (int bit = 0; bit < 8; bit++) c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
        table[n] = c;
    }
    for (uint64_t i = 0; i < SIZE; i++) data[i] = (uint8_t)xorshift(&seed);
}

uint64_t compute_round(void) {
    if (!table[1]) fill();
    uint32_t crc = 0xffffffffu;
    for (uint64_t i = 0; i < SIZE; i++) crc = table[(crc ^ data[i]) & 255] ^ crc >> 8;
    return crc ^ 0xffffffffu;
}
