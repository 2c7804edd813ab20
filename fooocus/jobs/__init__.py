"""Durable jobs: a queue in SQLite, and one supervised worker process that works it off. Knows no picture.

Page process: take :class:`~fooocus.jobs.lock.FolderLock`, open :class:`~fooocus.jobs.store.JobStore`, construct
:class:`~fooocus.jobs.supervisor.Jobs`; close them in the reverse order. Worker process: :mod:`fooocus.jobs.worker`.
"""
