/* Blocks and linear hashing: see store.h. */
#include "kv/store.h"

#include "board.h"
#include "memory.h"

#define BLOCK_SIZE 64
#define BLOCKS_PER_BUCKET 2 /* when the heap is full of the smallest entries */
#define BUCKETS_MIN 64
#define EXPIRE_STEP 1         /* buckets looked at after each command */
#define EXPIRE_STEP_FULL 1024 /* and when memory is full */

struct block {
    uint32_t next;
    uint32_t unused;
    uint8_t data[56];
};

_Static_assert(sizeof(struct entry) == BLOCK_SIZE, "an entry's head is a block");
_Static_assert(sizeof(struct block) == BLOCK_SIZE, "blocks tile the heap");

#define HEAD_DATA sizeof(((struct entry *)0)->data)
#define BLOCK_DATA sizeof(((struct block *)0)->data)

static uint32_t *buckets;      /* entries by block number; 0: none */
static struct block *blocks;   /* number 0 is never used */
static uint64_t blocks_total;
static uint64_t blocks_fresh;  /* numbers from here on were never used */
static uint64_t blocks_free;   /* in the free list or fresh */
static uint32_t free_list;
static uint64_t bucket_count, bucket_max, bucket_mask;
static uint64_t entry_count, expiring_count, expired_count;
static uint64_t expire_cursor;
static uint64_t now_ms; /* 0: not asked for by this command */

static struct entry *entry_at(uint32_t number) { return (struct entry *)&blocks[number]; }
static uint32_t number_of(const struct entry *entry) { return (uint32_t)((const struct block *)entry - blocks); }
static size_t padded(size_t size) { return (size + 7) & ~(size_t)7; }

static uint64_t blocks_for(size_t key_size, size_t value_size) {
    size_t size = padded(key_size) + value_size;
    return size <= HEAD_DATA ? 1 : 1 + (size - HEAD_DATA + BLOCK_DATA - 1) / BLOCK_DATA;
}

