/* Quicksort (Hoare's partition) of 64-bit integers: data-dependent branches and recursion. */
#include "compute.h"

#define COUNT 65536

static uint64_t items[COUNT];

COMPUTE("qsort", 0xbadc2e93edca30c6, ROUNDS_OR(30));

static void sort(int64_t low, int64_t high) {
    while (low < high) {
        uint64_t pivot = items[(low + high) / 2];
        int64_t i = low;
        int64_t j = high;
        while (i <= j) {
            while (items[i] < pivot) i++;
            while (items[j] > pivot) j--;
            if (i <= j) {
                uint64_t swapped = items[i];
                items[i++] = items[j];
                items[j--] = swapped;
            }
        }
        /* The smaller part by recursion, the larger by the loop: the depth stays logarithmic. */
        if (j - low < high - i) {
            sort(low, j);
            low = i;
        } else {
            sort(i, high);
            high = j;
        }
    }
}

uint64_t compute_round(void) {
    uint64_t seed = 7;
    for (int i = 0; i < COUNT; i++) items[i] = xorshift(&seed);
    sort(0, COUNT - 1);
    uint64_t checksum = 0;
    for (int i = 0; i < COUNT; i++) {
        if (i && items[i - 1] > items[i]) return 0;
        checksum = checksum * 31 + items[i];
    }
    return checksum;
}
