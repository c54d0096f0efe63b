"""A headless Chromium, driven over a pipe with its DevTools protocol: commands go in as JSON, events come out."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 300  # seconds: the machine may be busy
LAUNCH = """
import os, sys
commands, answers, *chromium = sys.argv[1:]
os.dup2(int(answers), 9)  # out of the way
os.dup2(int(commands), 3)  # where Chromium reads
os.dup2(9, 4)  # where it writes
os.execvp(chromium[0], chromium)
"""
FLAGS = "--headless --remote-debugging-pipe --no-sandbox --disable-gpu --no-first-run --disable-background-networking"


def executable() -> str | None:
    """The browser of this machine, if it has one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    def __init__(self, profile: Path) -> None:
        """profile: an empty folder for what the browser writes."""
        (theirs_in, self.out), (self.incoming, theirs_out) = os.pipe(), os.pipe()
        command = [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out)]
        chromium = [str(executable()), *FLAGS.split(), f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        pipes = (theirs_in, theirs_out)
        self.process = subprocess.Popen([*command, *chromium], pass_fds=pipes, stdout=quiet, stderr=quiet)
        for pipe in pipes:
            os.close(pipe)
        self.unread, self.number = b"", 0
        self.listeners: dict[str, Callable[[dict[str, Any]], None]] = {}

    def read(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            if not select.select([self.incoming], [], [], PATIENCE)[0]:
                raise TimeoutError(f"the browser said nothing for {PATIENCE} s")
            more = os.read(self.incoming, 1 << 16)
            if not more:
                raise ConnectionError("the browser has gone")
            self.unread += more
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)  # type: ignore[no-any-return]

    def listen(self) -> dict[str, Any]:
        """The next message; an event also goes to its session's listener."""
        message = self.read()
        if "method" in message and message.get("sessionId") in self.listeners:
            self.listeners[message["sessionId"]](message)
        return message

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """What a command answers."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        os.write(self.out, json.dumps(command | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            message = self.listen()
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]  # type: ignore[no-any-return]

    def open(self, path: Path, width: int = 1280, height: int = 900) -> Page:
        return Page(self, path, width, height)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self.out)
        os.close(self.incoming)


class Page:
    """A file shown in a window of its own. errors: what the console got; requests: each address that was asked for."""

    def __init__(self, browser: Browser, path: Path, width: int, height: int) -> None:
        self.browser, self.loaded = browser, False
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.listeners[self.session] = self.hear
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not self.loaded:
            browser.listen()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **parameters)

    def hear(self, event: dict[str, Any]) -> None:
        method, details = event["method"], event["params"]
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(details["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.errors.append(str(details["args"]))
        elif method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.errors.append(details["entry"]["text"])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, a promise's once it is there."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        return self.evaluate(f"document.querySelector({selector!r}).innerText")  # type: ignore[no-any-return]

    def press(self, key: str) -> None:
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, "Tab": 9}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def mouse(self, kind: str, x: float, y: float) -> None:
        """kind: Moved, Pressed or Released."""
        button = {} if kind == "Moved" else {"button": "left", "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **button)

    def screenshot(self, path: Path) -> None:
        """The whole page, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]))
