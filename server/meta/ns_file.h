/* SPDX-License-Identifier: Apache-2.0 */
/* ns_file.h -- what a filesystem wants of names beyond put, delete and rename: attributes, extended attributes and
 * tags, symbolic links and special files, hard links. Plans as in ns.h; everything here runs on workers.
 *
 * What a ref names here: by key "a/" is the directory a, "a" the file and, where there is none, the directory. */
#pragma once

#include "meta/ns.h"

/* ---- attributes (ns_attr.c) ---- */

enum { NS_SET_MODE = 1, NS_SET_UID = 2, NS_SET_GID = 4, NS_SET_ATIME = 8, NS_SET_MTIME = 16 };
struct ns_setattr {
	uint32_t set;  /* NS_SET_* */
	uint32_t mode; /* permission bits; the type stays */
	uint32_t uid, gid;
	uint64_t atime_ns, mtime_ns;
};
/* Of a file or a directory, its times with it. The version stays: the bytes are the same. NOTFOUND; STALE. */
int ns_plan_setattr(struct ns_plan *plan, const struct ns_ref *ref, const struct ns_setattr *a);

enum ns_xattr_mode { NS_XATTR_ANY = 0, NS_XATTR_CREATE = 1, NS_XATTR_REPLACE = 2, NS_XATTR_REMOVE = 3 };
/* EXIST (CREATE); NOATTR (REPLACE, REMOVE); NAME; TOOBIG: more than ROW_XATTRS_LEN_MAX of all its attributes. */
int ns_plan_xattr(struct ns_plan *plan, const struct ns_ref *ref, enum ns_xattr_mode mode, struct slice name,
		  struct slice value);
/* All tags of an object at once, as pairs. INVAL; TOOBIG. */
int ns_plan_tags(struct ns_plan *plan, const struct ns_ref *ref, struct slice tags);
int tags_check(struct slice tags);

/* Finds what a ref names, as the plans above do: the object borrows from *value (release it). */
int ns_file_find(struct ns *ns, const struct ns_ref *ref, struct object *out, struct kv_value *value);

/* ---- symbolic links, special files (ns_attr.c) ---- */

struct ns_make {
	struct ns_ref ref;   /* BY_KEY or BY_NAME */
	uint32_t mode;       /* with its type: S_IFREG (no bytes), S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK */
	uint32_t uid, gid;
	uint64_t rdev;       /* S_IFCHR, S_IFBLK */
	struct slice target; /* S_IFLNK: 1..ROW_SYMLINK_LEN_MAX bytes */
	uint64_t id, version, dir; /* out */
};
/* Missing directories of a key are made, as by a put. EXIST; INVAL; NAME. */
int ns_plan_make(struct ns_plan *plan, struct ns_make *m);

/* ---- hard links (ns_link.c) ---- */

enum { NS_LINKS_MAX = 65000 };
/* One more name for a file; missing directories of a key are made. Its attributes and extents stand in its inode
 * (FORMAT 6.3) from then on. ISDIR; EXIST; INVAL (another bucket, the empty name); MLINK. */
int ns_plan_link(struct ns_plan *plan, const struct ns_ref *from, const struct ns_ref *to, uint64_t *id);

/* ---- copies by reference, objects out of parts (ns_copy.c, ns_parts.c) ---- */

enum { NS_EXTENTS_MAX = 1 << 18 }; /* of an object that is made of those of others: 1 TiB of 4 MiB each */

struct ns_copy {
	struct ns_ref from, to;  /* to: BY_KEY or BY_NAME, of any bucket */
	uint64_t from_version;   /* 0: any */
	enum ns_condition condition;
	uint64_t if_version;
	uint64_t id, version, dir, replaced; /* out */
};
/* A new object with the bytes and attributes of another one: its extents are the same, each with a `y` row (FORMAT
 * 6.9), so they outlive the object they were taken from. A symbolic link or special file is copied as what it is.
 * NOTFOUND; CHANGED (from_version); PRECONDITION; ISDIR; INVAL (the empty name); TOOBIG (NS_EXTENTS_MAX). */
int ns_plan_copy(struct ns_plan *plan, struct ns_copy *c);

struct ns_upload_start {
	struct ns_ref ref; /* of the object to be: BY_KEY or BY_NAME */
	struct slice key;  /* the same as a key of its bucket: in the listing, and what grants are judged on */
	uint64_t bucket;
	uint32_t mode, uid, gid;
	struct slice meta;
	uint64_t id; /* out */
};
/* A directory that no name leads to, for parts: each is an ordinary object that is put there by (id, name), its name
 * the number of the part in five digits. */
