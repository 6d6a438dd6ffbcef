/* The keys and values.
 *
 * Memory is cut into blocks of 64 bytes and an entry is a chain of them, so any free block serves any use: there
 * is no fragmentation to die of, whether a request fits is one subtraction, and freeing an entry is one splice.
 * Keys are found by linear hashing (Litwin, VLDB 1980): the table grows and shrinks by one bucket at a time, in
 * place, so there is no rehash and no pause.
 */
#ifndef KV_STORE_H
#define KV_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that begin on a multiple of 8, with zeros up to the next one: keys are hashed and compared by words. */
struct bytes {
    const uint8_t *at;
    size_t size;
};

struct entry {
    uint32_t chain; /* next entry of the bucket */
    uint32_t hash;
    uint32_t key_size;
    uint32_t value_size;
    uint64_t expires_ms; /* in clock_ms(); 0: never */
    uint32_t next;       /* second block */
    uint32_t last;       /* last block, the entry's own when it has only one */
    uint8_t data[32];    /* the key, padded to 8, then the value; goes on in the next blocks */
};

/* A piece of a value, to be walked with value_first() and value_next(). */
struct piece {
    uint8_t *at;
    size_t size;
    size_t left; /* bytes of the value behind this piece */
    uint32_t block;
};

struct store_statistics {
    uint64_t entries, expiring, expired, used_bytes, limit_bytes;
};

void store_open(uint8_t *heap, size_t size);
void store_clear(void);
struct store_statistics store_statistics(void);

/* Within one command time stands still: nothing expires between a look and a change. */
void store_begin_command(void);

/* Milliseconds since the board's start, never 0. */
uint64_t clock_ms(void);

/* An expired entry is gone: it is removed and not found. */
struct entry *store_find(struct bytes key);
bool store_remove(struct bytes key);

/* The entry, new or old, with room for `value_size` bytes; NULL and nothing changed when memory is full.
 *
 * An old entry keeps its bytes up to the smaller of both sizes, and its expiry. */
struct entry *store_resize(struct bytes key, size_t value_size);

/* Writes the first bytes of the value; its size does not change. */
void store_write(struct entry *entry, struct bytes data);

/* Like store_resize() and a write at the old end. */
struct entry *store_append(struct bytes key, struct bytes data);

void store_set_expiry(struct entry *entry, uint64_t expires_ms);

/* Blocks more than it has now that an entry would take with such a value. */
uint64_t store_blocks_missing(struct bytes key, size_t value_size);
bool store_has_blocks(uint64_t blocks);

/* Removes what has expired in the next few buckets. */
void store_expire_some(void);

struct piece value_first(struct entry *entry);
bool value_next(struct piece *piece);

#endif
