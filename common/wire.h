/* SPDX-License-Identifier: Apache-2.0 */
/* wire.h -- numbers of the native protocol, docs/PROTOCOL.md, and its frame header. */
#pragma once

#include <stdint.h>

#include "common/bytes.h"
#include "common/crc32c.h"
#include "granary/error.h"

enum {
	WIRE_VERSION = 1, WIRE_HEADER_SIZE = 32, WIRE_PORT = 7420,
	WIRE_PREAUTH_META_MAX = 4096,
	WIRE_META_MAX = 8 * 1024 * 1024, WIRE_DATA_MAX = 16 * 1024 * 1024, WIRE_INFLIGHT_MAX = 256,
	WIRE_BATCH_MAX = 4096, WIRE_LIST_MAX = 1000, WIRE_IDS_MAX = 4096,
	WIRE_ENTRY_DATA_MAX = 4 * 1024 * 1024,   /* of a PUT entry, of an EXTENT */
	WIRE_COALESCE_MAX = 512 * 1024,          /* data of one READ frame of small pieces */
	WIRE_SMALL_MAX = 16 * 1024,              /* a piece up to this shares frames */
	WIRE_NONCE_SIZE = 32, WIRE_HMAC_SIZE = 32, WIRE_SECRET_SIZE = 32,
	WIRE_LEASE_S = 60,
};
#define WIRE_WHOLE UINT64_MAX
#define WIRE_CLIENT_LABEL "granary client 1"
#define WIRE_SERVER_LABEL "granary server 1"

enum wire_op {
	OP_HELLO = 1, OP_AUTH = 2, OP_PING = 3, OP_GOODBYE = 4,
	OP_READ = 16, OP_STAT = 17, OP_LIST = 18, OP_BUCKET_LIST = 19, OP_STATUS = 20,
	OP_SNAPSHOT_LIST = 21, OP_SNAPSHOT_SHOW = 22, OP_SNAPSHOT_PAGE = 23, OP_RANGE = 24, OP_STREAM_REPORT = 25,
	OP_STREAM_LIST = 26, OP_RECIPE_LIST = 27, OP_RECIPE_SHOW = 28, OP_PROVENANCE = 29, OP_READDIR = 30,
	OP_SNAPSHOT_TAGS = 31,
	OP_PUT = 32, OP_EXTENT = 33, OP_ABORT = 34, OP_DELETE = 35, OP_MKDIR = 36, OP_RMDIR = 37, OP_RENAME = 38,
	OP_BUCKET_CREATE = 48, OP_BUCKET_REMOVE = 49, OP_KEY_CREATE = 50, OP_KEY_REMOVE = 51, OP_KEY_LIST = 52,
	OP_TASK = 53, OP_SNAPSHOT_CREATE = 54, OP_SNAPSHOT_REMOVE = 55, OP_SNAPSHOT_NOTE = 56, OP_SNAPSHOT_REPACK = 57,
	OP_RECIPE_CREATE = 58, OP_RECIPE_REMOVE = 59, OP_RULES = 60,
	OP_ATTR = 40, OP_PART_LIST = 41, OP_UPLOAD_LIST = 42, OP_MAP = 43, OP_LOCATE = 44,
	OP_DESCRIPTORS = 45,
	OP_SETATTR = 64, OP_XATTR = 65, OP_TAGS = 66, OP_MAKE = 67, OP_LINK = 68, OP_COPY = 69,
	OP_UPLOAD_CREATE = 70, OP_UPLOAD_COMPLETE = 71, OP_UPLOAD_ABORT = 72, OP_WRITE = 73, OP_COPY_RANGE = 74,
	OP_IDS = 75,
	OP_SYNC = 80, OP_OPEN = 81, OP_CLOSE = 82, OP_ANNOUNCE = 83, OP_LOCK = 84, OP_WATCH = 85,
};
enum { FRAME_RESPONSE = 1, FRAME_LAST = 2, FRAME_RESENT = 4, FRAME_RELAXED = 8, FRAME_UNSTABLE = 16,
       FRAME_REPLAY = 32, FRAME_FENCED = 64 };
enum { PING_LEASE = 1 }; /* flags of PING */
enum { UNSTABLE_TAIL_SIZE = 8 + 8 + 8 }; /* of an unstable answer's meta: verifier, first id, first version */
enum { RULES_SHOW = 1, RULES_APPLY = 2, RULES_PLAN = 3, RULES_EXPLAIN = 4, RULES_COST = 5, RULES_PIN = 6,
	RULES_UNPIN = 7, RULES_PINS = 8, RULES_TOP = 9, RULES_MAP = 10 };
