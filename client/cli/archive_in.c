/* SPDX-License-Identifier: Apache-2.0 */
/* archive_in.c -- import of tar and zip archives in one pass: members go into batches as they come, several under way.
 *
 * Invariants: (1) nothing is written outside the prefix, whatever the members are called; (2) of members with one name
 * the last one wins, as with tar: no batch begins while an earlier one with one of its keys is under way; (3) a member
 * that the archive does not have whole is not written; (4) what is there already with the same size and time is not
 * written again, so a stopped import goes on by running it again. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "archive_names.h"
#include "archives.h"
#include "common/hash.h"
#include "upload.h"

enum { SLOTS = 6, SEND_BYTES = 2 << 20, READ_SIZE = 1 << 20, FLYING = 1 << 16, PROBES = 8, NAMED_MAX = 10 };

/* A key under way: in which of all batches it went out. Entries of collected batches are free. */
struct flying {
	uint32_t tag, batch;
};

struct link { /* hard ones by the key of the file they name, symbolic ones by their text */
	const char *key, *target;
	bool symbolic;
};

struct import {
	struct sender s;
	struct archive *archive;
	const char *file, *prefix;
	struct known *known;
	struct slot slots[SLOTS];
	uint32_t batch;        /* being filled, in slots[batch % SLOTS]; from 1 */
	uint32_t collected;    /* batches up to here are answered */
	struct flying *flying; /* FLYING of them */
	struct arena texts;
	struct link *links;
	size_t links_count, links_cap;
	char directory[GRANARY_KEY_LEN_MAX + 2]; /* the last one met, with its slash; "" once something was below it */
	uint64_t refused, special;
	int damaged; /* the archive ended early: an exit code */
};

/* ---- names --------------------------------------------------------------------------------- */

/* The member's key below the prefix. False after counting and naming it. */
static bool import_key(struct import *in, char key[GRANARY_KEY_LEN_MAX + 1], const char *path)
{
	char name[GRANARY_KEY_LEN_MAX + 1];
	const char *why = "it has no name";

	if (path != NULL && member_name(name, path, &why) != NULL) {
		if (snprintf(key, GRANARY_KEY_LEN_MAX + 1, "%s%s", in->prefix, name) <= GRANARY_KEY_LEN_MAX)
			return true;
		why = "the key would be too long";
	}
	if (in->refused++ < NAMED_MAX) fail(CLI_PARTIAL, "leaving out '%s': %s", path != NULL ? shown(path) : "", why);
	return false;
}

/* ---- batches under way --------------------------------------------------------------------- */

static void import_collect(struct import *in, uint32_t up_to)
{
	for (; in->collected < up_to; in->collected++) slot_collect(&in->s, &in->slots[(in->collected + 1) % SLOTS]);
}

static struct slot *import_slot(struct import *in)
{
	return &in->slots[in->batch % SLOTS];
}

static void import_send(struct import *in)
{
	struct slot *slot = import_slot(in);

	if (slot->count == 0) return;
	slot_start(&in->s, slot);
	in->batch++;
	if (in->batch >= SLOTS) import_collect(in, in->batch - SLOTS);
}

static void import_settle(struct import *in)
{
	import_send(in);
	import_collect(in, in->batch - 1);
}

/* Notes that the key goes out in the batch being filled; settles first when it may be under way in an earlier one. */
static void import_claim(struct import *in, const char *key)
{
	struct hash128 h = hash_keyed(0, 0, key, strlen(key));
	uint32_t tag = (uint32_t)(h.hi | 1);

	for (unsigned turn = 0; turn < 2; turn++) {
		struct flying *free_at = NULL;
		bool there = false;
		for (unsigned i = 0; i < PROBES && !there; i++) {
			struct flying *f = &in->flying[(h.lo + i) % FLYING];
			bool over = f->tag == 0 || f->batch <= in->collected;
			if (over && free_at == NULL) free_at = f;
			there = !over && f->tag == tag;
		}
		if (!there && free_at != NULL) {
			*free_at = (struct flying){ tag, in->batch };
			return;
		}
		import_settle(in);
	}
}

