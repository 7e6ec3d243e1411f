/* SPDX-License-Identifier: Apache-2.0 */
/* flow.h -- orders about linked sources (PROTOCOL 5.9, docs/FLOW.md). All: worker; buf gets lines, or why it failed. */
#pragma once

#include <stddef.h>

struct store;

/* argument: SOURCE \t keep|source \t BUCKET[/DIR]; SOURCE: s3://BUCKET[/PREFIX], a path, or NAME[/PREFIX] of a store */
int flow_link(struct store *store, const char *argument, char *buf, size_t cap);
int flow_refresh(struct store *store, const char *argument, char *buf, size_t cap); /* keep|source \t BUCKET[/DIR] */
int flow_verify(struct store *store, const char *argument, char *buf, size_t cap);  /* BUCKET[/DIR] */
int flow_evict(struct store *store, const char *argument, char *buf, size_t cap);   /* BUCKET[/PREFIX] */
int flow_tasks(struct store *store, char *buf, size_t cap);
int flow_report(struct store *store, const char *task, char *buf, size_t cap);
int flow_cancel(struct store *store, const char *task, char *buf, size_t cap);
