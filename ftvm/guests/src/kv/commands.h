/* The table of commands, and what the files that implement them share. */
#ifndef KV_COMMANDS_H
#define KV_COMMANDS_H

#include "kv/reply.h"
#include "kv/request.h"

struct command {
    _Alignas(8) char name[9]; /* aligned: compared as one word */
    int8_t arity; /* exact, or when negative at least */
    bool writes;
    int8_t first_key, last_key, key_step;
    void (*run)(void);
};

extern const struct command commands[];
extern const size_t command_count;
extern uint64_t commands_processed;

/* Runs the request that has been received. */
void command_run(void);

const struct command *command_find(struct bytes name);

void command_forget_session(void);

bool integer_argument(size_t index, int64_t *value); /* replies the error itself */
void reply_syntax_error(void);
void reply_out_of_memory(void);
void reply_wrong_arity(const char *name);
void reply_unknown_subcommand(const char *upper);

/* strings.c */
void run_append(void), run_decr(void), run_decrby(void), run_get(void), run_incr(void), run_incrby(void);
void run_mget(void), run_mset(void), run_set(void), run_strlen(void);

/* keys.c */
void run_dbsize(void), run_del(void), run_exists(void), run_flush(void), run_persist(void), run_pttl(void);
void run_ttl(void);

/* server.c, info.c */
void run_client(void), run_command(void), run_config(void), run_echo(void), run_hello(void), run_info(void);
void run_ping(void), run_quit(void), run_select(void), run_shutdown(void), run_time(void);

#endif
