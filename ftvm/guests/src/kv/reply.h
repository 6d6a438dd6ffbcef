/* RESP2 replies, sent as they are made. */
#ifndef KV_REPLY_H
#define KV_REPLY_H

#include "kv/store.h"

void reply_ok(void);
void reply_simple(const char *text);
void reply_integer(int64_t value);
void reply_bulk(const void *at, size_t size);
void reply_text(const char *text); /* a bulk string */
void reply_value(struct entry *entry); /* a bulk string, or null for NULL */
void reply_null(void);
void reply_array(size_t count);

/* An error line in parts. Line ends within the parts become blanks, as Redis does it. */
void error_begin(void);
void error_text(const char *text);
void error_bytes(const uint8_t *at, size_t size);
/* Like "%.<limit>s": at most `limit` bytes and none from the first zero on. Returns how many. */
size_t error_string(struct bytes text, size_t limit);
void error_end(void);

void reply_error(const char *text); /* with its code: "ERR ..." */

#endif
