/* An interpreter for a small register machine running a Collatz search: indirect jumps and byte loads. */
#include "compute.h"

enum { HALT, SET, ADD, SUB, AND, SHR, TRIPLE_INC, MAX, JUMP, JUMP_ZERO, JUMP_LESS };

/* r0 n, r1 limit, r2 x, r3 steps, r4 longest, r5 sum, r6 scratch, r7 one */
static const uint8_t program[] = {
    SET,        0, 1,       /*  0 */
    SET,        4, 0,       /*  3 */
    SET,        5, 0,       /*  6 */
    SET,        7, 1,       /*  9 */
    SET,        2, 0,       /* 12 next n: x = 0 */
    ADD,        2, 0,       /* 15 x += n */
    SET,        3, 0,       /* 18 */
    SET,        6, 0,       /* 21 step: scratch = x - 1 */
    ADD,        6, 2,       /* 24 */
    SUB,        6, 7,       /* 27 */
    JUMP_ZERO,  6, 60,      /* 30 x == 1: done */
    ADD,        3, 7,       /* 33 */
    SET,        6, 1,       /* 36 */
    AND,        6, 2,       /* 39 */
    JUMP_ZERO,  6, 51,      /* 42 even */
    TRIPLE_INC, 2, 0,       /* 45 */
    JUMP,       0, 21,      /* 48 */
    SHR,        2, 1,       /* 51 even: x >>= 1 */
    JUMP,       0, 21,      /* 54 */
    HALT,       0, 0,       /* 57 */
    ADD,        5, 3,       /* 60 done: sum += steps */
    MAX,        4, 3,       /* 63 */
    ADD,        0, 7,       /* 66 */
    JUMP_LESS,  0, 12,      /* 69 n < limit */
    HALT,       0, 0,       /* 72 */
};

COMPUTE("bytecode", 0x000000b500020b64, ROUNDS_OR(20));

#define LIMIT 2000

uint64_t compute_round(void) {
    uint64_t r[8] = {0, LIMIT};
    const uint8_t *pc = program;
    for (;;) {
        uint8_t a = pc[1], b = pc[2];
        uint8_t op = pc[0];
        pc += 3;
        switch (op) {
        case SET: r[a] = b; break;
        case ADD: r[a] += r[b]; break;
        case SUB: r[a] -= r[b]; break;
        case AND: r[a] &= r[b]; break;
        case SHR: r[a] >>= b; break;
        case TRIPLE_INC: r[a] = 3 * r[a] + 1; break;
        case MAX: r[a] = r[b] > r[a] ? r[b] : r[a]; break;
        case JUMP: pc = program + b; break;
        case JUMP_ZERO: pc = r[a] ? pc : program + b; break;
        case JUMP_LESS: pc = r[a] < r[1] ? program + b : pc; break;
        default: return r[4] << 32 ^ r[5];
        }
    }
}
