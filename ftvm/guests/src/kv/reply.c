#include "kv/reply.h"

#include "kv/number.h"
#include "kv/serial.h"

static size_t length(const char *text) {
    size_t size = 0;
    while (text[size]) size++;
    return size;
}

static void send_header(char type, int64_t value) {
    uint8_t line[1 + INTEGER_TEXT_MAX + 2];
    line[0] = (uint8_t)type;
    size_t size = 1 + format_integer(line + 1, value);
    line[size++] = '\r';
    line[size++] = '\n';
    serial_send(line, size);
}

void reply_ok(void) { serial_send("+OK\r\n", 5); }

void reply_simple(const char *text) {
    serial_send("+", 1);
    serial_send(text, length(text));
    serial_send("\r\n", 2);
}

void reply_integer(int64_t value) { send_header(':', value); }

void reply_bulk(const void *at, size_t size) {
    send_header('$', (int64_t)size);
    serial_send(at, size);
    serial_send("\r\n", 2);
}

void reply_text(const char *text) { reply_bulk(text, length(text)); }

void reply_value(struct entry *entry) {
    if (!entry) {
        reply_null();
        return;
    }
    send_header('$', entry->value_size);
    struct piece piece = value_first(entry);
    do serial_send(piece.at, piece.size);
    while (value_next(&piece));
    serial_send("\r\n", 2);
}

void reply_null(void) { serial_send("$-1\r\n", 5); }

void reply_array(size_t count) { send_header('*', (int64_t)count); }

void error_begin(void) { serial_send("-", 1); }

void error_text(const char *text) { serial_send(text, length(text)); }

void error_bytes(const uint8_t *at, size_t size) {
    for (; size; size--, at++) serial_send(*at == '\r' || *at == '\n' ? (const uint8_t *)" " : at, 1);
}

size_t error_string(struct bytes text, size_t limit) {
    size_t size = 0;
    while (size < text.size && size < limit && text.at[size]) size++;
    error_bytes(text.at, size);
    return size;
}

void error_end(void) { serial_send("\r\n", 2); }

void reply_error(const char *text) {
    error_begin();
    error_text(text);
    error_end();
}
