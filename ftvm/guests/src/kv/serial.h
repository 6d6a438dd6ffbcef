/* The client's byte stream over the UART. A BREAK ends a client's session in the middle of anything.
 *
 * The edge sends a BREAK when a client leaves. The kv server drops the half request and the unsent rest of its
 * replies, and sends a BREAK back; the edge throws away everything before that one. Whatever the edge sent after
 * its BREAK belongs to the next client.
 */
#ifndef KV_SERIAL_H
#define KV_SERIAL_H

#include <stdbool.h>

#include "board.h"

void serial_open(void);

/* Blocks in WFI until there is a byte. A BREAK in the input does not return: it goes to session_restart(). */
uint8_t serial_receive(void);
void serial_receive_bytes(uint8_t *to, size_t size);

void serial_send(const void *from, size_t size);

/* A BREAK came while a reply was being sent: the client is gone and serial_send() drops everything. */
bool serial_client_gone(void);

/* Answers every BREAK that is not yet answered; from here on bytes are the next client's. */
void serial_answer_breaks(void);

/* Returns when the last byte has left the UART. */
void serial_drain(void);

/* Throws the stack away and starts serve() anew (restart.S). */
_Noreturn void session_restart(void);

#endif
