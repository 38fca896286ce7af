"""Runs the commands of the set-up: output into a log, progress onto the terminal, failures in one line."""
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

#: What pip or the compiler prints when it fails -> what the user can do about it.
FAILURES = (
    (r'No space left on device|Errno 28',
     'the disk is full: free some space, or choose another place with VENV= (and TMPDIR= for the downloads)'),
    (r'NewConnectionError|ConnectTimeoutError|ReadTimeoutError|ProxyError|NameResolutionError|Failed to resolve'
     r'|Connection refused|Network is unreachable',
     'the package index cannot be reached: check the network, the proxy, or the index in `pip config list`'),
    (r'Python\.h: No such file', "Python's headers are missing: apt-get install python3-dev"),
    (r'Killed signal|out of memory|internal compiler error', 'no memory is left: try again with MAX_JOBS=1'),
    (r'mmcv/_ext.*(undefined symbol|cannot open)',
     'this mmcv wheel was built for another torch: give another, MMCV_WHEELS=, or remove it from the cache'),
    (r'No matching distribution found for (\S+)', 'there is no {0} for this Python where pip looks'),
)

#: Lines of pip and ninja that tell how far a long command is.
TELLING = (r'\s*(\[\d+/\d+\])', r'\s*(Downloading \S+ \(.*\))', r'(Installing collected packages)',
           r'\s*(Building wheel for \S+)')


class SetupError(Exception):
    """Why the set-up cannot go on, in one line that says what to do."""


def run(command, what, log, env=None):
    """Run a command and wait for it.

    Args:
        command: The program and its arguments.
        what: What it does, for the progress line.
        log: File to append the output to.
        env: Variables to set beside those of this process.

    Raises:
        SetupError: When it fails; says why where the output shows it.
    """
    lines = []

    def follow(stream, file):
        for line in stream:
            file.write(line)
            file.flush()
            lines.append(line)

    env = {**os.environ, 'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_NO_INPUT': '1', **(env or {})}
    env.pop('PYTHONPATH', None)
    started = time.monotonic()
    interval = 1 if sys.stdout.isatty() else 15
    with open(log, 'a') as file, subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors='replace', env=env, start_new_session=True) as process:
        reader = threading.Thread(target=follow, args=(process.stdout, file))
        reader.start()
        try:
            reader.join(interval)
            while reader.is_alive():
                report(what, time.monotonic() - started, lines)
                reader.join(interval)
        except BaseException:
            # The compilers that it started, too.
            os.killpg(process.pid, signal.SIGTERM)
            raise
    report(what, time.monotonic() - started)
    if process.returncode:
        raise SetupError(explain(what, ''.join(lines), log))


def report(what, seconds, lines=None):
    """Print how far a command is, or without lines of its output that it ended: in place on a terminal."""
    text = f'  {what}: {seconds:.0f} s{progress_of(lines or [])}'
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f'\r{text[:width]:{width}}', end='\n' if lines is None else '', flush=True)
    else:
        print(text, flush=True)


def progress_of(lines):
    """Return what the latest telling line of ninja or pip says, or nothing."""
    for line in reversed(lines[-200:]):
        for pattern in TELLING:
            found = re.match(pattern, line)
            if found:
                return f', {found.group(1)}'
    return ''


def explain(what, output, log):
    """Return why a command failed: one line where the reason is known, else the end of its output as well."""
    for pattern, advice in FAILURES:
        found = re.search(pattern, output)
        if found:
            return f'{what}: {advice.format(*found.groups())} (log: {log})'
    last = [line for line in output.splitlines() if line.strip()][-15:]
    return '\n'.join([*last, f'{what} failed; the whole output is in {log}'])
