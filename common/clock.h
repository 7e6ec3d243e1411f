/* SPDX-License-Identifier: Apache-2.0 */
/* clock.h -- reading clocks. Wall time decides only signatures, certificates and log lines (contract M). */
#pragma once

#include <stdint.h>

uint64_t clock_mono_ns(void);  /* CLOCK_MONOTONIC */
uint64_t clock_boot_ns(void);  /* CLOCK_BOOTTIME: store time advances by it */
uint64_t clock_wall_ns(void);  /* CLOCK_REALTIME */
uint64_t clock_thread_cpu_ns(void);
