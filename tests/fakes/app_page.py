"""The program's own page process, worker and engine included, for the tests that go the whole way.

``python app_page.py SETTINGS`` where SETTINGS is JSON: ``config`` (fields of Config) and ``defaults`` (fields of
Request). Prints the address when the page answers; ends with the input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fooocus.app import run_page
from fooocus.config import load_config
from fooocus.request import Request


def main() -> None:
    """Serve until standard input ends."""
    settings = json.loads(sys.argv[1])
    config = load_config({"browser": False, "port": 0, **settings["config"]}, {}, Path(os.devnull))
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    run_page(config, Request.from_json(settings["defaults"]), lambda url: print(url, flush=True))


if __name__ == "__main__":
    main()
