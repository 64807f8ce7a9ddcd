"""Commands: one file each, parse, one library call, render."""

import os
import signal
import sys

if os.path.basename(sys.argv[0] if sys.argv else "").startswith(("wl-", "-c", "-m")) and (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    # This process is a command: until it runs ^C can leave nothing half-done and has nothing to tell.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
