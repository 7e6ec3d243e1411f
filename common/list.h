/* SPDX-License-Identifier: Apache-2.0 */
/* list.h -- intrusive doubly linked list with a head node. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next, *prev;
};

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void list_init(struct list *h)
{
	h->next = h->prev = h;
}
static inline bool list_empty(const struct list *h)
{
	return h->next == h;
}
static inline void list_insert(struct list *at, struct list *n)
{
	n->next = at->next;
	n->prev = at;
	at->next->prev = n;
	at->next = n;
}
static inline void list_push(struct list *h, struct list *n)
{
	list_insert(h->prev, n);
} /* at the tail */
static inline void list_remove(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}
static inline struct list *list_pop(struct list *h) /* from the head; NULL when empty */
{
	struct list *n = h->next;
	if (n == h) return NULL;
	list_remove(n);
	return n;
}
/* Moves all of `from` to the tail of `to`. */
static inline void list_splice(struct list *to, struct list *from)
{
	if (list_empty(from)) return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}
#define list_for(pos, head) for (struct list *pos = (head)->next; pos != (head); pos = pos->next)
#define list_for_safe(pos, tmp, head) \
	for (struct list *pos = (head)->next, *tmp = pos->next; pos != (head); \
		pos = tmp, tmp = pos->next)