enum { RULES_JSON = 1, RULES_YES_DELETE = 2, RULES_GIVEN = 4 };
enum { SYNC_REPLAYED = 1, SYNC_LEAVE = 2 };
enum { OPEN_FOR_READ = 1, OPEN_FOR_WRITE = 2, OPEN_FOR_ALL = 3, ANNOUNCE_LAST = 1 };
enum { WATCH_ALL = 1, WATCH_ENTRY = 1, WATCH_GONE = 2, WATCH_INODE = 3 };
enum { LOCK_SET = 1, LOCK_WAIT = 2, LOCK_TEST = 3, LOCK_UNSET = 4, LOCK_CANCEL = 5 };
enum { REF_KEY = 1, REF_NAME = 2, REF_ID = 3 };
enum { READ_IN_ORDER = 1, READ_VERIFY = 2 };
enum { READ_ENTRY_RANGE = 1, READ_ENTRY_VERSION = 2, READ_ENTRY_OPEN = 4 };
enum { PIECE_LAST = 1, PIECE_HASH = 2, PIECE_TEXT = 4, PIECE_CUT = 8, PIECE_ADDRESS = 16 };
enum { PIECE_FIXED_SIZE = 4 + 2 + 1 + 1 + 8 * 6 + 4 + 2 }; /* up to the crcs */
enum { PIECE_ADDRESS_SIZE = 8 + 8 }; /* pack, offset in it */
enum { DESCRIPTORS_MAX = 16, DESCRIPTOR_PASSED = 1, DESCRIPTOR_SAME = 2 };
enum { DESCRIPTORS_ENTRY_SIZE = 8 + 2 + 1 + 3 * 8 };
enum { STAT_WANT_META = 1, STAT_WANT_FULL = 2 };
enum { STAT_FILE = 1, STAT_DIR = 2, STAT_SYMLINK = 3, STAT_FIFO = 4, STAT_SOCKET = 5, STAT_CHAR = 6, STAT_BLOCK = 7 };
enum { STAT_HAS_HASH = 1, STAT_HAS_META = 2, STAT_HAS_HOLES = 8 }; /* HOLES: in the place of the hash */
enum { STAT_FULL_SIZE = 8 + 8 + 8 + 4 }; /* ctime, atime, rdev, nlink */
enum { LIST_WANT_FULL = 1 };
enum { ATTR_XATTRS = 1, ATTR_XATTR_NAMES = 2, ATTR_TAGS = 3, ATTR_TARGET = 4 };
enum { SETATTR_MODE = 1, SETATTR_UID = 2, SETATTR_GID = 4, SETATTR_ATIME = 8, SETATTR_MTIME = 16,
       SETATTR_ATIME_NOW = 32, SETATTR_MTIME_NOW = 64, SETATTR_ALL = 127 };
enum { UPLOAD_PARTS_MAX = 10000, WIRE_MAP_MAX = 4096 };
enum { CHANGE_DATA = 1, CHANGE_ZEROS = 2, CHANGE_PUNCH = 3, CHANGE_TRUNCATE = 4 };
enum { XATTR_ANY = 0, XATTR_CREATE = 1, XATTR_REPLACE = 2, XATTR_REMOVE = 3 };
enum { LIST_OBJECT = 1, LIST_PREFIX = 2 };
enum { PUT_ANY = 0, PUT_IF_ABSENT = 1, PUT_IF_VERSION = 2 };
enum { PUT_UPLOAD = 1, PUT_HAS_MODE = 2, PUT_HAS_MTIME = 4, PUT_HAS_ID = 8 };
enum { MKDIR_PARENTS = 1, MKDIR_DATASET = 2, RENAME_NO_REPLACE = 1, RENAME_SWAP = 2 };
enum { SNAPSHOT_CREATING = 1, SNAPSHOT_READY = 2, SNAPSHOT_REMOVING = 3 };
enum { SNAPSHOT_FORCE = 1 };
enum { STREAM_ENDED = 1, STREAM_PROVENANCE = 2, STREAM_ELAPSED = 4, STREAM_ORDER = 8 };
enum { RANGE_IN_ORDER = 1, RANGE_PAST_CACHE = 2, RANGE_STREAM = 4, RANGE_UNSUMMED = 8 };
enum { RANGE_LAST = 1, RANGE_SUM = 2, RANGE_TEXT = 4 };
enum { GRANT_READ = 1, GRANT_LIST = 2, GRANT_WRITE = 4, GRANT_DELETE = 8, GRANT_ADMIN = 16 };

struct frame {
	uint8_t op;
	uint16_t flags, status;
	uint32_t meta_len, data_len;
	uint64_t request;
	uint32_t meta_crc;
};

static inline void frame_encode(const struct frame *f, uint8_t out[WIRE_HEADER_SIZE])
{
	struct wr w = wr_of(out, WIRE_HEADER_SIZE);
	wr_u8(&w, 'G'); wr_u8(&w, 'N'); wr_u8(&w, WIRE_VERSION); wr_u8(&w, f->op);
	wr_u16(&w, f->flags); wr_u16(&w, f->status);
	wr_u32(&w, f->meta_len); wr_u32(&w, f->data_len);
	wr_u64(&w, f->request); wr_u32(&w, f->meta_crc);
	wr_u32(&w, crc32c(0, out, 28));
}
/* 0; -GRANARY_EPROTO: not a frame or damaged; -GRANARY_EVERSION. Lengths are not judged here. */
static inline int frame_decode(const uint8_t in[WIRE_HEADER_SIZE], struct frame *f)
{
	struct cur c = cur_of(in, WIRE_HEADER_SIZE);
	uint16_t magic = cur_u16(&c);
	uint8_t version = cur_u8(&c);
	f->op = cur_u8(&c);
	f->flags = cur_u16(&c);
	f->status = cur_u16(&c);
	f->meta_len = cur_u32(&c);
	f->data_len = cur_u32(&c);
	f->request = cur_u64(&c);
	f->meta_crc = cur_u32(&c);
	if (magic != ('G' | 'N' << 8) || cur_u32(&c) != crc32c(0, in, 28))
		return -GRANARY_EPROTO;
	return version == WIRE_VERSION ? 0 : -GRANARY_EVERSION;
}