int ns_plan_upload_start(struct ns_plan *plan, struct ns_upload_start *u);
/* The key that an upload is for. STALE: there is no such upload. Worker. */
int ns_upload_key(struct ns *ns, uint64_t upload, uint64_t *bucket, struct slice *key, char buf[KEY_LEN_MAX]);

struct ns_part {
	uint32_t number;  /* 1..99,999, ascending */
	uint64_t version; /* 0: as it is */
};
struct ns_upload_finish {
	struct ns_ref ref;
	uint64_t upload;
	enum ns_condition condition;
	uint64_t if_version;
	const struct ns_part *parts;
	uint32_t count;
	uint64_t id, version, dir, replaced, size; /* out */
};
/* The object out of its parts, one behind the other, by reference; parts that are not named go. After it the upload is
 * not there any more: whoever puts a part at the same time fails, or comes before. STALE; NOTFOUND (a part); CHANGED
 * (its version); INVAL (not ascending); PRECONDITION; TOOBIG. */
int ns_plan_upload_finish(struct ns_plan *plan, struct ns_upload_finish *u);
int ns_plan_upload_abort(struct ns_plan *plan, uint64_t upload); /* STALE */
/* Parts behind number `after`, ascending; non-zero from each() stops. STALE. Worker. */
int ns_upload_parts(struct ns *ns, uint64_t upload, uint32_t after,
		    int (*each)(void *arg, uint32_t number, const struct object *o), void *arg);
/* Uploads of a bucket, by key, whose (key, id) lies behind (after, after_id). Worker. */
int ns_uploads(struct ns *ns, uint64_t bucket, struct slice prefix, struct slice after, uint64_t after_id,
	       int (*each)(void *arg, struct slice key, uint64_t id, uint64_t created_ns), void *arg);

/* ---- changing bytes in place (ns_write.c) ---- */

enum ns_change_kind {
	NS_CHANGE_DATA = 1,     /* these bytes */
	NS_CHANGE_ZEROS = 2,    /* zeros, without a record; beyond the end they make the object longer */
	NS_CHANGE_PUNCH = 3,    /* the same, but the size stays */
	NS_CHANGE_TRUNCATE = 4, /* the size becomes `offset`: what lay behind is gone, what is new is zeros */
};
struct ns_change {
	enum ns_change_kind kind;
	uint64_t offset, length;
	struct extent extent; /* DATA: all of a record that was flushed, or what of one is referred to */
	bool refers;          /* the record names another object, or another place: it gets a `y` row */
};
struct ns_write {
	struct ns_ref ref;
	uint64_t id;         /* that the records name; 0: any */
	uint32_t generation; /* that they name with it */
	uint64_t if_version; /* 0: any */
	uint64_t mtime_ns;   /* 0: now */
	const struct ns_change *changes; /* in order: the later wins */
	uint32_t count;
	uint64_t object, version, size, dir; /* out */
};
/* All changes in one step: a new version, no content hash (contract E). An object once a plan, and nothing else of it
 * in that plan. NOTFOUND; ISDIR; NOTFILE; CHANGED (another object has the name now: append anew); PRECONDITION; TOOBIG;
 * INVAL. */
int ns_plan_write(struct ns_plan *plan, struct ns_write *w);
uint64_t ns_writes(struct ns *ns); /* a number that grows with them */

struct ns_merge {
	uint64_t id, version;         /* version 0: any; then the sources say what is put together */
	const struct extent *extents; /* ascending: new records with the bytes that stand there */
	uint32_t count;
	const struct extent *sources; /* ascending: all that lie where the extents will, as they were read */
	uint32_t source_count;        /* 0: the version says enough */
};
/* The extents take the place of those that cover the same bytes; the version stays. NOTFOUND: it is another version
 * now, has other extents there, or is gone. */
int ns_plan_merge(struct ns_plan *plan, const struct ns_merge *m);

struct ns_copy_range {
	struct ns_ref from, to; /* to: a file that is there, of any bucket; it may be `from` itself */
	uint64_t from_version;  /* 0: any */
	uint64_t from_offset, to_offset, length;
	uint64_t if_version;    /* of the target; 0: any */
	uint64_t object, version, size, dir, copied; /* out; copied: less than length where the source ends */
};
/* The bytes of a range at another place without moving any: extents with a `y` row each. Where the two overlap the
 * source is as it was before. RANGE (from_offset behind the end); CHANGED (from_version); else as ns_plan_write. */
int ns_plan_copy_range(struct ns_plan *plan, struct ns_copy_range *c);
