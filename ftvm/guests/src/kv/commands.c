#include "kv/commands.h"

#include "kv/number.h"

/* The frequent ones first: the table is searched from its front. */
const struct command commands[] = {
    {"get", 2, false, 1, 1, 1, run_get},
    {"set", -3, true, 1, 1, 1, run_set},
    {"incr", 2, true, 1, 1, 1, run_incr},
    {"ping", -1, false, 0, 0, 0, run_ping},
    {"append", 3, true, 1, 1, 1, run_append},
    {"client", -2, false, 0, 0, 0, run_client},
    {"command", -1, false, 0, 0, 0, run_command},
    {"config", -2, false, 0, 0, 0, run_config},
    {"dbsize", 1, false, 0, 0, 0, run_dbsize},
    {"decr", 2, true, 1, 1, 1, run_decr},
    {"decrby", 3, true, 1, 1, 1, run_decrby},
    {"del", -2, true, 1, -1, 1, run_del},
    {"echo", 2, false, 0, 0, 0, run_echo},
    {"exists", -2, false, 1, -1, 1, run_exists},
    {"flushall", -1, true, 0, 0, 0, run_flush},
    {"flushdb", -1, true, 0, 0, 0, run_flush},
    {"hello", -1, false, 0, 0, 0, run_hello},
    {"incrby", 3, true, 1, 1, 1, run_incrby},
    {"info", -1, false, 0, 0, 0, run_info},
    {"mget", -2, false, 1, -1, 1, run_mget},
    {"mset", -3, true, 1, -1, 2, run_mset},
    {"persist", 2, true, 1, 1, 1, run_persist},
    {"pttl", 2, false, 1, 1, 1, run_pttl},
    {"quit", -1, false, 0, 0, 0, run_quit},
    {"select", 2, false, 0, 0, 0, run_select},
    {"shutdown", -1, false, 0, 0, 0, run_shutdown},
    {"strlen", 2, false, 1, 1, 1, run_strlen},
    {"time", 1, false, 0, 0, 0, run_time},
    {"ttl", 2, false, 1, 1, 1, run_ttl},
};

const size_t command_count = sizeof(commands) / sizeof(commands[0]);
uint64_t commands_processed;

const struct command *command_find(struct bytes name) {
    if (name.size == 0 || name.size > 8) return NULL;
    /* Letters differ from their lower case in this bit only, and names are nothing but letters. */
    uint64_t lower = *(const uint64_t *)name.at | 0x2020202020202020UL >> (64 - 8 * name.size);
    for (size_t at = 0; at < command_count; at++) {
        uint64_t have;
        __builtin_memcpy(&have, commands[at].name, sizeof(have));
        if (have == lower) return &commands[at];
    }
    return NULL;
}

bool integer_argument(size_t index, int64_t *value) {
    struct bytes text = argument(index);
    if (parse_integer(text.at, text.size, value)) return true;
    reply_error("ERR value is not an integer or out of range");
    return false;
}

void reply_syntax_error(void) { reply_error("ERR syntax error"); }

void reply_out_of_memory(void) { reply_error("OOM command not allowed when used memory > 'maxmemory'."); }

void reply_wrong_arity(const char *name) {
    error_begin();
    error_text("ERR wrong number of arguments for '");
    error_text(name);
    error_text("' command");
    error_end();
}

void reply_unknown_subcommand(const char *upper) {
    error_begin();
    error_text("ERR unknown subcommand '");
    error_string(argument(1), 128);
    error_text("'. Try ");
    error_text(upper);
    error_text(" HELP.");
    error_end();
}

static void reply_unknown_command(void) {
    error_begin();
    error_text("ERR unknown command '");
    error_string(argument(0), 128);
    error_text("', with args beginning with: ");
    size_t shown = 0;
    for (size_t at = 1; at < argument_count && shown < 128; at++) {
        error_text("'");
        shown += error_string(argument(at), 128 - shown) + 3;
        error_text("' ");
    }
    error_end();
}

void command_run(void) {
    commands_processed++;
    store_begin_command();
    const struct command *command = command_find(argument(0));
    int64_t given = (int64_t)argument_count;
    if (!command) {
        reply_unknown_command();
    } else if (command->arity >= 0 ? given != command->arity : given < -command->arity) {
        reply_wrong_arity(command->name);
    } else {
        command->run();
    }
    store_expire_some();
}
