"""A page process whose wanted files are small ones of a fake hub: the first start, without 13 GB.

``python first_run_page.py SETTINGS`` where SETTINGS is that of ``page_process.py`` and ``first_run``: ``entries``
(fields of Entry), ``environment`` (what HubSettings gets), ``home`` (the home folder, where copies are looked for) and
``patience`` (fields of Patience).
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

from fooocus.config import load_config
from fooocus.jobs.store import JobStore
from fooocus.jobs.supervisor import Jobs
from fooocus.models.catalogue import FOLDERS, Entry
from fooocus.models.download import Patience
from fooocus.models.fetch import HubSettings
from fooocus.models.first_run import FirstRun, Places
from fooocus.request import Request
from fooocus.ui.server import serve
from tests.compiled import share


def main() -> None:
    """Serve until standard input ends."""
    settings = json.loads(sys.argv[1])
    given = settings["first_run"]
    os.environ.update(HOME=given["home"], USERPROFILE=given["home"])
    config = load_config({"browser": False, "port": 0, **settings["config"]}, {}, Path(os.devnull))
    folders = {kind: config.folders(folder) for kind, folder in FOLDERS.items()}
    share(config.data)
    places = Places(config.models.parent / "program", config.models, config.data, folders)
    hub = HubSettings(given["environment"], patience=Patience(**given.get("patience", {})))
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    jobs = Jobs(JobStore(config.data / "jobs.sqlite"), settings["worker"], None, config.data / "worker.log")
    with closing(jobs), closing(FirstRun(places, [Entry(**entry) for entry in given["entries"]], hub)) as run:
        run.begin()
        defaults = Request.from_json(settings["defaults"])
        serve(config, jobs, defaults, ready=lambda url: print(url, flush=True), first_run=run)


if __name__ == "__main__":
    main()
