# SPDX-License-Identifier: Apache-2.0
"""What the extension calls: exceptions out of codes, and the lines that say what is waited for."""
import os
import sys

from . import errors


def make_error(code, name, text, key, endpoint, session, request):
    """The exception of a code of the library."""
    cls = errors.CLASSES.get(name, errors.Error)
    asked = f"{session:x}-{request:x}" if session and request else ""
    return cls(text, name=name, code=code, key=key, endpoint=endpoint, request_id=asked, hint=errors.HINTS.get(name, ""))


def notice(text):
    """One line on standard error, for people; GRANARY_QUIET=1 silences it."""
    if os.environ.get("GRANARY_QUIET", "0") not in ("", "0"):
        return
    try:
        print(f"granary: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        pass  # no standard error: nobody to tell
