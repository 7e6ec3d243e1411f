/* SPDX-License-Identifier: Apache-2.0 */
/* pack_source.h -- bytes of packs for who reads them front to back, from a thread that may block: one window of 1 MiB,
 * past the cache. What is read must be flushed, and its pack must stay. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct kv;
struct packs;
struct pack_source;

struct pack_source *pack_source_new(struct packs *packs, struct kv *kv); /* NULL: no memory */
void pack_source_free(struct pack_source **s);
/* Some of the len bytes at `offset`, 1 or more: how many; *p is valid until the next call. -GRANARY_ESTALE: there is no
 * such pack; OFFLINE: its file is not there; CORRUPT: it is shorter; EIO. Nothing is verified. */
int64_t pack_source_read(struct pack_source *s, uint64_t pack, uint64_t offset, size_t len, const uint8_t **p);
/* The same of bytes of one record that no row has checksums of, len at most EXTENT_LEN_MAX: all of them, and verified
 * by it (pack/by_record.h), or they came from the source. */
int64_t pack_source_read_unsummed(struct pack_source *s, uint64_t pack, uint64_t offset, size_t len,
	const uint8_t **p);
