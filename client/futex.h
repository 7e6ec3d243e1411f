/* SPDX-License-Identifier: Apache-2.0 */
/* futex.h -- sleeping until a word changes: what a condition variable cannot do is to wake somebody who need not take
 * the lock first, and to be woken after its memory is gone (the address is only a name to the kernel). */
#pragma once

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Returns when woken, at `until_ns` (CLOCK_MONOTONIC; UINT64_MAX: never), at once when *word is another value, or for
 * no reason: the caller looks again. */
static inline void futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t until_ns)
{
	struct timespec at = { .tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = (long)(until_ns % 1000000000) };

	syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value, until_ns == UINT64_MAX ? NULL : &at, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

static inline void futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
