/* SPDX-License-Identifier: Apache-2.0 */
/* session.h -- private to req/: admission of mutations by their sequence, what they answered,
 * uploads. */
#pragma once

#include "common/list.h"
#include "req/kind.h"

enum {
	SESSION_RESULTS_MAX = 256,
	SESSION_RESULT_BYTES_MAX = 128 * 1024, /* settled ones kept in RAM */
	SESSION_ROWS_MAX = 1 << 16, /* retry rows remembered for deletion; a job removes others after 24 h */
	SESSION_DELETES_MAX = 64, /* of them in one transaction */
	SESSION_UPLOADS_MAX = 1024,
};

struct mutation;
struct upload;

/* What a settled mutation answered. */
struct result {
	uint16_t status, flags;
	uint64_t verifier; /* of an unstable one */
	uint8_t *meta;
	uint32_t meta_len;
};

enum admission {
	ADMIT_RUN = 1,  /* do it */
	ADMIT_LOOK,     /* do it unless its retry row says it is done: look there first */
	ADMIT_WAIT,     /* will be posted to its reactor; ask again then */
	ADMIT_ANSWERED, /* *out (malloc'd meta) is the answer */
};
/* Or -GRANARY_EPROTO (text set), -GRANARY_EBUSY (waited too long). */
int session_admit(struct session *s, struct mutation *m, bool resent, struct result *out);
/* The end of an admitted mutation. Errors worth a retry are forgotten, so that the retry runs;
 * everything else is what a retry is answered with. has_row: its retry row is committed.
 * result.meta is copied. */
void session_settle(
	struct session *s, struct mutation *m, const struct result *result, bool has_row);

/* Under no lock of the caller. Up to max sequences whose retry rows may go. */
uint32_t session_take_deletes(struct session *s, uint64_t *out, uint32_t max);
void session_return_deletes(
	struct session *s, const uint64_t *sequences, uint32_t n); /* not committed after all */
bool session_stored(const struct session *s);
void session_set_stored(struct session *s);
struct slice session_key_id(const struct session *s);

/* ---- uploads (upload.c): bytes of an object that is not named yet ---- */
void session_lock(struct session *s);
void session_unlock(struct session *s);
struct list *session_uploads(struct session *s); /* of struct upload; under the lock */
bool uploads_busy(struct list *uploads);         /* a request is using one of them */
void uploads_drop(struct list *uploads);         /* settles and frees all of them */
