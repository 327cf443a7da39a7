"""A page in Debian's Chromium without a window, driven by the DevTools protocol over a pipe.

https://chromedevtools.github.io/devtools-protocol/ - saves a browser driver and a library for three commands.
"""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """A page; use as context manager.

    Args:
        url: Address to open.
        profile: Empty folder for the browser's profile.
        seconds: Longest time to wait for an answer of the browser.
    """

    def __init__(self, url: str, profile: Path, seconds: float = 60) -> None:
        self.events: list[dict[str, Any]] = []
        self._seconds = seconds
        self._number = 0
        self._received = b""
        self._session: str | None = None
        for_browser, self._to = os.pipe()
        self._from, of_browser = os.pipe()
        # The browser reads descriptor 3 and writes to 4; the ones that are given to it must be others.
        given = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (for_browser, of_browser)]
        switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        chromium = [str(CHROMIUM), *switches, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{given[0]} 4>&{given[1]}', "bash", *chromium],
            pass_fds=given,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in (for_browser, of_browser, *given):
            os.close(descriptor)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        while not self.named("Page.loadEventFired"):
            self._receive()

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol, return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "result" in answer, answer
                return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression, or of what it promises."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, element: str) -> None:
        """Click the middle of the element that a JavaScript expression gives."""
        box = self.evaluate(
            f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def named(self, method: str) -> list[dict[str, Any]]:
        """Parameters of all events of a name so far."""
        return [event["params"] for event in self.events if event["method"] == method]

    def _receive(self) -> dict[str, Any]:
        """Next message of the browser."""
        end = time.monotonic() + self._seconds
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            assert ready, f"The browser has not answered for {self._seconds} s."
            part = os.read(self._from, 65536)
            assert part, "The browser has ended."
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        event = json.loads(message)
        if "method" in event:
            self.events.append(event)
        return event
