/* SPDX-License-Identifier: Apache-2.0 */
/* control.h -- the hidden directory .granary in the root of a mount: files that say what the program does. It is never
 * listed; who knows the name can read it.
 *
 * (1) each look-up of one of its files writes its text anew and gives it a number of its own: so what the kernel keeps
 *     of a number never changes, and reading needs no open.
 * (2) the last CONTROL_TEXTS texts are kept; an older number is ESTALE. */
#pragma once

#include <stdio.h>

#include "fuse/mount.h"

enum { CONTROL_TEXTS = 64 };

struct control *control_new(struct mount *m, struct granary_client *client, const char *source);
void control_free(struct control *c);
/* Answers what is asked of the directory and its files; false: it is none of them. */
bool control_handle(struct control *c, struct request *r);
/* Counters as lines `name value`, for `stats`. */
void control_stats(struct control *c, FILE *to);
