"""The command line as a person starts it: a process of its own."""

import subprocess
import sys


def groundwire(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `groundwire ARGUMENTS`, and give what it printed."""
    code = "import sys; from groundwire.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
