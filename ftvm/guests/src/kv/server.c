/* Commands about the connection and the server. */
#include "board.h"
#include "kv/commands.h"
#include "kv/number.h"
#include "kv/serial.h"
#include "memory.h"

#define CLIENT_NAME_MAX 128

static uint8_t client_name[CLIENT_NAME_MAX];
static size_t client_name_size;

void command_forget_session(void) { client_name_size = 0; }

void run_ping(void) {
    if (argument_count > 2) {
        reply_wrong_arity("ping");
    } else if (argument_count == 2) {
        reply_bulk(argument(1).at, argument(1).size);
    } else {
        reply_simple("PONG");
    }
}

void run_echo(void) { reply_bulk(argument(1).at, argument(1).size); }

/* It is the client that hangs up. */
void run_quit(void) { reply_ok(); }

void run_select(void) {
    int64_t index;
    if (!integer_argument(1, &index)) return;
    if (index == 0) {
        reply_ok();
    } else {
        reply_error("ERR DB index is out of range");
    }
}

void run_time(void) {
    uint64_t mtime = read64(CLINT_MTIME);
    uint8_t text[INTEGER_TEXT_MAX];
    reply_array(2);
    reply_bulk(text, format_integer(text, (int64_t)(mtime / MTIME_HZ)));
    reply_bulk(text, format_integer(text, (int64_t)(mtime % MTIME_HZ / (MTIME_HZ / 1000000))));
}

void run_shutdown(void) {
    for (size_t at = 1; at < argument_count; at++) {
        bool known = argument_is(at, "nosave") || argument_is(at, "save") || argument_is(at, "now");
        if (!known && !argument_is(at, "force")) {
            reply_syntax_error();
            return;
        }
    }
    serial_drain();
    finish_pass();
}

static bool set_name(struct bytes name) {
    for (size_t at = 0; at < name.size; at++) {
        if (name.at[at] < '!' || name.at[at] > '~') {
            reply_error("ERR Client names cannot contain spaces, newlines or special characters.");
            return false;
        }
    }
    client_name_size = name.size < CLIENT_NAME_MAX ? name.size : CLIENT_NAME_MAX;
    memcpy(client_name, name.at, client_name_size);
    return true;
}

void run_client(void) {
    if (argument_is(1, "setname")) {
        if (argument_count != 3) {
            reply_wrong_arity("client|setname");
        } else if (set_name(argument(2))) {
            reply_ok();
        }
    } else if (argument_is(1, "getname")) {
        if (argument_count != 2) {
            reply_wrong_arity("client|getname");
        } else if (client_name_size) {
            reply_bulk(client_name, client_name_size);
        } else {
            reply_null();
        }
    } else if (argument_is(1, "setinfo")) {
        if (argument_count != 4) {
            reply_wrong_arity("client|setinfo");
        } else {
            reply_ok();
        }
    } else {
        reply_unknown_subcommand("CLIENT");
    }
}

void run_hello(void) {
    size_t options = argument_count > 1 ? 2 : 1;
    if (argument_count > 1) {
        int64_t version;
        if (!parse_integer(argument(1).at, argument(1).size, &version)) {
            reply_error("ERR Protocol version is not an integer or out of range");
            return;
        }
        if (version != 2) {
            reply_error("NOPROTO unsupported protocol version");
            return;
        }
    }
    for (size_t at = options; at < argument_count; at += 2) {
        if (!argument_is(at, "setname") || at + 1 == argument_count) {
            error_begin();
            error_text("ERR Syntax error in HELLO option '");
            error_string(argument(at), argument(at).size);
            error_text("'");
            error_end();
            return;
        }
        if (!set_name(argument(at + 1))) return;
    }
    reply_array(14);
    reply_text("server"), reply_text("kv");
    reply_text("version"), reply_text("7.0.15");
    reply_text("proto"), reply_integer(2);
    reply_text("id"), reply_integer(1);
    reply_text("mode"), reply_text("standalone");
    reply_text("role"), reply_text("master");
    reply_text("modules"), reply_array(0);
}

static void reply_command(const struct command *command) {
    reply_array(6);
    reply_text(command->name);
    reply_integer(command->arity);
    reply_array(1);
    reply_simple(command->writes ? "write" : "readonly");
    reply_integer(command->first_key);
    reply_integer(command->last_key);
    reply_integer(command->key_step);
}

/* DOCS is empty: redis-cli then falls back on what it knows itself. */
void run_command(void) {
    if (argument_count == 1) {
        reply_array(command_count);
        for (size_t at = 0; at < command_count; at++) reply_command(&commands[at]);
    } else if (argument_is(1, "count")) {
        if (argument_count != 2) {
            reply_wrong_arity("command|count");
        } else {
            reply_integer((int64_t)command_count);
        }
    } else if (argument_is(1, "docs")) {
        reply_array(0);
    } else if (argument_is(1, "info")) {
        reply_array(argument_count - 2);
        for (size_t at = 2; at < argument_count; at++) {
            const struct command *command = command_find(argument(at));
            if (command) {
                reply_command(command);
            } else {
                serial_send("*-1\r\n", 5);
            }
        }
    } else {
        reply_unknown_subcommand("COMMAND");
    }
}
