"""Serve this folder at http://localhost:8000, with the headers that threads in a browser need: serve.py [PORT]."""
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Isolated(SimpleHTTPRequestHandler):
    def end_headers(self):
        self.send_header('Cross-Origin-Opener-Policy', 'same-origin')
        self.send_header('Cross-Origin-Embedder-Policy', 'require-corp')
        super().end_headers()


if __name__ == '__main__':
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    try:
        with ThreadingHTTPServer(('127.0.0.1', port), partial(Isolated, directory=Path(__file__).parent)) as server:
            print(f'http://localhost:{port}', flush=True)
            server.serve_forever()
    except OSError as error:
        sys.exit(f'error: port {port}: {error.strerror}; choose another: serve.py PORT')
    except KeyboardInterrupt:
        pass
