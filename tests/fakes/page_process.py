"""A whole page process for the browser tests: queue, worker and server, without the composition root.

``python page_process.py SETTINGS`` where SETTINGS is JSON: ``config`` (fields of Config), ``worker`` (the command of
the worker process), ``defaults`` (fields of Request). Prints the address when the page answers; ends with the input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

from fooocus.config import load_config
from fooocus.jobs.store import JobStore
from fooocus.jobs.supervisor import Jobs
from fooocus.request import Request
from fooocus.ui.server import serve
from tests.compiled import share


def main() -> None:
    """Serve until standard input ends."""
    settings = json.loads(sys.argv[1])
    config = load_config({"browser": False, "port": 0, **settings["config"]}, {}, Path(os.devnull))
    config.data.mkdir(parents=True, exist_ok=True)
    share(config.data)
    jobs = Jobs(JobStore(config.data / "jobs.sqlite"), settings["worker"], None, config.data / "worker.log")
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    serve(config, jobs, Request.from_json(settings["defaults"]), ready=lambda url: print(url, flush=True))
    jobs.close()
    jobs.store.close()
    print("closed", flush=True)


if __name__ == "__main__":
    main()
