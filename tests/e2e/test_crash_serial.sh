#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal: what was acknowledged survives kill -9 at any moment, also while the server recovers, seals and compacts.
# Method: 25 cycles of tools/crash-loop (500 with --long); what a slow machine cannot do in 90 s it leaves out.
set -euo pipefail
src=${GRANARY_SRC:-$(cd "$(dirname "$0")/../.." && pwd)}
cycles=25 seconds=90
[ "${GRANARY_TEST_BRIEF:-0}" != 1 ] || { cycles=5 seconds=40; }
[ "${GRANARY_TEST_LONG:-0}" != 1 ] || { cycles=500 seconds=550; }
exec python3 "$src/tools/crash-loop" "$cycles" --seconds "$seconds" --millis 10-2500 \
	${GRANARY_TEST_SEED:+--seed "$GRANARY_TEST_SEED"}
