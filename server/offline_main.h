/* SPDX-License-Identifier: Apache-2.0 */
/* offline_main.h -- granaryd --restore, --rebuild: what the person sees of req/offline.h. */
#pragma once

struct config;
struct options;

/* Exit code: 0 all is back; 3 it is, but something named in the output is lost; 1 failed; 2 wrong option. */
int offline_main(const struct options *options, const struct config *config);
