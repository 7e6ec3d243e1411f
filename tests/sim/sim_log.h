/* SPDX-License-Identifier: Apache-2.0 */
/* sim_log.h -- keeps the last log lines instead of printing them: a run with faults is full of
 * errors that are right. */
#pragma once

void sim_log_keep(void); /* the linker then takes common/log.h's functions from sim_log.c */
void sim_log_clear(void);
void sim_log_print(void); /* what was kept, to standard error */
