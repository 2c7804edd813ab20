"""The first start: `hardware` chooses the torch build, `environment` makes `.venv`.

Only launch.py comes here, before any package is installed: this folder uses the standard library and `fooocus.errors`.
"""
