/* INFO and CONFIG. */
#include "board.h"
#include "kv/commands.h"
#include "kv/number.h"

#define TEXT_SIZE_MAX 2048

static uint8_t text[TEXT_SIZE_MAX];
static size_t text_size;

static void add(const char *string) {
    while (*string && text_size < TEXT_SIZE_MAX) text[text_size++] = (uint8_t)*string++;
}

static void add_number(const char *name, uint64_t value) {
    uint8_t digits[INTEGER_TEXT_MAX + 1];
    digits[format_integer(digits, (int64_t)value)] = 0;
    add(name);
    add(":");
    add((const char *)digits);
    add("\r\n");
}

/* redis_version is the release whose replies kv follows; clients look at it. */
static void add_server(void) {
    add("redis_version:7.0.15\r\nredis_mode:standalone\r\nos:none riscv64\r\narch_bits:64\r\nserver_name:kv\r\n");
    add("time_epoch:0 (TIME and expiry count from the board's start)\r\n");
    add_number("uptime_in_seconds", read64(CLINT_MTIME) / MTIME_HZ);
}

static void add_clients(void) { add("connected_clients:1\r\nmaxclients:1\r\n"); }

static void add_memory(void) {
    struct store_statistics statistics = store_statistics();
    add_number("used_memory", statistics.used_bytes);
    add_number("maxmemory", statistics.limit_bytes);
    add("maxmemory_policy:noeviction\r\n");
}

static void add_persistence(void) { add("loading:0\r\n"); }

static void add_stats(void) {
    add_number("total_commands_processed", commands_processed);
    add_number("expired_keys", store_statistics().expired);
    add_number("instructions_retired", read_csr(minstret));
}

static void add_replication(void) { add("role:master\r\nconnected_slaves:0\r\n"); }

static void add_keyspace(void) {
    struct store_statistics statistics = store_statistics();
    if (!statistics.entries) return;
    uint8_t digits[INTEGER_TEXT_MAX + 1];
    add("db0:keys=");
    digits[format_integer(digits, (int64_t)statistics.entries)] = 0;
    add((const char *)digits);
    add(",expires=");
    digits[format_integer(digits, (int64_t)statistics.expiring)] = 0;
    add((const char *)digits);
    add(",avg_ttl=0\r\n");
}

static const struct {
    const char *lower, *title;
    void (*add)(void);
} sections[] = {
    {"server", "# Server\r\n", add_server},
    {"clients", "# Clients\r\n", add_clients},
    {"memory", "# Memory\r\n", add_memory},
    {"persistence", "# Persistence\r\n", add_persistence},
    {"stats", "# Stats\r\n", add_stats},
    {"replication", "# Replication\r\n", add_replication},
    {"keyspace", "# Keyspace\r\n", add_keyspace},
};

static bool section_wanted(const char *lower) {
    for (size_t at = 1; at < argument_count; at++) {
        if (argument_is(at, lower) || argument_is(at, "all") || argument_is(at, "default")) return true;
        if (argument_is(at, "everything")) return true;
    }
    return argument_count == 1;
}

void run_info(void) {
    text_size = 0;
    for (size_t at = 0; at < sizeof(sections) / sizeof(sections[0]); at++) {
        if (!section_wanted(sections[at].lower)) continue;
        if (text_size) add("\r\n");
        add(sections[at].title);
        sections[at].add();
    }
    reply_bulk(text, text_size);
}

/* What clients ask for at their start. A name or "*", no other patterns. */
static void config_get(void) {
    uint8_t digits[INTEGER_TEXT_MAX + 1];
    digits[format_integer(digits, (int64_t)store_statistics().limit_bytes)] = 0;
    const char *const parameters[][2] = {
        {"appendonly", "no"},
        {"databases", "1"},
        {"maxmemory", (const char *)digits},
        {"maxmemory-policy", "noeviction"},
        {"proto-max-bulk-len", "524288"},
        {"save", ""},
    };
    const size_t count = sizeof(parameters) / sizeof(parameters[0]);
    bool wanted[sizeof(parameters) / sizeof(parameters[0])] = {false};
    size_t found = 0;
    for (size_t parameter = 0; parameter < count; parameter++) {
        for (size_t at = 2; at < argument_count && !wanted[parameter]; at++) {
            wanted[parameter] = argument_is(at, parameters[parameter][0]) || argument_is(at, "*");
        }
        found += wanted[parameter];
    }
    reply_array(2 * found);
    for (size_t parameter = 0; parameter < count; parameter++) {
        if (!wanted[parameter]) continue;
        reply_text(parameters[parameter][0]);
        reply_text(parameters[parameter][1]);
    }
}

void run_config(void) {
    if (!argument_is(1, "get")) {
        reply_unknown_subcommand("CONFIG");
    } else if (argument_count < 3) {
        reply_wrong_arity("config|get");
    } else {
        config_get();
    }
}
