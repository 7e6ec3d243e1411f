/* SPDX-License-Identifier: Apache-2.0 */
/* sim_clock.c -- common/clock.h on the clocks of a simulated world, for programs that call
 * sim_clock_use(): the linker then takes these instead of common/clock.c. A power cut is a reboot:
 * boottime begins again, monotonic time goes on. */
#include "common/clock.h"

#include <time.h>

#include "sim/sim_clock.h"

static struct sim *world;
static uint64_t booted_ns;

static uint64_t read_clock(clockid_t id)
{
	struct timespec ts;

	(void)clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

void sim_clock_use(struct sim *sim)
{
	world = sim;
	booted_ns = 0;
}

void sim_clock_reboot(void)
{
	booted_ns = world != NULL ? sim_now_ns(world) : 0;
}

uint64_t clock_mono_ns(void)
{
	return world != NULL ? sim_now_ns(world) : read_clock(CLOCK_MONOTONIC);
}

uint64_t clock_boot_ns(void)
{
	return world != NULL ? sim_now_ns(world) - booted_ns : read_clock(CLOCK_BOOTTIME);
}

uint64_t clock_wall_ns(void)
{
	return world != NULL ? sim_wall_ns(world) : read_clock(CLOCK_REALTIME);
}

uint64_t clock_thread_cpu_ns(void)
{
	return read_clock(CLOCK_THREAD_CPUTIME_ID);
}
