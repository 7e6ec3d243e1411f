/* SPDX-License-Identifier: Apache-2.0 */
/* tier.h -- orders of an admin about hot and cold (PROTOCOL 5.9). All: worker; buf gets lines, or why it failed. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct move_order;
struct store;

int tier_stores(struct store *store, char *buf, size_t cap);
/* argument: STORE \t LEVEL \t copy|demote \t BUCKET[/PREFIX] */
int tier_push(struct store *store, const char *argument, char *buf, size_t cap);
int tier_pull(struct store *store, const char *argument, char *buf, size_t cap); /* BUCKET[/PREFIX] */
/* Any order about what lies below BUCKET[/PREFIX]. */
int tier_order(struct store *store, const struct move_order *order, const char *path, char *buf, size_t cap);
int tier_drop(struct store *store, const char *argument, char *buf, size_t cap); /* cold copies,
	where there is a hot one */
int tier_tasks(struct store *store, char *buf, size_t cap);
int tier_cancel(struct store *store, const char *task, char *buf, size_t cap);
int tier_pause(struct store *store, int pause, char *buf, size_t cap);
size_t tier_status(struct store *store, char *buf, size_t cap); /* lines "name value" of the STATUS answer */
/* The packs that hold what lies below a prefix now, ascending, each once; to be freed. Rules use it too. */
int tier_packs_below(struct store *store, const char *path, uint64_t **packs, uint32_t *count, char *why,
	size_t why_cap);
