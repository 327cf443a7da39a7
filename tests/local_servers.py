"""Servers on this machine, for what a line receives from and sends to."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


class WebServer:
    """Keeps what it was sent, and answers what it is told to; 200 after that."""

    def __init__(self):
        self.received, self.headers, self.answers = [], [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = outer.answers.pop(0) if outer.answers else 200
                if status == 200:
                    outer.received.append(json.loads(body))
                    outer.headers.append(self.headers)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        # Bound but not listening: nobody answers yet.
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.server_bind()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/results"

    def start(self):
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


def _numbered(number):
    """A picture, BGR, with a number in binary: two rows of eight squares that are red or black."""
    bits = (number >> np.arange(16) & 1).reshape(2, 8)
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[..., 2] = 100 * bits.repeat(24, axis=0).repeat(8, axis=1)
    return picture


def number_of(picture):
    """The number of a picture that :class:`MjpegServer` has sent, RGB."""
    bits = picture[..., 0].reshape(2, 24, 8, 8).mean(axis=(1, 3)).ravel() > 50
    return int((bits << np.arange(16)).sum())


class MjpegServer:
    """Sends numbered pictures, as a camera does over HTTP: all of them, or some to each who asks."""

    def __init__(self, frames_each=10_000):
        outer, self.sent = self, 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with suppress(OSError):
                    for _ in range(frames_each):
                        outer.sent += 1
                        _, jpeg = cv2.imencode(".jpg", _numbered(outer.sent))
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        self.wfile.write(head.encode() + jpeg.tobytes() + b"\r\n")
                        time.sleep(0.005)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/stream.mjpg"
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class RtspServer:
    """A server, and a film that is sent to it."""

    def __init__(self):
        self._server, self._ffmpeg = shutil.which("rtsp-server-perl"), shutil.which("ffmpeg")
        if self._server is None or self._ffmpeg is None:
            pytest.skip("rtsp-server-perl and ffmpeg, of the Debian packages with these names, are not installed")
        self._outlet, self._inlet = free_port(), free_port()
        self.url = f"rtsp://127.0.0.1:{self._outlet}/line"
        self._running = []

    def start(self):
        self._run(self._server, "--clientport", str(self._outlet), "--serverport", str(self._inlet))
        wait_until(lambda: is_open(self._inlet))
        film = ["-re", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=25", "-c:v", "mpeg4", "-g", "5"]
        # This server knows UDP only.
        target = ["-f", "rtsp", "-rtsp_transport", "udp", f"rtsp://127.0.0.1:{self._inlet}/line"]
        self._run(self._ffmpeg, "-loglevel", "error", *film, *target)

    def _run(self, *command):
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self._running.append(subprocess.Popen(command, **quiet))

    def stop(self):
        while self._running:
            process = self._running.pop()
            process.kill()
            process.wait(30)
