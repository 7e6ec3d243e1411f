/* SPDX-License-Identifier: Apache-2.0 */
/* log.h -- what granary-mount says: to the terminal, and once it serves in the background to the system's log. */
#pragma once

void log_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Lets go of the terminal: who waits for the end of the command's output must not wait for the mount's. */
void log_detach(void);
