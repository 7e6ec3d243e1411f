/* SPDX-License-Identifier: Apache-2.0 */
/* aside.h -- a second thread for one long work: takes one piece at a time, so that the first goes on
 * meanwhile. Invariant: pieces run in the order they were given, each after the one before ended. */
#pragma once

#include <stdbool.h>

struct aside;
/* has_thread false (the simulator): pieces run in the caller's turn. NULL: no memory or thread. */
struct aside *aside_new(bool has_thread);
void aside_free(struct aside **a); /* waits */
/* Waits for the piece before. Its error is returned, and fn is not called; else fn(arg) begins. */
int aside_run(struct aside *a, int (*fn)(void *arg), void *arg);
/* Waits until nothing runs: what the last piece returned, told once. */
int aside_wait(struct aside *a);
