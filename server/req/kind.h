/* SPDX-License-Identifier: Apache-2.0 */
/* kind.h -- private to req/: what the kinds of requests share. Steps, worker hops, answers, refs
 * and grants. */
#pragma once

#include "meta/ns.h"
#include "meta/opens.h"
#include "req/req.h"
#include "req/store.h"

/* ---- steps (req.c) ---- */
/* Ends the request with this error; text names the thing, the cause and the fix. Returns
 * STEP_DONE. */
enum step_result req_fail(struct req *r, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void req_set_error(struct req *r, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Runs work(r) on a worker, then the step that r->step names by then. Returns STEP_WAIT. */
enum step_result req_work(struct req *r, void (*work)(struct req *r));
/* From any thread: posts r to its reactor, to be resumed there. r belongs to the reactor from here
 * on. */
void req_post(struct req *r);

/* A request that waits for what others do: until it goes on (req_unparked(), first thing then) it may be withdrawn.
 * False: nobody listens any more. */
bool req_park(struct req *r);
void req_unparked(struct req *r);

static inline void stat_add(
	uint64_t *counter, uint64_t n) /* one writer; status reads it from another thread */
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* ---- answers (answer.c) ---- */
/* One allocation: the answer and meta_cap bytes at a->meta. Never NULL. */
struct answer *answer_new(const struct req *r, size_t meta_cap);
/* Takes over malloc'd meta. Never NULL. */
struct answer *answer_adopt(const struct req *r, uint8_t *meta, size_t meta_len);
/* Hands it to the front end, or releases it when the peer is gone. meta_len must be set. */
void answer_send(struct req *r, struct answer *a, bool last);
void answer_empty(struct req *r);
void answer_text(struct req *r, const char *text, size_t len); /* as data */
void answer_error(struct req *r, int err, const char *text);
/* One frame, the last: meta copied, malloc'd data taken over. */
void answer_data(struct req *r, const struct wr *meta, uint8_t *data, size_t len);
void *req_alloc(size_t size); /* malloc that is never NULL: stops the process instead */

/* ---- refs and grants (ref.c) ---- */
/* What the peer's key may do to the refs of one request. The last directory judged is
 * remembered. */
struct auth {
	struct store *store;
	const struct ns_access_key *key;
	uint64_t session; /* 0: none */
	uint8_t actions;
	bool has_bucket, everything, whole_bucket;
	struct ns_bucket bucket; /* of refs by key */
	uint64_t dir;            /* memo; 0: none */
	bool dir_whole;          /* all names under it are allowed */
	size_t path_len;
	uint64_t dir_bucket;
	char dir_bucket_name[BUCKET_LEN_MAX + 1];
	char path[KEY_LEN_MAX + 1];
};
/* actions: GRANT_* bits, all needed. An empty bucket name: refs by key are refused. 0; ACCESS;
 * NOBUCKET; NAME. */
int auth_begin(const struct req *r, struct auth *a, uint8_t actions, struct slice bucket);
struct auth *auth_copy(const struct auth *a); /* for a worker; free() */
/* May the key do this to a bucket as a whole (empty: to all)? */
bool auth_whole(const struct ns_access_key *key, uint8_t action, struct slice bucket);
bool auth_any(const struct ns_access_key *key, uint8_t actions); /* some grant, somewhere */
bool auth_any_in(const struct ns_access_key *key, uint8_t actions, struct slice bucket);
bool auth_key(struct auth *a, struct slice key); /* of a->bucket */
/* The entry `name` of directory `dir`. name.p == NULL: not known, only a grant on the whole
 * directory will do. 0; ACCESS; EAGAIN when it needs a worker and may_block is false; NOTFOUND: no
 * such directory. */
int auth_entry(struct auth *a, uint64_t dir, struct slice name, bool may_block);
/* Worker: of a look-up by id, also of a root. An orphan: the session has it open with what is needed, else STALE. */
int auth_place(struct auth *a, const struct ns_place *place);
/* Worker: as auth_entry, of a directory of a->bucket. NOTFOUND: it is of another one, or gone. */
int auth_in_bucket(struct auth *a, uint64_t dir, struct slice name);
/* Judges a ref as far as it can be before its object is found: by key and by name. By id: 0. */
int auth_ref(struct auth *a, const struct ns_ref *ref, bool may_block);
/* Worker: judges a ref of any kind; by id after a look-up, which sets ref->dir and ref->name (in
 * name_buf) to where the object is now. */
int auth_ref_found(struct auth *a, struct ns_ref *ref, char name_buf[KEY_LEN_MAX]);
/* 0; NAME: an entry's own error; PROTO: the request does not parse. */
int ref_parse(struct cur *c, const struct auth *a, struct ns_ref *ref);
/* "bucket/key", escaped, as well as it is known without blocking, for errors and logs. */
char *ref_text(struct auth *a, const struct ns_ref *ref, char *buf, size_t cap);
struct slice ref_bucket_name(const struct auth *a);
/* What a record says of the object's place besides directory id and name (FORMAT 3.2): "bucket/key" written to w, which
 * has REF_RECORD_KEY_MAX, and the bucket's id; empty and 0 where that is not known without blocking. */
enum { REF_RECORD_KEY_MAX = BUCKET_LEN_MAX + 1 + KEY_LEN_MAX };
struct slice ref_record_key(struct auth *a, const struct ns_ref *ref, struct wr *w, uint64_t *bucket);

uint8_t stat_kind_of(bool is_dir, uint32_t mode); /* stat.c: STAT_... */

/* ---- kinds, by file ---- */
extern const struct req_kind locate_kind, descriptors_kind;
extern const struct req_kind read_kind, stat_kind, list_kind, bucket_list_kind, status_kind;
extern const struct req_kind put_kind, extent_kind, abort_kind, delete_kind, mkdir_kind, rmdir_kind,
	rename_kind;
extern const struct req_kind attr_kind, setattr_kind, xattr_kind, tags_kind, make_kind, link_kind;
extern const struct req_kind copy_kind, upload_create_kind, upload_complete_kind, upload_abort_kind, part_list_kind,
	upload_list_kind, write_kind, range_copy_kind, map_kind;
extern const struct req_kind sync_kind, readdir_kind, ids_kind, open_kind, close_kind, announce_kind,
	lock_kind, watch_kind;
extern const struct req_kind bucket_create_kind, bucket_remove_kind;
extern const struct req_kind snapshot_list_kind, snapshot_show_kind, snapshot_page_kind, snapshot_create_kind,
	snapshot_remove_kind, snapshot_note_kind, snapshot_repack_kind, snapshot_tags_kind, range_kind,
	stream_report_kind, stream_list_kind;
extern const struct req_kind recipe_list_kind, recipe_show_kind, recipe_create_kind, recipe_remove_kind,
	provenance_kind;
extern const struct req_kind key_create_kind, key_remove_kind, key_list_kind, task_kind, rules_kind;