/* ---- members ------------------------------------------------------------------------------- */

static uint64_t entry_mtime_ns(struct archive_entry *e)
{
	time_t seconds = archive_entry_mtime(e);

	if (!archive_entry_mtime_is_set(e) || seconds < 0) return 0;
	return (uint64_t)seconds * 1000000000u + (uint64_t)archive_entry_mtime_nsec(e);
}

static struct granary_put entry_put(struct archive_entry *e, const char *key)
{
	uint64_t mtime_ns = entry_mtime_ns(e);

	return (struct granary_put){ .ref = granary_ref_key(key),
		.flags = GRANARY_PUT_MODE | (mtime_ns != 0 ? (uint32_t)GRANARY_PUT_MTIME : 0),
		.mode = (uint32_t)archive_entry_perm(e) & 07777,
		.uid = (uint32_t)archive_entry_uid(e),
		.gid = (uint32_t)archive_entry_gid(e),
		.mtime_ns = mtime_ns };
}

static int archive_damaged(struct import *in, const char *what)
{
	const char *text = archive_error_string(in->archive);

	in->damaged = fail(CLI_FAILED, "%s '%s': %s; what came before is in the store", what, in->file,
		text != NULL ? text : "the archive is damaged");
	return -1;
}

/* Reads a whole small member into the slot; -1 when the archive does not have all of it. */
static int member_small(struct import *in, struct archive_entry *e, const char *key, size_t size)
{
	struct slot *slot = import_slot(in);
	struct granary_put put;
	size_t at = 0;

	if (slot->count == SLOT_FILES || slot->data_used + size > SLOT_BYTES || slot->data_used >= SEND_BYTES)
		import_send(in);
	import_claim(in, key);
	slot = import_slot(in);
	while (at < size) {
		la_ssize_t got = archive_read_data(in->archive, slot->data + slot->data_used + at, size - at);
		if (got < 0) return archive_damaged(in, "cannot read");
		if (got == 0) break;
		at += (size_t)got;
	}
	put = entry_put(e, memcpy(slot->keys + slot->keys_used, key, strlen(key) + 1));
	slot_add(slot, &put, at);
	return 0;
}

struct member_source {
	struct import *in;
	bool damaged;
};

static int64_t member_read(void *arg, void *buf, size_t len)
{
	struct member_source *source = arg;
	la_ssize_t got = archive_read_data(source->in->archive, buf, len);

	source->damaged = got < 0;
	if (got > 0) progress_add(&source->in->s.progress, 0, (uint64_t)got);
	return got < 0 ? -GRANARY_EIO : got;
}

/* A large member, or one whose size is not told before its bytes: nothing is there until all of it came. */
static int member_large(struct import *in, struct archive_entry *e, const char *key)
{
	struct member_source source = { in, false };
	struct granary_put put = entry_put(e, key);
	int64_t done;

	import_send(in);
	import_claim(in, key);
	done = granary_put_stream(in->s.r->client, &put, member_read, &source,
		GRANARY_CALL(.bucket = in->s.r->bucket, .timeout_ms = bulk_timeout_ms()));
	if (source.damaged) return archive_damaged(in, "cannot read");
	if (done < 0) {
		sender_put_failed(&in->s, key, (int)done, granary_last_error(in->s.r->client));
		return 0;
	}
	atomic_fetch_add(&in->s.totals->files, 1);
	atomic_fetch_add(&in->s.totals->bytes, (uint64_t)done);
	progress_add(&in->s.progress, 1, 0);
	return 0;
}

static int member_file(struct import *in, struct archive_entry *e, const char *key)
{
	bool sized = archive_entry_size_is_set(e);
	uint64_t size = sized ? (uint64_t)archive_entry_size(e) : 0;
	struct upload_totals *t = in->s.totals;

	if (sized) {
		switch (known_state(in->known, key, size, entry_mtime_ns(e))) {
		case KNOWN_SAME:
			t->same++;
			t->same_bytes += size;
			progress_add(&in->s.progress, 1, 0);
			return 0;
		case KNOWN_OTHER: t->replaced++; break;
		case KNOWN_ABSENT: break;
		}
	}
	if (opts.dry_run) {
		t->files++;
		t->bytes += size;
		return 0;
	}
	return sized && size <= WHOLE_MAX ? member_small(in, e, key, (size_t)size) : member_large(in, e, key);
}

