/* Product of two 128 x 128 matrices of 64-bit integers: multiply, add, strided loads. */
#include "compute.h"

#define N 128

static uint64_t left[N][N], right[N][N], product[N][N];

COMPUTE("matmul", 0x0cdf475f05657102, ROUNDS_OR(26));

uint64_t compute_round(void) {
    uint64_t seed = 42;
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            left[i][j] = xorshift(&seed);
            right[i][j] = xorshift(&seed);
        }
    }
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            uint64_t sum = 0;
            for (int k = 0; k < N; k++) sum += left[i][k] * right[k][j];
            product[i][j] = sum;
        }
    }
    uint64_t checksum = 0;
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) checksum = (checksum << 7 | checksum >> 57) ^ product[i][j];
    }
    return checksum;
}
