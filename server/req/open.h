/* SPDX-License-Identifier: Apache-2.0 */
/* open.h -- private to req/: one object is opened for a session, by OPEN or announced again. */
#pragma once

#include "req/stat.h"

struct open_ask {
	struct ns_ref ref;
	uint64_t handle;
	uint8_t access;     /* OPEN_FOR_... bits, at least one */
	bool is_announced;  /* an orphan that the session's `j` row names is opened as well */
};
/* Worker. auth: begun with what the access needs (open_actions). 0 and *e as of a full STAT; or what is wrong. */
int open_object(struct req *r, struct auth *auth, const struct open_ask *ask, struct stat_entry *e);
void open_close(struct store *store, uint64_t session, uint64_t handle);
uint8_t open_actions(uint8_t access); /* GRANT_* */