static void member_link(struct import *in, struct archive_entry *e, const char *key)
{
	const char *hard = archive_entry_hardlink(e), *symbolic = archive_entry_symlink(e);
	char target[GRANARY_KEY_LEN_MAX + 1];
	struct link *link;

	if (hard != NULL && !import_key(in, target, hard)) return;
	if (hard == NULL && (symbolic == NULL || !member_link_stays(key + strlen(in->prefix), symbolic))) {
		if (in->refused++ < NAMED_MAX)
			fail(CLI_PARTIAL, "leaving out the link '%s': it leads out of the target, or may", shown(key));
		return;
	}
	if (opts.dry_run) return;
	if (in->links_count == in->links_cap) {
		in->links_cap = in->links_cap == 0 ? 64 : in->links_cap * 2;
		in->links = must_alloc(realloc(in->links, in->links_cap * sizeof(*in->links)));
	}
	link = &in->links[in->links_count++];
	link->symbolic = hard == NULL;
	link->key = arena_text(&in->texts, key, strlen(key));
	hard = hard != NULL ? target : symbolic;
	link->target = arena_text(&in->texts, hard, strlen(hard));
}

/* ---- directories --------------------------------------------------------------------------- */

/* A directory in which nothing was: it would be lost. */
static void directory_end(struct import *in)
{
	size_t len = strlen(in->directory);
	int err;

	if (len == 0 || opts.dry_run || known_has(in->known, in->directory)) return;
	in->directory[len - 1] = '\0';
	err = granary_mkdir(in->s.r->client, granary_ref_key(in->directory), 0755, GRANARY_MKDIR_PARENTS, NULL,
		GRANARY_CALL(.bucket = in->s.r->bucket));
	if (err < 0 && err != -GRANARY_EEXIST)
		sender_put_failed(&in->s, in->directory, err, granary_last_error(in->s.r->client));
}

static void directory_pass(struct import *in, const char *key, bool is_directory)
{
	if (strncmp(key, in->directory, strlen(in->directory)) != 0) directory_end(in);
	in->directory[0] = '\0';
	if (is_directory && key[strlen(in->prefix)] != '\0') snprintf(in->directory, sizeof(in->directory), "%s/", key);
}

/* ---- the walk ------------------------------------------------------------------------------ */

static int import_member(struct import *in, struct archive_entry *e)
{
	char key[GRANARY_KEY_LEN_MAX + 1];
	const char *path = archive_entry_pathname_utf8(e);
	unsigned type = archive_entry_filetype(e);

	if (!import_key(in, key, path != NULL ? path : archive_entry_pathname(e))) return 0;
	directory_pass(in, key, type == AE_IFDIR);
	if (type == AE_IFDIR) return 0;
	if (archive_entry_hardlink(e) != NULL || type == AE_IFLNK) {
		member_link(in, e, key);
		return 0;
	}
	if (type == AE_IFREG && key[strlen(in->prefix)] != '\0') return member_file(in, e, key);
	in->special++;
	return 0;
}

static void import_members(struct import *in)
{
	struct archive_entry *e;

	while (in->damaged == CLI_OK && !atomic_load(&in->s.stop)) {
		int got = archive_read_next_header(in->archive, &e);
		if (got == ARCHIVE_EOF) break;
		if (got == ARCHIVE_RETRY) continue;
		if (got < ARCHIVE_WARN) {
			archive_damaged(in, "cannot read");
			break;
		}
		if (import_member(in, e) < 0) break;
	}
	directory_pass(in, "", false);
}

