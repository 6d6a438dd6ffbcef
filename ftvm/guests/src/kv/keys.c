/* Commands on whole keys. */
#include "kv/commands.h"

void run_dbsize(void) { reply_integer((int64_t)store_statistics().entries); }

void run_del(void) {
    int64_t removed = 0;
    for (size_t at = 1; at < argument_count; at++) removed += store_remove(argument(at));
    reply_integer(removed);
}

void run_exists(void) {
    int64_t found = 0;
    for (size_t at = 1; at < argument_count; at++) found += store_find(argument(at)) != NULL;
    reply_integer(found);
}

void run_flush(void) {
    bool known = argument_count == 1 || argument_is(1, "async") || argument_is(1, "sync");
    if (argument_count > 2 || !known) {
        reply_syntax_error();
        return;
    }
    store_clear();
    reply_ok();
}

/* -2 without the key, -1 without an expiry. */
static int64_t left_ms(struct bytes key) {
    const struct entry *entry = store_find(key);
    if (!entry) return -2;
    return entry->expires_ms ? (int64_t)(entry->expires_ms - clock_ms()) : -1;
}

void run_pttl(void) { reply_integer(left_ms(argument(1))); }

void run_ttl(void) {
    int64_t left = left_ms(argument(1));
    reply_integer(left < 0 ? left : (int64_t)(((uint64_t)left + 500) / 1000));
}

void run_persist(void) {
    struct entry *entry = store_find(argument(1));
    bool had_expiry = entry && entry->expires_ms;
    if (had_expiry) store_set_expiry(entry, 0);
    reply_integer(had_expiry);
}
