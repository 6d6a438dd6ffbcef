/* A compute guest: one round of fixed work with a known result, `rounds` times, then one line and the finisher. */
#ifndef COMPUTE_H
#define COMPUTE_H

#include "board.h"

#define COMPUTE(guest, result, count)          \
    const char compute_name[] = guest;         \
    const uint64_t compute_expected = (result); \
    volatile uint64_t rounds = (count)

#ifndef ROUNDS
#define ROUNDS_OR(count) (count)
#else
#define ROUNDS_OR(count) (ROUNDS)
#endif

extern const char compute_name[];
extern const uint64_t compute_expected;
extern volatile uint64_t rounds; /* 0: for ever. In .data so that a bench can patch the image */

uint64_t compute_round(void);

/* Marsaglia's xorshift64: the guests' only source of "random" data. */
static inline uint64_t xorshift(uint64_t *state) {
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

#endif
