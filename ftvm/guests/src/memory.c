/* What the compiler may call even in freestanding code. Word-wise where both sides are aligned. */
#include "memory.h"

#define WORD sizeof(uint64_t)

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    uint8_t *d = to;
    const uint8_t *s = from;
    if ((((uintptr_t)d | (uintptr_t)s) & (WORD - 1)) == 0) {
        for (; size >= WORD; size -= WORD, d += WORD, s += WORD) *(uint64_t *)d = *(const uint64_t *)s;
    }
    while (size--) *d++ = *s++;
    return to;
}

void *memmove(void *to, const void *from, size_t size) {
    uint8_t *d = to;
    const uint8_t *s = from;
    if ((uintptr_t)d - (uintptr_t)s >= size) return memcpy(to, from, size);
    while (size--) d[size] = s[size];
    return to;
}

void *memset(void *to, int byte, size_t size) {
    uint8_t *d = to;
    for (; size && ((uintptr_t)d & (WORD - 1)); size--) *d++ = (uint8_t)byte;
    uint64_t word = (uint8_t)byte * 0x0101010101010101UL;
    for (; size >= WORD; size -= WORD, d += WORD) *(uint64_t *)d = word;
    while (size--) *d++ = (uint8_t)byte;
    return to;
}

int memcmp(const void *left, const void *right, size_t size) {
    const uint8_t *l = left;
    const uint8_t *r = right;
    for (; size; size--, l++, r++) {
        if (*l != *r) return *l - *r;
    }
    return 0;
}
