/* SPDX-License-Identifier: Apache-2.0 */
/* s3_breaker.h -- stops asking a service that does not answer.
 * closed -> open      BREAKER_FAILURES failures in a row; for PAUSE_MIN, doubled each time up to PAUSE_MAX
 * open -> trying      the pause is over and one call takes it upon itself
 * trying -> closed    that call was answered
 * trying -> open      it was not
 * Any thread; a lock held for nanoseconds. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum { BREAKER_FAILURES = 5 };

struct breaker {
	pthread_mutex_t lock;
	unsigned failures;
	bool open, trying;
	uint64_t pause_ns, until_ns;
};

void breaker_init(struct breaker *b);
void breaker_destroy(struct breaker *b);
/* true: ask, and tell the outcome with one of the two below. */
bool breaker_enter(struct breaker *b, uint64_t now_ns);
/* true: it has just closed, respectively opened: worth a log line. */
bool breaker_answered(struct breaker *b);
bool breaker_failed(struct breaker *b, uint64_t now_ns);
