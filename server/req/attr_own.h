/* SPDX-License-Identifier: Apache-2.0 */
/* attr_own.h -- private to req/: extended attributes that the store answers itself (PROTOCOL 4.11). They stand in no
 * row and in no list of names; but for the pin they cannot be set. */
#pragma once

#include "meta/rows.h"
#include "req/kind.h"

enum { OWN_VALUE_MAX = BUCKET_LEN_MAX + 1 + 2 * KEY_LEN_MAX + 2 };

bool own_is(struct slice name); /* one of user.granary.... */
/* Its value of what ref (judged by auth_ref_found) names. The length, or NOATTR, UNSUPPORTED. Worker. */
int64_t own_get(struct store *store, const struct ns_ref *ref, const struct object *o, struct slice name,
	char out[OWN_VALUE_MAX]);
/* The pin: "1" sets it, "0" takes it away, as removing does. UNSUPPORTED: another one; INVAL: another value; EXIST,
 * NOATTR: as `how` (XATTR_...) says. Committed. Worker. */
int own_set(struct store *store, const struct ns_ref *ref, struct slice name, struct slice value, uint8_t how);
