"""A headless Chromium, driven over a pipe with Chrome's DevTools protocol, and a server for its pages."""
import contextlib
import json
import os
import select
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
         '--disable-background-networking', '--disable-component-update', '--remote-debugging-pipe',
         '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream')

#: Longest time to wait for an answer.
SECONDS = 120


class Browser:
    """One page of a Chromium with a profile of its own.

    Args:
        program: Path of Chromium.
        profile: An empty folder.
        flags: Further command-line flags.
    """

    def __init__(self, program, profile, *flags):
        (child_in, to_child), (from_child, child_out) = os.pipe(), os.pipe()
        # Chromium reads commands from descriptor 3, and writes to 4.
        self.process = subprocess.Popen(
            ['bash', '-c', f'exec "$@" 3<&{child_in} 4>&{child_out}', 'bash', program, *FLAGS, *flags,
             f'--user-data-dir={profile}', 'about:blank'], pass_fds=(child_in, child_out), stderr=subprocess.DEVNULL)
        os.close(child_in)
        os.close(child_out)
        self._commands, self._answers, self._received = os.fdopen(to_child, 'wb', 0), from_child, b''
        self._number, self._session = 0, {}
        target, = (info for info in self.send('Target.getTargets')['targetInfos'] if info['type'] == 'page')
        self._session = {'sessionId': self.send('Target.attachToTarget', targetId=target['targetId'],
                                                flatten=True)['sessionId']}

    def send(self, method, **parameters):
        """Send a command, and wait for its result."""
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': parameters, **self._session}
        self._commands.write(json.dumps(message).encode() + b'\0')
        while (answer := json.loads(self._read())).get('id') != self._number:
            pass  # events
        assert 'error' not in answer, answer
        return answer['result']

    def _read(self):
        while b'\0' not in self._received:
            if not select.select([self._answers], [], [], SECONDS)[0]:
                raise TimeoutError(f'Chromium has not answered for {SECONDS} s')
            self._received += (chunk := os.read(self._answers, 1 << 20))
            assert chunk, 'Chromium has ended'
        message, _, self._received = self._received.partition(b'\0')
        return message

    def evaluate(self, expression):
        """The value of a JavaScript expression in the page; waits for promises."""
        result = self.send('Runtime.evaluate', expression=f'(async () => {expression})()', awaitPromise=True,
                           returnByValue=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def wait(self, condition):
        """Wait until a JavaScript expression, which may await promises, is true."""
        self.evaluate(f'{{ while (!({condition})) await new Promise(go => setTimeout(go, 30)) }}')

    def open(self, url):
        """Open a page, and wait until it is loaded."""
        self.send('Page.navigate', url=url)
        self.evaluate('new Promise(done => document.readyState == "complete" ? done() : onload = done)')

    def choose(self, selector, *paths):
        """Choose files in an input of the page."""
        root = self.send('DOM.getDocument')['root']['nodeId']
        node = self.send('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.send('DOM.setFileInputFiles', nodeId=node, files=[str(path) for path in paths])

    def click(self, x, y, modifiers=0):
        """Click on a point of the page; modifiers 8 is the shift key."""
        for kind in ('mousePressed', 'mouseReleased'):
            self.send('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1, modifiers=modifiers)

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self._commands.close()
        os.close(self._answers)


@contextlib.contextmanager
def serve(folder, handler=SimpleHTTPRequestHandler):
    """Serve a folder; yields the address."""
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()
