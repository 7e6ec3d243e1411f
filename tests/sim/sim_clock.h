/* SPDX-License-Identifier: Apache-2.0 */
/* sim_clock.h -- makes the server's clocks those of a simulated world. */
#pragma once

#include "sim/sim.h"

void sim_clock_use(struct sim *sim); /* NULL: the machine's clocks again */
void sim_clock_reboot(void);         /* boottime begins again at 0 */
