/* SPDX-License-Identifier: Apache-2.0 */
/* ref.c -- how an object is named in a message: PROTOCOL 3.1. */
#include "client_priv.h"

size_t text_size(const char *s)
{
	return 2 + (s ? strlen(s) : 0);
}

void text_encode(struct wr *w, const char *s)
{
	wr_bytes16(w, s ? slice_str(s) : slice_of(NULL, 0));
}

int ref_check(const struct granary_ref *ref)
{
	if (ref->kind < GRANARY_REF_KEY || ref->kind > GRANARY_REF_ID || (ref->kind != GRANARY_REF_ID && !ref->name))
		return -GRANARY_EINVAL;
	return ref->name && strnlen(ref->name, UINT16_MAX + 1) > UINT16_MAX ? -GRANARY_ENAME : 0;
}

size_t ref_size(const struct granary_ref *ref)
{
	return 1 + 16 + text_size(ref->name);
}

void ref_encode(struct wr *w, const struct granary_ref *ref)
{
	wr_u8(w, (uint8_t)ref->kind);
	if (ref->kind == GRANARY_REF_ID)
		wr_u64(w, ref->object_id);
	if (ref->kind != GRANARY_REF_KEY)
		wr_u64(w, ref->dir_id);
	text_encode(w, ref->name);
}

int refs_enter(struct granary_client *c, const struct granary_ref *a, const struct granary_ref *b)
{
	int err = client_enter(c);

	if (err < 0)
		return err;
	err = ref_check(a);
	if (err == 0 && b)
		err = ref_check(b);
	return err < 0 ? error_fail(c, err, "no name given, or too long a one") : 0;
}
