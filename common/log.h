/* SPDX-License-Identifier: Apache-2.0 */
/* log.h -- one line an event on standard error: `<time> level=info msg="..." key=value`. Any thread.
 * Style: lower case, no full stop, the subject quoted, what failed first, then "; key=value". */
#pragma once

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
int log_level_parse(const char *name, enum log_level *out); /* 0 or -GRANARY_EINVAL */
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