void store_open(uint8_t *heap, size_t size) {
    uint64_t count = size / (BLOCK_SIZE + sizeof(uint32_t) / BLOCKS_PER_BUCKET);
    bucket_max = count / BLOCKS_PER_BUCKET;
    buckets = (uint32_t *)heap;
    size_t directory = (bucket_max * sizeof(uint32_t) + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
    blocks = (struct block *)(heap + directory);
    blocks_total = (size - directory) / BLOCK_SIZE - 1;
    store_clear();
}

void store_clear(void) {
    bucket_count = BUCKETS_MIN;
    bucket_mask = BUCKETS_MIN - 1;
    memset(buckets, 0, BUCKETS_MIN * sizeof(uint32_t));
    blocks_fresh = 1;
    blocks_free = blocks_total;
    free_list = 0;
    entry_count = expiring_count = expire_cursor = 0;
}

struct store_statistics store_statistics(void) {
    return (struct store_statistics){
        .entries = entry_count,
        .expiring = expiring_count,
        .expired = expired_count,
        .used_bytes = (blocks_total - blocks_free) * BLOCK_SIZE + bucket_count * sizeof(uint32_t),
        .limit_bytes = blocks_total * BLOCK_SIZE + bucket_max * sizeof(uint32_t),
    };
}

void store_begin_command(void) { now_ms = 0; }

uint64_t clock_ms(void) {
    if (!now_ms) now_ms = read64(CLINT_MTIME) / (MTIME_HZ / 1000) + 1;
    return now_ms;
}

static uint32_t hash_of(struct bytes key) {
    uint64_t hash = key.size;
    for (size_t at = 0; at < key.size; at += 8) {
        hash = (hash ^ *(const uint64_t *)(key.at + at)) * 0x9e3779b97f4a7c15UL;
        hash ^= hash >> 32;
    }
    return (uint32_t)(hash ^ hash >> 15);
}

static uint32_t *bucket_of(uint32_t hash) {
    uint64_t at = hash & bucket_mask;
    return &buckets[at < bucket_count ? at : at & bucket_mask >> 1];
}

static bool has_key(const struct entry *entry, struct bytes key) {
    const uint8_t *have = entry->data;
    size_t room = HEAD_DATA;
    uint32_t number = entry->next;
    for (size_t at = 0; at < key.size; at += 8, have += 8, room -= 8) {
        if (room == 0) {
            have = blocks[number].data;
            number = blocks[number].next;
            room = BLOCK_DATA;
        }
        if (*(const uint64_t *)have != *(const uint64_t *)(key.at + at)) return false;
    }
    return true;
}

/* The link that points at the key's entry, or the zero at the end of its bucket. */
static uint32_t *link_of(struct bytes key, uint32_t hash) {
    uint32_t *link = bucket_of(hash);
    for (; *link; link = &entry_at(*link)->chain) {
        const struct entry *entry = entry_at(*link);
        if (entry->hash == hash && entry->key_size == key.size && has_key(entry, key)) break;
    }
    return link;
}

static void split_bucket(void) {
    if (bucket_count > bucket_mask) bucket_mask = bucket_mask << 1 | 1;
    uint32_t *low = &buckets[bucket_count & bucket_mask >> 1];
    uint32_t *high = &buckets[bucket_count++];
    for (uint32_t number = *low; number; number = entry_at(number)->chain) {
        uint32_t **side = (entry_at(number)->hash & bucket_mask) == bucket_count - 1 ? &high : &low;
        **side = number;
        *side = &entry_at(number)->chain;
    }
    *low = *high = 0;
}

static void merge_bucket(void) {
    uint32_t moved = buckets[--bucket_count];
    uint32_t *link = &buckets[bucket_count & bucket_mask >> 1];
    while (*link) link = &entry_at(*link)->chain;
    *link = moved;
    if (bucket_count == (bucket_mask >> 1) + 1) bucket_mask >>= 1;
}

static uint32_t take_block(void) {
    blocks_free--;
    if (!free_list) return (uint32_t)blocks_fresh++;
    uint32_t number = free_list;
    free_list = blocks[number].next;
    return number;
}

static void remove_linked(uint32_t *link) {
    uint32_t number = *link;
    struct entry *entry = entry_at(number);
    *link = entry->chain;
    blocks_free += blocks_for(entry->key_size, entry->value_size);
    expiring_count -= entry->expires_ms != 0;
    uint32_t second = entry->next;
    uint32_t last = entry->last;
    /* The head is also a free block now; its link lies where a block's link lies. */
    if (last != number) {
        blocks[last].next = free_list;
        free_list = second;
    }
    blocks[number].next = free_list;
    free_list = number;
    if (--entry_count < bucket_count / 4 && bucket_count > BUCKETS_MIN) merge_bucket();
}

static bool has_expired(const struct entry *entry) { return entry->expires_ms && entry->expires_ms <= clock_ms(); }

struct entry *store_find(struct bytes key) {
    uint32_t *link = link_of(key, hash_of(key));
    if (!*link) return NULL;
    if (!has_expired(entry_at(*link))) return entry_at(*link);
    expired_count++;
    remove_linked(link);
    return NULL;
}

bool store_remove(struct bytes key) {
    if (!store_find(key)) return false;
    remove_linked(link_of(key, hash_of(key)));
    return true;
}

static void expire_buckets(unsigned count) {
    if (!expiring_count) return;
    uint64_t now = clock_ms();
    for (; count; count--) {
        if (++expire_cursor >= bucket_count) expire_cursor = 0;
        uint32_t *link = &buckets[expire_cursor];
        while (*link) {
            uint64_t expires_ms = entry_at(*link)->expires_ms;
            if (expires_ms && expires_ms <= now) {
                expired_count++;
                uint64_t before = bucket_count;
                remove_linked(link);
                if (bucket_count != before) break; /* a merge moved chains: `link` may be another bucket's */
            } else {
                link = &entry_at(*link)->chain;
            }
        }
    }
}

void store_expire_some(void) { expire_buckets(EXPIRE_STEP); }

bool store_has_blocks(uint64_t wanted) {
    if (wanted > blocks_free) expire_buckets(EXPIRE_STEP_FULL);
    return wanted <= blocks_free;
}

uint64_t store_blocks_missing(struct bytes key, size_t value_size) {
    const struct entry *entry = store_find(key);
    uint64_t need = blocks_for(key.size, value_size);
    uint64_t have = entry ? blocks_for(entry->key_size, entry->value_size) : 0;
    return need > have ? need - have : 0;
}

static struct piece walk(struct entry *entry, size_t offset, size_t left) {
    struct piece piece = {.at = entry->data, .size = HEAD_DATA, .block = entry->next};
    while (offset >= piece.size) {
        offset -= piece.size;
        if (offset == 0 && left == 0) break;
        piece.at = blocks[piece.block].data;
        piece.block = blocks[piece.block].next;
        piece.size = BLOCK_DATA;
    }
    piece.at += offset;
    piece.size -= offset;
    if (piece.size > left) piece.size = left;
    piece.left = left - piece.size;
    return piece;
}

struct piece value_first(struct entry *entry) { return walk(entry, padded(entry->key_size), entry->value_size); }

bool value_next(struct piece *piece) {
    if (piece->left == 0) return false;
    struct block *block = &blocks[piece->block];
    piece->at = block->data;
    piece->size = piece->left < BLOCK_DATA ? piece->left : BLOCK_DATA;
    piece->left -= piece->size;
    piece->block = block->next;
    return true;
}

static void write_pieces(struct piece piece, struct bytes data) {
    const uint8_t *from = data.at;
    do {
        memcpy(piece.at, from, piece.size);
        from += piece.size;
    } while (value_next(&piece));
}

void store_write(struct entry *entry, struct bytes data) {
    write_pieces(walk(entry, padded(entry->key_size), data.size), data);
}

/* Links `count` more blocks behind the last one. */
static void extend(struct entry *entry, uint64_t count) {
    uint32_t *link = entry->last == number_of(entry) ? &entry->next : &blocks[entry->last].next;
    for (; count; count--) {
        entry->last = *link = take_block();
        link = &blocks[entry->last].next;
    }
}

/* Gives back all blocks behind the first `keep`. */
static void shorten(struct entry *entry, uint64_t keep, uint64_t have) {
    uint32_t last = number_of(entry);
    uint32_t *link = &entry->next;
    for (uint64_t at = 1; at < keep; at++) {
        last = *link;
        link = &blocks[last].next;
    }
    blocks[entry->last].next = free_list;
    free_list = *link;
    blocks_free += have - keep;
    entry->last = last;
}

static struct entry *insert(struct bytes key, uint32_t hash) {
    if (entry_count >= bucket_count && bucket_count < bucket_max) split_bucket();
    uint32_t *bucket = bucket_of(hash);
    uint32_t number = take_block();
    struct entry *entry = entry_at(number);
    *entry = (struct entry){.chain = *bucket, .hash = hash, .key_size = (uint32_t)key.size, .last = number};
    *bucket = number;
    entry_count++;
    extend(entry, blocks_for(key.size, 0) - 1);
    write_pieces(walk(entry, 0, padded(key.size)), (struct bytes){key.at, padded(key.size)});
    return entry;
}

struct entry *store_resize(struct bytes key, size_t value_size) {
    if (!store_has_blocks(store_blocks_missing(key, value_size))) return NULL;
    struct entry *entry = store_find(key);
    if (!entry) entry = insert(key, hash_of(key));
    uint64_t have = blocks_for(key.size, entry->value_size);
    uint64_t need = blocks_for(key.size, value_size);
    if (need > have) extend(entry, need - have);
    if (need < have) shorten(entry, need, have);
    entry->value_size = (uint32_t)value_size;
    return entry;
}

/* What is written starts in the block that was last before: appending does not walk the whole value. */
struct entry *store_append(struct bytes key, struct bytes data) {
    const struct entry *old = store_find(key);
    uint32_t last = old ? old->last : 0;
    size_t before = old ? old->value_size : 0;
    struct entry *entry = store_resize(key, before + data.size);
    if (!entry) return NULL;
    if (!old) {
        store_write(entry, data);
        return entry;
    }
    size_t total = padded(key.size) + before;
    bool in_head = last == number_of(entry);
    size_t used = in_head ? total : (total - HEAD_DATA - 1) % BLOCK_DATA + 1;
    size_t room = (in_head ? HEAD_DATA : BLOCK_DATA) - used;
    struct piece piece = {
        .at = (in_head ? entry->data : blocks[last].data) + used,
        .size = data.size < room ? data.size : room,
        .block = in_head ? entry->next : blocks[last].next,
    };
    piece.left = data.size - piece.size;
    write_pieces(piece, data);
    return entry;
}

void store_set_expiry(struct entry *entry, uint64_t expires_ms) {
    expiring_count += (expires_ms != 0) - (entry->expires_ms != 0);
    entry->expires_ms = expires_ms;
}
