/* String commands. Replies that say a change was made are sent after it: a BREAK never leaves half of one. */
#include "kv/commands.h"
#include "kv/number.h"
#include "memory.h"

void run_get(void) { reply_value(store_find(argument(1))); }

void run_strlen(void) {
    const struct entry *entry = store_find(argument(1));
    reply_integer(entry ? entry->value_size : 0);
}

void run_mget(void) {
    reply_array(argument_count - 1);
    for (size_t at = 1; at < argument_count; at++) reply_value(store_find(argument(at)));
}

static bool put(struct bytes key, struct bytes value, uint64_t expires_ms) {
    struct entry *entry = store_resize(key, value.size);
    if (!entry) return false;
    store_write(entry, value);
    store_set_expiry(entry, expires_ms);
    return true;
}

void run_mset(void) {
    if (argument_count % 2 == 0) {
        reply_wrong_arity("mset");
        return;
    }
    uint64_t missing = 0;
    for (size_t at = 1; at < argument_count; at += 2) {
        missing += store_blocks_missing(argument(at), argument(at + 1).size);
    }
    if (!store_has_blocks(missing)) {
        reply_out_of_memory();
        return;
    }
    for (size_t at = 1; at < argument_count; at += 2) put(argument(at), argument(at + 1), 0);
    reply_ok();
}

void run_append(void) {
    const struct entry *entry = store_find(argument(1));
    if ((entry ? entry->value_size : 0) + argument(2).size > BULK_SIZE_MAX) {
        reply_error("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
        return;
    }
    entry = store_append(argument(1), argument(2));
    if (entry) {
        reply_integer(entry->value_size);
    } else {
        reply_out_of_memory();
    }
}

static bool integer_value(struct entry *entry, int64_t *value) {
    uint8_t text[INTEGER_TEXT_MAX];
    size_t size = 0;
    if (entry->value_size > sizeof(text)) return false;
    struct piece piece = value_first(entry);
    do {
        memcpy(text + size, piece.at, piece.size);
        size += piece.size;
    } while (value_next(&piece));
    return parse_integer(text, size, value);
}

static void add(int64_t increment) {
    struct bytes key = argument(1);
    struct entry *entry = store_find(key);
    int64_t value = 0;
    if (entry && !integer_value(entry, &value)) {
        reply_error("ERR value is not an integer or out of range");
        return;
    }
    if (__builtin_add_overflow(value, increment, &value)) {
        reply_error("ERR increment or decrement would overflow");
        return;
    }
    _Alignas(8) uint8_t text[INTEGER_TEXT_MAX];
    struct bytes sum = {text, format_integer(text, value)};
    entry = store_resize(key, sum.size);
    if (!entry) {
        reply_out_of_memory();
        return;
    }
    store_write(entry, sum);
    reply_integer(value);
}

void run_incr(void) { add(1); }

void run_decr(void) { add(-1); }

void run_incrby(void) {
    int64_t increment;
    if (integer_argument(2, &increment)) add(increment);
}

void run_decrby(void) {
    int64_t decrement;
    if (!integer_argument(2, &decrement)) return;
    if (decrement == INT64_MIN) {
        reply_error("ERR decrement would overflow");
    } else {
        add(-decrement);
    }
}

struct set_options {
    bool only_new, only_old, get, keep_ttl;
    char unit; /* of the expiry: 0 none, 's' or 'm'; upper case when it is a point in time */
    size_t expiry; /* argument's index */
};

static bool set_options(struct set_options *options) {
    static const struct {
        const char *name;
        char unit;
    } units[] = {{"ex", 's'}, {"px", 'm'}, {"exat", 'S'}, {"pxat", 'M'}};
    for (size_t at = 3; at < argument_count; at++) {
        size_t unit = 0;
        while (unit < 4 && !argument_is(at, units[unit].name)) unit++;
        if (unit < 4) {
            bool other = options->unit && options->unit != units[unit].unit;
            if (options->keep_ttl || other || at + 1 == argument_count) return false;
            options->unit = units[unit].unit;
            options->expiry = ++at;
        } else if (argument_is(at, "nx") && !options->only_old) {
            options->only_new = true;
        } else if (argument_is(at, "xx") && !options->only_new) {
            options->only_old = true;
        } else if (argument_is(at, "get")) {
            options->get = true;
        } else if (argument_is(at, "keepttl") && !options->unit) {
            options->keep_ttl = true;
        } else {
            return false;
        }
    }
    return true;
}

/* Replies the error itself. */
static bool expiry_of(const struct set_options *options, uint64_t *expires_ms) {
    int64_t value;
    if (!integer_argument(options->expiry, &value)) return false;
    bool seconds = (options->unit | 0x20) == 's';
    bool relative = options->unit & 0x20;
    int64_t now = (int64_t)clock_ms();
    if (value <= 0 || (seconds && value > INT64_MAX / 1000) ||
        (relative && value * (seconds ? 1000 : 1) > INT64_MAX - now)) {
        reply_error("ERR invalid expire time in 'set' command");
        return false;
    }
    *expires_ms = (uint64_t)(value * (seconds ? 1000 : 1) + (relative ? now : 0));
    return true;
}

void run_set(void) {
    struct bytes key = argument(1);
    struct bytes value = argument(2);
    struct set_options options = {0};
    uint64_t expires_ms = 0;
    if (argument_count > 3) {
        if (!set_options(&options)) {
            reply_syntax_error();
            return;
        }
        if (options.unit && !expiry_of(&options, &expires_ms)) return;
        struct entry *old = store_find(key);
        bool refused = (options.only_new && old) || (options.only_old && !old);
        if (!refused && !store_has_blocks(store_blocks_missing(key, value.size))) {
            reply_out_of_memory();
            return;
        }
        if (options.get) reply_value(old);
        if (refused) {
            if (!options.get) reply_null();
            return;
        }
        if (old && options.keep_ttl) expires_ms = old->expires_ms;
    }
    if (!put(key, value, expires_ms)) {
        reply_out_of_memory();
    } else if (!options.get) {
        reply_ok();
    }
}
