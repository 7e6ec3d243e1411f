/* SPDX-License-Identifier: Apache-2.0 */
/* lane.h -- requests that change the same object wait for each other here, in the order in which they came, rather than
 * find at the committer that they were too late. Any thread.
 * Invariants: (1) of those that entered the lane of an id the first is at work, the others wait; (2) who leaves wakes
 * the next one, once. It orders, it does not protect: that plans state what they rest on. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/list.h"

struct lanes;
struct lanes *lanes_new(void);
void lanes_free(struct lanes **lanes);

struct lane_wait {
	struct list node;
	uint64_t id;
	bool is_in;
	void (*turn)(struct lane_wait *w); /* on the thread of the one who left */
};
/* True: it is the first. Else turn() is called when it is, perhaps before this returns. */
bool lane_enter(struct lanes *lanes, struct lane_wait *w, uint64_t id);
void lane_leave(struct lanes *lanes, struct lane_wait *w); /* nothing for one that is not in */
