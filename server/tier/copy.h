/* SPDX-License-Identifier: Apache-2.0 */
/* copy.h -- one cold copy of a pack: where it lies, and reading the pack's bytes out of it. A counted object:
 * the pack, an open file and each read that is under way hold it.
 *
 * A file of a copy (copy_open_file) is a `struct fs_file` that reads as the pack's own: fs_read() blocks
 * until the store answered or its deadline passed; writing is refused. It is never given to io.h: reactors
 * use copy_read_start(). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct copy;
struct frames;
struct fs_file;
struct place;

enum copy_codec { CODEC_RAW, CODEC_ZSTD, CODEC_LINKED }; /* FORMAT 6.7 */
#define COPY_LINKED_NAME "linked" /* there is no object of a linked copy: it is many of somebody else's */
enum { COPY_NAME_MAX = 64 };

struct copy_info {
	struct place *place;
	uint64_t pack_id, length, raw_len; /* raw_len: of the pack's file */
	uint32_t crc;                      /* of the stored bytes; 0: not known */
	uint8_t codec;
	char name[COPY_NAME_MAX]; /* without its folder: FORMAT 4.6 */
	char instead[COPY_NAME_MAX]; /* of the hot copy that went as this one came; empty: none did */
};
struct copy *copy_new(const struct copy_info *info); /* referenced once; NULL: no memory */
struct copy *copy_ref(struct copy *c);
void copy_unref(struct copy **c);
const struct copy_info *copy_info(const struct copy *c);
void copy_come_instead(struct copy *c, const char *hot); /* before anybody else knows it */
/* The object's name in its store: packs/XX/NAME. */
enum { COPY_PATH_MAX = 6 + 3 + COPY_NAME_MAX };
void copy_path(uint64_t pack_id, const char *name, char out[COPY_PATH_MAX]);
/* FORMAT 4.6: <pack>-<attempt>.cold. */
void copy_name(uint64_t pack_id, uint64_t attempt, char out[COPY_NAME_MAX]);
bool copy_name_parse(const char *name, uint64_t *pack_id, uint64_t *attempt);

/* The index of its frames, referenced; on a thread that may hang. NULL and 0 for a raw copy. */
int copy_frames(struct copy *c, uint64_t deadline_ns, struct frames **out);
/* One that was just written is known; keeps it on flash. Takes no reference. */
void copy_frames_put(struct copy *c, struct frames *frames);
void copy_forget(struct copy *c); /* the copy goes: so does its index on flash */

bool copy_is_linked(const struct copy *c); /* NULL: false */
/* The footer of a file that the records of a linked copy were copied to. */
int copy_finish_file(struct copy *c, struct fs_file *file, uint64_t size, bool lost); /* stores_linked.finish */

/* Some bytes of the pack. done() runs once, on any thread, perhaps from inside start; nothing touches buf
 * after it. */
struct copy_read {
	void *buf;
	size_t len;
	uint64_t at;
	bool fresh;  /* out of the store itself: what was read before may be wrong */
	void (*done)(struct copy_read *read);
	void *arg;   /* the caller's */
	bool may_lose; /* of a linked copy: zeros for objects that were changed since, and `lost` counts them */
	uint64_t lost;
	int64_t res; /* bytes: fewer only at the pack's end; OFFLINE, TIMEDOUT, NOTFOUND, CORRUPT, NOMEM, ... */
};
void copy_read_start(struct copy *c, struct copy_read *read);
/* The same for jobs: only what people ask for counts as a read of the pack. Of a linked copy these get headers of
 * records too, those above zeros in their place. */
void copy_read_part(struct copy *c, struct copy_read *read);
int copy_open_file(struct copy *c, struct fs_file **out); /* touches no store */
struct copy *copy_of_file(const struct fs_file *file);    /* NULL: it is no file of a copy */
/* One of a linked copy: who reads more of it than he wants meets objects that were changed, and are not his matter. */
bool copy_file_is_linked(const struct fs_file *file);
