/* SPDX-License-Identifier: Apache-2.0 */
/* file_priv.h -- what file*.c and lock.c share, and what requests ask of the file that they rest on. */
#pragma once

#include "client_priv.h"
#include "common/lock_list.h"

struct granary_file {
	struct list link;
	struct list release_link; /* lock: in client->released */
	struct granary_client *client;
	_Atomic uint32_t refs;
	uint32_t generation; /* forks of the client, when it was opened */
	uint64_t handle, object_id, dir_id;
	uint64_t fence;      /* io: the server's state when its locks were granted; 0: they are not fenced */
	uint8_t access;
	bool is_opened;      /* the answer of OPEN came */
	bool is_told, is_late; /* io: announced since that is due; and once more behind what is sent again */
	_Atomic int status;
	struct list locks;   /* io: of struct lock_item: what the server granted */
	struct upload_pin pin; /* io: its locks travel in order */
	struct granary_opened *out; /* while its operation is under way */
	char name[];         /* as it was opened; a hint */
};

struct granary_file *file_new(struct granary_client *c, const struct granary_ref *ref, uint32_t access);
/* io: the server has it open; it is the caller's. */
void file_take(struct granary_file *f, uint64_t object_id, uint64_t dir_id);
/* It is not opened after all; is_sure: nor is it at the server. */
void file_give_up(struct granary_file *f, bool is_sure);
void file_is_lost(struct granary_file *f, int err); /* the first reason counts */
void files_state_is(struct granary_client *c, uint64_t state); /* told by an answer */
void files_live(struct granary_client *c); /* a turn */
/* What a change names that rests on a lock of the file; 0: it does not. Or why the file is lost, as an error. */
int file_fence(const struct granary_file *f, uint64_t *fence);
void file_was_fenced(struct granary_file *f); /* the server refused it */
void files_granted(struct granary_file *f, struct slice meta); /* the answer of LOCK */
void file_ref(struct granary_file *f);
void file_unref(struct granary_file *f);
bool file_is_forked(const struct granary_file *f);
void lock_encode(struct wr *w, const struct lock *lock); /* PROTOCOL 5.20 */
enum { LOCK_WIRE_SIZE = 2 + 3 * 8 + 4 };
