/* Sieve of Eratosthenes over a byte array: strided stores. */
#include "compute.h"

#define LIMIT 1000000

static uint8_t composite[LIMIT];

COMPUTE("sieve", 0x0132a208be2da9e7, ROUNDS_OR(20));

uint64_t compute_round(void) {
    uint64_t count = 0;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < LIMIT; i++) composite[i] = 0;
    for (uint64_t i = 2; i < LIMIT; i++) {
        if (composite[i]) continue;
        count++;
        sum += i;
        for (uint64_t j = i * i; j < LIMIT; j += i) composite[j] = 1;
    }
    return count << 40 ^ sum;
}
