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