/* One more name of a file: of the same one when it has it already. */
static int hard_link_put(struct remote *r, const struct link *l)
{
	const struct granary_call *call = GRANARY_CALL(.bucket = r->bucket, .timeout_ms = bulk_timeout_ms());
	struct granary_stat to, from;
	int err = granary_link(r->client, granary_ref_key(l->target), granary_ref_key(l->key), NULL, call);

	if (err != -GRANARY_EEXIST) return err;
	err = granary_stat(r->client, granary_ref_key(l->target), &from, call);
	if (err == 0) err = granary_stat(r->client, granary_ref_key(l->key), &to, call);
	if (err < 0 || from.object_id == to.object_id) return err;
	err = granary_delete(r->client, l->key, call);
	return err < 0 ? err : granary_link(r->client, granary_ref_key(l->target), granary_ref_key(l->key), NULL, call);
}

/* After all members, so that what they name is there. */
static void import_links(struct import *in)
{
	for (size_t i = 0; i < in->links_count && !atomic_load(&in->s.stop); i++) {
		const struct link *l = &in->links[i];
		int err = l->symbolic ? symlink_put(in->s.r, l->key, l->target) : hard_link_put(in->s.r, l);

		if (err < 0)
			sender_put_failed(&in->s, l->key, err, granary_last_error(in->s.r->client));
		else
			sender_written(&in->s, 1, 0);
	}
}

/* ---- the end ------------------------------------------------------------------------------- */

static void import_report(const struct import *in, double seconds)
{
	const struct upload_totals *t = in->s.totals;
	char text[TEXT_SHORT];
	struct json j;

	if (!opts.json) {
		upload_summary(t, "import", seconds);
		if (in->special > 0) note("  %s devices and pipes left out", human_count(text, in->special));
		if (in->refused > 0) note("  %s names that cannot be keys left out", human_count(text, in->refused));
		return;
	}
	json_open(&j, stdout);
	upload_summary_json(&j, t, "import");
	json_number(&j, "left_out_special", in->special);
	json_number(&j, "bad_names", in->refused);
	json_flag(&j, "damaged", in->damaged != CLI_OK);
	json_real(&j, "seconds", seconds);
	json_close(&j);
}

static int import_open(struct import *in)
{
	in->archive = must_alloc(archive_read_new());
	archive_read_support_filter_all(in->archive);
	archive_read_support_format_all(in->archive);
	if (archive_read_open_filename(in->archive, strcmp(in->file, "-") == 0 ? NULL : in->file, READ_SIZE) ==
		ARCHIVE_OK)
		return CLI_OK;
	return fail(archive_errno(in->archive) == ENOENT ? CLI_NOTFOUND : CLI_FAILED,
		"cannot read the archive '%s': %s", shown(in->file), archive_error_string(in->archive));
}

static int import_code(const struct import *in)
{
	const struct upload_totals *t = in->s.totals;

	if (t->failed == 0 && in->refused == 0) return in->damaged;
	return t->files + t->same > 0 ? CLI_PARTIAL : t->first_code != CLI_OK ? t->first_code : CLI_FAILED;
}

int archive_import(struct remote *to, const char *file, const char *prefix)
{
	struct upload_totals totals = { .files = 0 };
	struct import in = { .s = { .r = to, .totals = &totals }, .file = file, .prefix = prefix, .batch = 1 };
	int code;

	setlocale(LC_CTYPE, "C.UTF-8"); /* names in archives are UTF-8, whatever the terminal speaks */
	code = import_open(&in);
	if (code == CLI_OK) code = known_list(&in.known, to, prefix);
	if (code == CLI_OK) {
		in.flying = must_alloc(calloc(FLYING, sizeof(*in.flying)));
		for (unsigned i = 0; i < SLOTS; i++) slot_init(&in.slots[i]);
		progress_start(&in.s.progress, "import");
		import_members(&in);
		import_settle(&in);
		import_links(&in);
		progress_stop(&in.s.progress);
		import_report(&in, progress_seconds(&in.s.progress));
		code = import_code(&in);
		for (unsigned i = 0; i < SLOTS; i++) slot_release(&in.slots[i]);
		free(in.flying);
	}
	known_free(&in.known);
	archive_read_free(in.archive);
	arena_free(&in.texts);
	free(in.links);
	return code;
}
