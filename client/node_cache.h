/* SPDX-License-Identifier: Apache-2.0 */
/* node_cache.h -- bytes of packs on the node's own flash: one file of a fixed size, shared by all processes of a user
 * that name its directory, kept when they end or the machine does.
 *
 * (1) what is read is never trusted: a record says whose bytes it has, and they have the checksum that the snapshot's
 *     table asks for, or they are not there. So a crash, a torn write and a record that another process is writing over
 *     need no care, and readers take no lock.
 * (2) the file never grows above the size it was made with.
 * (3) once it is full, what is there stays as long as it is of use: a segment is emptied only when twice the bytes of
 *     the data set that wants its place, or of the cache, were asked for and not one of them was found in it. So epochs
 *     in whatever order over more than fits find as large a part of it as the cache is of it, every time, not nothing.
 * (4) a segment is filled by one process, which holds a lock of the file on it; who dies lets go. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NODE_CACHE_LEN_MAX = 4 * 1024 * 1024, NODE_CACHE_NAME_MAX = 512 };
#define NODE_CACHE_LEAST ((uint64_t)64 << 20)

struct node_cache;
struct node_cache_key {
	uint8_t store[16];
	uint64_t pack;
	uint32_t offset, len, crc; /* len: up to NODE_CACHE_LEN_MAX; crc: CRC-32C of the bytes */
	uint32_t zero;             /* no padding: keys are compared as bytes */
};
struct node_cache_numbers {
	uint64_t hits, misses, hit_bytes; /* of this process */
	uint64_t size, filled;            /* bytes; filled: of segments, by all processes */
};

/* Opens DIR/granary-cache, made when it is not there; one of another size is made anew unless someone uses it. NULL and
 * a text: the directory cannot be used, the disk is full, the size is below NODE_CACHE_LEAST. */
struct node_cache *node_cache_open(const char *dir, uint64_t size, char *why, size_t why_size);
void node_cache_close(struct node_cache *c);
/* Any thread. True: `to` has all bytes, and they are right. */
bool node_cache_get(struct node_cache *c, const struct node_cache_key *key, void *to);
/* Any thread. Keeps the bytes, which have their checksum, if there is a place. among: bytes of the data set. */
void node_cache_put(struct node_cache *c, const struct node_cache_key *key, const void *bytes, uint64_t among);
void node_cache_numbers(struct node_cache *c, struct node_cache_numbers *out);
