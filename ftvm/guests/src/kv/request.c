/* Arguments grow from the front of the request buffer, the table of them from its end. */
#include "kv/request.h"

#include "kv/number.h"
#include "kv/reply.h"
#include "kv/serial.h"
#include "memory.h"

#define LINE_SIZE_MAX 32 /* enough to judge any length: what is longer is no integer */

struct slot {
    uint32_t start, size;
};

static uint8_t buffer[REQUEST_SIZE_MAX] __attribute__((section(".noinit"), aligned(8)));
static size_t buffer_used;
static bool too_large;

size_t argument_count;

static struct slot *slot_at(size_t index) { return (struct slot *)(buffer + REQUEST_SIZE_MAX) - 1 - index; }

struct bytes argument(size_t index) {
    const struct slot *slot = slot_at(index);
    return (struct bytes){buffer + slot->start, slot->size};
}

bool argument_is(size_t index, const char *lower) {
    struct bytes text = argument(index);
    for (size_t at = 0; at < text.size; at++) {
        uint8_t byte = text.at[at];
        if (byte >= 'A' && byte <= 'Z') byte |= 0x20;
        if (!lower[at] || byte != (uint8_t)lower[at]) return false;
    }
    return !lower[text.size];
}

/* Room for an argument of `size` bytes, padded with zeros; NULL when the buffer is full. */
static uint8_t *add_argument(size_t size) {
    size_t end = (buffer_used + size + 7) & ~(size_t)7;
    if (too_large || end > REQUEST_SIZE_MAX - (argument_count + 1) * sizeof(struct slot)) {
        too_large = true;
        return NULL;
    }
    struct slot *slot = slot_at(argument_count++);
    *slot = (struct slot){(uint32_t)buffer_used, (uint32_t)size};
    uint8_t *at = buffer + buffer_used;
    if (size & 7) *(uint64_t *)(buffer + end - 8) = 0;
    buffer_used = end;
    return at;
}

/* Redis hangs up after a protocol error. A UART cannot: the rest of this client's bytes is dropped. */
static _Noreturn void ignore_client(void) {
    while (!serial_client_gone()) serial_receive();
    session_restart();
}

static _Noreturn void protocol_error(const char *text) {
    error_begin();
    error_text("ERR Protocol error: ");
    error_text(text);
    error_end();
    ignore_client();
}

/* The rest of a line that begins with a type byte. False when it is no integer. */
static bool receive_length(int64_t *value, const char *endless) {
    uint8_t line[LINE_SIZE_MAX];
    size_t size = 0;
    for (uint8_t byte; (byte = serial_receive()) != '\r'; size++) {
        if (size < LINE_SIZE_MAX) line[size] = byte;
        if (size == INLINE_SIZE_MAX) protocol_error(endless);
    }
    serial_receive(); /* the line feed; Redis does not look at it either */
    return size <= LINE_SIZE_MAX && parse_integer(line, size, value);
}

static void receive_bulk(void) {
    uint8_t type = serial_receive();
    if (type != '$') {
        error_begin();
        error_text("ERR Protocol error: expected '$', got '");
        error_bytes(&type, 1);
        error_text("'");
        error_end();
        ignore_client();
    }
    int64_t size;
    if (!receive_length(&size, "too big bulk count string") || size < 0 || size > BULK_SIZE_MAX) {
        protocol_error("invalid bulk length");
    }
    uint8_t *at = add_argument((size_t)size);
    if (at) {
        serial_receive_bytes(at, (size_t)size);
    } else {
        while (size--) serial_receive();
    }
    serial_receive();
    serial_receive();
}

static bool is_blank(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

static int hex_digit(uint8_t byte) {
    if (byte >= '0' && byte <= '9') return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* One escape of a double-quoted word; returns the bytes it took behind the backslash. */
static size_t unescape(const uint8_t *at, size_t size, uint8_t *byte) {
    if (size >= 3 && *at == 'x' && hex_digit(at[1]) >= 0 && hex_digit(at[2]) >= 0) {
        *byte = (uint8_t)(hex_digit(at[1]) << 4 | hex_digit(at[2]));
        return 3;
    }
    switch (*at) {
    case 'n': *byte = '\n'; break;
    case 'r': *byte = '\r'; break;
    case 't': *byte = '\t'; break;
    case 'b': *byte = '\b'; break;
    case 'a': *byte = '\a'; break;
    default: *byte = *at;
    }
    return 1;
}

/* One word of an inline command, unquoted into `word`. Returns where it ended, NULL for unbalanced quotes. */
static const uint8_t *split_word(const uint8_t *at, const uint8_t *end, uint8_t *word, size_t *word_size) {
    uint8_t quote = 0;
    size_t size = 0;
    for (; at != end; at++) {
        if (quote && *at == quote) {
            if (at + 1 != end && !is_blank(at[1])) return NULL;
            *word_size = size;
            return at + 1;
        }
        if (quote == '"' && *at == '\\' && at + 1 != end) {
            at += unescape(at + 1, (size_t)(end - at - 1), &word[size++]);
        } else if (quote == '\'' && *at == '\\' && at + 1 != end && at[1] == '\'') {
            word[size++] = *++at;
        } else if (!quote && is_blank(*at)) {
            break;
        } else if (!quote && (*at == '"' || *at == '\'')) {
            quote = *at;
        } else {
            word[size++] = *at;
        }
    }
    *word_size = size;
    return quote ? NULL : at;
}

/* The line is received into the front of the buffer, its words go behind it. */
static void receive_inline(uint8_t byte) {
    static uint8_t word[INLINE_SIZE_MAX] __attribute__((section(".noinit")));
    size_t size = 0;
    for (; byte != '\n'; byte = serial_receive()) {
        if (size == INLINE_SIZE_MAX) protocol_error("too big inline request");
        buffer[size++] = byte;
    }
    if (size && buffer[size - 1] == '\r') size--;
    const uint8_t *at = buffer;
    const uint8_t *end = buffer + size;
    buffer_used = INLINE_SIZE_MAX;
    for (;;) {
        while (at != end && is_blank(*at)) at++;
        if (at == end) return;
        size_t word_size;
        at = split_word(at, end, word, &word_size);
        if (!at) protocol_error("unbalanced quotes in request");
        uint8_t *to = add_argument(word_size);
        if (to) memcpy(to, word, word_size);
    }
}

bool request_receive(void) {
    argument_count = buffer_used = 0;
    too_large = false;
    uint8_t type = serial_receive();
    if (type == '*') {
        int64_t count;
        if (!receive_length(&count, "too big mbulk count string") || count > INT32_MAX) {
            protocol_error("invalid multibulk length");
        }
        for (; count > 0; count--) receive_bulk();
    } else {
        receive_inline(type);
    }
    if (too_large) reply_error("OOM command not allowed when used memory > 'maxmemory'.");
    return argument_count && !too_large;
}
